"""Samples that crash a process are replaced, none outlives its parent, no memory is taken twice."""

import dataclasses
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import psutil
import pytest

from tests import started
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.frames import Writer
from vmae_jax.data.loader import Loader
from vmae_jax.data.readers import Memory
from vmae_jax.data.synthetic import SyntheticSource
from vmae_jax.errors import VideoError
from vmae_jax.patience import Patience, PatientSource

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
      time.sleep(0.2)  # Meanwhile others are open.
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
  for there, here in zip(expected, found, strict=True):
    for name in there:
      np.testing.assert_array_equal(here[name], np.asarray(there[name]), err_msg=name)
  assert found.failures == expected.failures == {f'video {i}': REASON for i in crashing}
  assert found._readers.culprits == set(crashing) and not found._readers.suspects
  assert not found._readers.deaths  # All deaths had a culprit.
  expected.close()
  found.close()


LEFT_ALONE = """
import multiprocessing, sys
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.frames import Writer
from vmae_jax.data.loader import Loader
from vmae_jax.data.readers import Memory
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


def test_memory_is_not_taken_again_while_a_device_may_read_it():
  """On a CPU the device's array is that memory itself."""
  memory = Memory((2, 8, 8, 3), shared=False)
  kept = []
  for i in range(4):
    array, rows = memory.take(16)
    for row in rows:
      row.pixels[:] = i
    kept.append((jax.device_put(array), i))
    del array, rows, row
  assert len({x.unsafe_buffer_pointer() for x, _ in kept}) == 4
  assert all((np.asarray(x) == i).all() for x, i in kept)
  places = {x.unsafe_buffer_pointer() for x, _ in kept}
  kept.clear()
  gc.collect()
  again, _ = memory.take(16)
  jax.block_until_ready(jax.device_put(0))  # JAX releases what it held.
  gc.collect()
  assert len(memory.free[16]) == 3 and again.ctypes.data in places


def test_a_row_that_is_still_written_to_keeps_its_memory():
  memory = Memory((2, 8, 8, 3), shared=True)
  _, rows = memory.take(4)
  row = rows[2].pixels
  del _, rows
  gc.collect()
  assert not memory.free[4]
  del row
  gc.collect()
  assert len(memory.free[4]) == 1


class Late:
  """Reads that are waited for; the gate opens for those that come later."""

  class_names = ()

  def __init__(self):
    self.opened, self.gate, self.over = 0, threading.Event(), threading.Event()

  def __len__(self):
    return 2

  def name(self, i):
    return str(i)

  def label(self, i):
    return i

  def open(self, i):
    self.opened += 1
    return self

  num_frames = 8

  def read(self, indices, *, shrink=None, put=None):
    first = self.opened == 1
    put(0, np.full((8, 8, 3), 1 if first else 2, np.uint8))
    if first:
      self.gate.wait(60)
    try:
      for place in range(len(indices)):
        put(place, np.full((8, 8, 3), 1 if first else 2, np.uint8))
    finally:
      if first:
        self.over.set()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


@pytest.mark.parametrize('hedged', [True, False])
def test_a_read_that_was_given_up_writes_nothing_more(hedged):
  """Given up as another thread was faster, or as there was no answer."""
  source, patience = Late(), Patience(60.0 if hedged else 0.2)
  if hedged:
    patience._late = 0.05
  sampler = ClipSampler(frames=3, size=8, stride=1)
  pixels = [np.zeros((3, 9, 9, 3), np.uint8)]
  drawn = sampler.draw(PatientSource(source, patience), 0, 0, pixels)
  assert drawn['replaced'] != hedged and source.opened == 2
  x, y, w, h, _ = drawn['box'][0]
  assert (pixels[0][:, y : y + h, x : x + w] == 2).all()
  source.gate.set()
  assert source.over.wait(60)
  assert (pixels[0][:, y : y + h, x : x + w] == 2).all()
  patience.close()


def test_each_byte_is_copied_once(monkeypatch):
  """From a decoder's picture into the memory that is put on a device, which a CPU's array is."""
  copied, taken, put, take = [], set(), Writer.put, Memory.take

  def counting(self, row, place, image):
    assert image.base is not None  # A view of the picture.
    copied.append(image.nbytes)
    put(self, row, place, image)

  def noting(self, rows):
    array, places = take(self, rows)
    taken.add(array.ctypes.data)
    return array, places

  monkeypatch.setattr(Writer, 'put', counting)
  monkeypatch.setattr(Memory, 'take', noting)
  source = SyntheticSource('train', clips=8, size=36)
  sampler = ClipSampler(frames=4, size=32, stride=1, crop='centre')
  loader = Loader(source, sampler, batch_size=4, seed=0, shuffle=True, num_steps=1)
  pixels, _ = loader.next_cut()
  loader.close()
  assert sum(copied) == pixels.nbytes == 4 * 4 * 36 * 36 * 3
  assert pixels.unsafe_buffer_pointer() in taken
