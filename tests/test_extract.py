"""`python -m vmae_jax.extract` as a user starts it."""

import csv
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import started
from tests.data.clips_on_disk import write_video
from tests.evaluation.checkpoints import write_checkpoint


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A run, seven videos of 20 to 26 frames, and a broken one."""
  place = tmp_path_factory.mktemp('place')
  write_checkpoint(place / 'run')
  (place / 'videos').mkdir()
  for i in range(7):
    write_video(place / 'videos' / f'{i}.mp4', frames=20 + i)
  (place / 'videos' / 'broken.mp4').write_bytes(b'no video')
  return place


def start(place, out, *arguments, devices=1):
  command = [sys.executable, '-m', 'vmae_jax.extract', 'run', '--videos=videos', f'--out={out}']
  return subprocess.Popen(
    [*command, '--stride=1', '--hop=8', '--pool=slots', '--shard_videos=3', *arguments],
    env=started.environment(devices),
    cwd=place,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, code=0):
  out, err = process.communicate(timeout=200)
  assert process.returncode == code, err
  return out if code == 0 else err


def features(folder):
  """(file's name, first frame) -> feature, by the index."""
  with (folder / 'index.csv').open() as f:
    rows = list(csv.DictReader(f))
  files = {row['file']: load_file(folder / row['file'])['features'] for row in rows}
  found = {
    (pathlib.Path(row['path']).name, int(row['start'])): files[row['file']][int(row['row'])]
    for row in rows
  }
  assert len(found) == len(rows)
  return found


@pytest.fixture(scope='module')
def whole(place):
  told = finish(start(place, 'whole', '--batch_size=3'))
  assert 'features of 23 clips in whole/index.csv, 1 videos broken' in told
  return features(place / 'whole')


def test_all_windows_are_there(place, whole):
  assert [start for name, start in whole if name == '5.mp4'] == [0, 8, 16, 17]
  assert {x.shape for x in whole.values()} == {(4, 128)}
  for start in (0, 8):  # The videos differ in length only.
    np.testing.assert_allclose(whole['0.mp4', start], whole['6.mp4', start], atol=0.1)
  assert np.abs(whole['0.mp4', 0] - whole['0.mp4', 8]).mean() > 0.1
  lines = (place / 'whole' / 'broken.csv').read_text().splitlines()
  assert len(lines) == 2 and lines[1].startswith('videos/broken.mp4,Invalid data')


def test_many_devices_and_another_batch(place, whole):
  finish(start(place, 'many', '--batch_size=5', '--threads=3', devices=8))
  found = features(place / 'many')
  assert list(found) == list(whole)
  for key, value in whole.items():
    np.testing.assert_allclose(found[key], value, atol=1e-5)


def test_killed_and_started_again(place, whole):
  process = start(place, 'killed')
  first = place / 'killed' / '.shards' / '00000.json'
  while not first.exists() and process.poll() is None:
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  before = first.stat().st_mtime_ns
  finish(start(place, 'killed'))
  assert first.stat().st_mtime_ns == before
  found = features(place / 'killed')
  assert list(found) == list(whole)
  for key, value in whole.items():
    np.testing.assert_allclose(found[key], value, atol=1e-6)


def test_mistakes(place, whole):
  for arguments, parts in [
    (('--pool=mean',), ['other settings: pool was slots, is mean', 'another --out']),
    (('--frames=7',), ['frames 7 is no multiple of the patch, 2']),
  ]:
    *notes, line = finish(start(place, 'whole', *arguments), code=2).splitlines()
    assert line.startswith('error: '), line
    assert all('older than digests' in note for note in notes), notes
    assert [part for part in parts if part not in line] == [], line
  assert features(place / 'whole').keys() == whole.keys()


def test_a_run_that_was_trained_anew(place, whole):
  """Features of old weights are not used for new weights of the same step."""
  (place / 'run').rename(place / 'old')
  try:
    write_checkpoint(place / 'run', classifier=True)
    error = finish(start(place, 'whole'), code=2)
  finally:
    shutil.rmtree(place / 'run', ignore_errors=True)
    (place / 'old').rename(place / 'run')
  assert 'results there are of other settings: hash_of_weights was' in error
