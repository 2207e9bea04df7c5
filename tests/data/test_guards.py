"""Samples that crash a decoding process are replaced; no process outlives the one it works for."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests import started
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.synthetic import SyntheticSource
from vmae_jax.errors import VideoError

REASON = 'the process that decodes it dies'


@dataclasses.dataclass(frozen=True)
class CrashingSource:
  """Seven clips; some crash a decoding process, as a fault in a decoder does."""

  crashing: tuple[int, ...]
  source: SyntheticSource = SyntheticSource('train', clips=7, frames=8, size=16)
  class_names: tuple[str, ...] = ()

  def __len__(self):
    return len(self.source)

  def name(self, i):
    return f'video {i}'

  def label(self, i):
    return i

  def open(self, i):
    if multiprocessing.parent_process() is not None:
      time.sleep(0.2)  # Others are open meanwhile.
      if i in self.crashing:
        os.kill(os.getpid(), signal.SIGSEGV)
      time.sleep(0.2)
    elif i in self.crashing:
      raise VideoError(REASON)
    return self.source.open(i)


def start(source, **options):
  sampler = ClipSampler(frames=3, size=8, stride=2, repeats=2, seed=5)
  options = dict(batch_size=4, seed=1, shuffle=True, num_steps=12, threads=3) | options
  return Loader(source, sampler, **options)


@pytest.mark.parametrize('crashing', [(2,), (2, 5)])
def test_samples_that_crash_a_process_are_found_and_replaced(crashing):
  """As broken ones, and no other sample with them."""
  expected, found = start(CrashingSource(crashing)), start(CrashingSource(crashing), workers=2)
  folder = found._notes.folder
  for there, here in zip(expected, found, strict=True):
    for name in there:
      np.testing.assert_array_equal(here[name], np.asarray(there[name]), err_msg=name)
  assert found.failures == expected.failures == {f'video {i}': REASON for i in crashing}
  assert found._notes.culprits == frozenset(crashing) and not found._notes.suspects
  assert not found._deaths  # They are explained.
  expected.close()
  found.close()
  assert not folder.exists()


LEFT_ALONE = """
import multiprocessing, sys
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import open_source

if __name__ == '__main__':
  loader = Loader(
    open_source('synthetic:train'), ClipSampler(frames=2, size=8, stride=1), batch_size=4, seed=0,
    shuffle=True, num_steps=10**6, workers=2,
  )
  next(loader)
  print(*(child.pid for child in multiprocessing.active_children()), flush=True)
  sys.stdin.read()
"""


def test_decoding_processes_end_with_the_one_that_started_them(tmp_path):
  script = tmp_path / 'main.py'
  script.write_text(LEFT_ALONE)
  environment = started.environment(1)
  main = subprocess.Popen(
    [sys.executable, str(script)],
    env=environment,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    children = [psutil.Process(int(pid)) for pid in main.stdout.readline().split()]
    assert len(children) == 2 and all(child.is_running() for child in children)
  finally:
    main.kill()  # Its pipes stay open while its children live.
    main.wait()
  gone, alive = psutil.wait_procs(children, timeout=20)
  for child in alive:
    child.kill()
  assert not alive and len(gone) == 2
