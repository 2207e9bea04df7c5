"""Clips of video files for viewing; pictures and films as bytes of PNG, GIF and MP4.

Path('masks.gif').write_bytes(gif(film, rate=8))
"""

import io
import os
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from vmae_jax.data.crop import centre_box, crop_resize, resize
from vmae_jax.data.frames import Shrink
from vmae_jax.data.sampling import dense_indices
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError
from vmae_jax.types import UInt8


def png(picture: UInt8[np.ndarray, 'H W 3']) -> bytes:
  """A picture as a PNG."""
  file = io.BytesIO()
  # Without `optimize`, which takes seven times as long for 3 % fewer bytes.
  Image.fromarray(picture).save(file, 'PNG')
  return file.getvalue()


def gif(film: UInt8[np.ndarray, 'T H W 3'], *, rate: float | int) -> bytes:
  """A film as a GIF that loops; the time of a frame is rounded to hundredths of a second."""
  _check(film, rate)
  # Without dithering, which would flicker from frame to frame.
  first, *others = (
    Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    for frame in film
  )
  file = io.BytesIO()
  duration = max(20, round(1000 / rate / 10) * 10)
  first.save(file, 'GIF', save_all=True, append_images=others, duration=duration, loop=0)
  return file.getvalue()


def mp4(film: UInt8[np.ndarray, 'T H W 3'], *, rate: float | int) -> bytes:
  """A film as H.264 in an MP4 that browsers play; an odd last row or column is cut off."""
  _check(film, rate)
  height, width = (side // 2 * 2 for side in film.shape[1:3])
  file = io.BytesIO()
  with av.open(file, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=Fraction(rate).limit_denominator(1000))
    stream.height, stream.width, stream.pix_fmt = height, width, 'yuv420p'
    stream.options = {'crf': '18'}
    for frame in film[:, :height, :width]:
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return file.getvalue()


def _check(film: UInt8[np.ndarray, 'T H W 3'], rate: float | int) -> None:
  if not len(film):
    raise UserError('a film needs at least one frame, this one has none.')
  if rate <= 0:
    raise UserError(f'the rate of a film is {rate:g} frames a second: it must be above 0.')


def read_square(
  path: str | os.PathLike, *, frames: int, size: int, stride: int
) -> UInt8[np.ndarray, 'T H W 3']:
  """The middle of a video, in time and space, as models see it in a test.

  The clip has `frames` frames that are `stride` video frames apart (a shorter video repeats its
  last one), of `size` x `size` pixels.

  Raises:
    UserError: the video cannot be read.
  """

  def choose(count: int) -> list[int]:
    return dense_indices(count, frames=frames, stride=stride, rng=None).tolist()

  def square(frame: UInt8[np.ndarray, 'H W 3']) -> UInt8[np.ndarray, 'S S 3']:
    return crop_resize(frame, centre_box(*frame.shape[:2]), size)

  return _read(path, choose, square)


def read_whole(
  path: str | os.PathLike, *, frames: int, longest: int, stride: int = 1
) -> UInt8[np.ndarray, 'T H W 3']:
  """At most `frames` whole frames from the start of a video, `stride` video frames apart.

  They are made smaller if a side is longer than `longest` pixels.

  Raises:
    UserError: the video cannot be read.
  """

  def small(frame: UInt8[np.ndarray, 'H W 3']) -> UInt8[np.ndarray, 'h w 3']:
    height, width = frame.shape[:2]
    scale = min(1.0, longest / max(height, width))
    return resize(frame, (round(height * scale), round(width * scale)))

  return _read(path, lambda count: list(range(0, count, stride))[:frames], small)


def _read(
  path: str | os.PathLike, choose: Callable[[int], list[int]], shrink: Shrink
) -> UInt8[np.ndarray, '...']:
  """The frames whose indices `choose` returns for a number of frames, each after `shrink`."""
  try:
    with Video(path) as video:
      return video.read(choose(video.num_frames), shrink=shrink)
  except VideoError as e:
    raise UserError(f'{path}: {e}; give a video file that can be read.') from e
