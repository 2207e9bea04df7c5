"""Clips to be looked at, and bytes of pictures and films, read back by other libraries' eyes."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.clips_on_disk import write_video
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError
from vmae_jax.visualize.files import gif, mp4, png, read_square, read_whole


def film(frames=3, height=34, width=40):
  """Each frame a colour of its own, a white box in it."""
  colours = np.array([(230, 20, 20), (20, 200, 40), (30, 40, 220)], np.uint8)
  out = np.broadcast_to(colours[:frames, None, None], (frames, height, width, 3)).copy()
  out[:, 4:12, 4:12] = 255
  return out


def test_png():
  picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)


def test_gif_plays_for_ever_at_its_rate():
  image = Image.open(io.BytesIO(gif(film(), rate=8)))
  assert image.format == 'GIF' and image.n_frames == 3
  assert image.info['loop'] == 0 and image.info['duration'] == 120
  for i, frame in enumerate(film()):
    image.seek(i)
    np.testing.assert_allclose(np.asarray(image.convert('RGB')), frame, atol=8)


def test_gif_of_one_frame_and_a_high_rate():
  image = Image.open(io.BytesIO(gif(film(2), rate=500)))
  assert image.info['duration'] == 20  # Browsers slow down what is shorter.
  assert Image.open(io.BytesIO(gif(film(1), rate=8))).n_frames == 1


def test_mp4():
  with av.open(io.BytesIO(mp4(film(height=35, width=41), rate=12.5))) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == 'h264' and stream.pix_fmt == 'yuv420p'
    assert float(stream.average_rate) == 12.5
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  assert np.stack(frames).shape == (3, 34, 40, 3)
  np.testing.assert_allclose(np.stack(frames)[:, 20:, 20:], film()[:, 20:, 20:], atol=12)


def test_mistakes():
  with pytest.raises(UserError, match='has none'):
    gif(film()[:0], rate=8)
  with pytest.raises(UserError, match='rate of a film is 0'):
    mp4(film(), rate=0)


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


def test_videos_that_cannot_be_read(path, tmp_path):
  with pytest.raises(UserError, match='file is missing; give a video'):
    read_square(tmp_path / 'no.mp4', frames=4, size=32, stride=1)
  broken = tmp_path / 'broken.mp4'
  broken.write_bytes(path.read_bytes()[:300])
  with pytest.raises(UserError, match='broken.mp4'):
    read_whole(broken, frames=4, longest=32)
