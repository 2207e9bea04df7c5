"""Clips of video files, to be looked at."""

import numpy as np
import pytest

from tests.data.clips_on_disk import write_video
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError
from vmae_jax.visualize.reading import read_square, read_whole


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp('reading') / 'a.mp4'
  write_video(path, frames=20, height=48, width=64)
  return path


def frames_of(path, indices):
  with Video(path) as video:
    return video.read(indices)


def test_square_is_the_middle(path):
  found = read_square(path, frames=4, size=48, stride=2)
  expected = frames_of(path, range(6, 14, 2))[:, :, 8:56]
  np.testing.assert_array_equal(found, expected)
  assert read_square(path, frames=4, size=32, stride=50).shape == (4, 32, 32, 3)


def test_whole_frames_from_the_first(path):
  np.testing.assert_array_equal(
    read_whole(path, frames=5, longest=100, stride=3), frames_of(path, range(0, 15, 3))
  )
  small = read_whole(path, frames=50, longest=32)
  assert small.shape == (20, 24, 32, 3)


def test_mistakes(path, tmp_path):
  with pytest.raises(UserError, match='file is missing; give a video'):
    read_square(tmp_path / 'no.mp4', frames=4, size=32, stride=1)
  broken = tmp_path / 'broken.mp4'
  broken.write_bytes(path.read_bytes()[:300])
  with pytest.raises(UserError, match='broken.mp4'):
    read_whole(broken, frames=4, longest=32)
