"""Bytes of pictures and films, read back by other libraries' eyes."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from vmae_jax.errors import UserError
from vmae_jax.visualize.files import gif, mp4, png


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
