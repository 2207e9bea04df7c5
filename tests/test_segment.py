"""`python -m vmae_jax.segment` as a user starts it."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import started
from tests.data.clips_on_disk import write_video
from tests.evaluation.checkpoints import write_checkpoint
from tests.evaluation.test_sequences import write_davis
from vmae_jax.evaluation.sequences import read_mask, write_mask


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A run, a data set like DAVIS, a video and the mask of its first frame."""
  place = tmp_path_factory.mktemp('place')
  write_checkpoint(place / 'run')
  write_davis(place / 'davis', frames=5, size=(48, 64))
  write_video(place / 'clip.mp4', frames=5)
  mask = np.zeros((48, 64), np.uint8)
  mask[10:30, 20:40] = 255
  Image.fromarray(mask).save(place / 'mask.png')
  return place


def segment(place, *arguments, code=0):
  done = subprocess.run(
    [sys.executable, '-m', 'vmae_jax.segment', *arguments],
    env=started.environment(),
    cwd=place,
    capture_output=True,
    text=True,
  )
  assert done.returncode == code, done.stderr
  return done.stdout if code == 0 else done.stderr


SMALL = ('--size=144', '--last=2', '--radius=3')


def test_davis(place):
  arguments = ('run', '--davis=davis', '--out=results', '--preset=crw', *SMALL)
  told = segment(place, *arguments)
  assert '| 4 objects |' in told and 'preset crw' in told and 'last 2' in told
  masks = sorted((place / 'results' / 'masks').rglob('*.png'))
  assert len(masks) == 10
  first = place / 'davis/Annotations/480p/dog/00000.png'
  np.testing.assert_array_equal(read_mask(masks[5]), read_mask(first))
  with (place / 'results' / 'per-sequence_results-val.csv').open() as f:
    scores = {row['Sequence']: float(row['J-Mean']) for row in csv.DictReader(f)}
  # Random features see colours: most of each moving square is found.
  assert set(scores) == {'cow_1', 'cow_2', 'dog_1', 'dog_2'} and min(scores.values()) > 0.4
  # Once more: nothing is segmented again, and the scores are the same.
  before = [path.stat().st_mtime_ns for path in masks]
  assert segment(place, *arguments) == told
  assert [path.stat().st_mtime_ns for path in masks] == before


def test_a_video_with_a_painted_mask(place):
  told = segment(
    place, 'run', '--frames=clip.mp4', '--mask=mask.png', '--out=mine', '--clip=4', *SMALL
  )
  assert 'no ground truth' in told and (place / 'mine' / 'pictures' / 'clip.png').exists()
  masks = sorted((place / 'mine' / 'masks' / 'clip').iterdir())
  assert [path.name for path in masks] == [f'{i:05d}.png' for i in range(5)]
  assert {int(read_mask(path).max()) for path in masks} == {1}
  again = ('run', '--frames=clip.mp4', '--mask=again.png', '--out=mine', '--clip=4', *SMALL)
  shutil.copy(place / 'mask.png', place / 'again.png')
  assert segment(place, *again) == told
  write_mask(place / 'again.png', np.eye(48, 64, dtype=np.uint8))  # Another mask.
  assert 'mine/settings.json: results there are of other settings: hash_of_masks' in segment(
    place, *again, code=2
  )


def test_mistakes(place):
  write_mask(place / 'small.png', np.ones((20, 20), np.uint8))
  mine = ('--frames=clip.mp4', '--mask=mask.png')
  for arguments, parts in [
    (('run', *mine, '--preset=dine'), ["no 'dine'", "Did you mean 'dino'?", 'crw']),
    (('run', '--frames=clip.mp4', '--mask=small.png'), ['20 x 20', 'clip are 64 x 48']),
  ]:
    line = segment(place, *arguments, '--out=wrong', code=2)
    line = line.splitlines()[-1]
    assert line.startswith('error: ')
    assert [part for part in parts if part not in line] == [], line
