"""What comes of decoding: an error, or frames, which are turned, shrunk, put into a clip."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import av
import numpy as np
from av.sidedata.sidedata import Type

from vmae_jax.types import Int, UInt8

# What becomes of a frame before it is kept, such as a part of it at another size.
Shrink = Callable[[UInt8[np.ndarray, 'H W 3']], UInt8[np.ndarray, 'h w 3']]


class VideoError(Exception):
  """A video that cannot be read; the message is the reason, in one line, without the path."""


@contextmanager
def libav_errors() -> Iterator[None]:
  """Turns whatever a damaged file makes PyAV raise into a VideoError."""
  try:
    yield
  except (av.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as e:
    text = getattr(e, 'strerror', None) or str(e) or type(e).__name__
    raise VideoError(' '.join(text.split())) from e


@contextmanager
def libav_says() -> Iterator[list[str]]:
  """A list of the errors that libav logs meanwhile, in this thread."""
  said: list[str] = []
  av.logging.set_level(av.logging.ERROR)
  av.logging.set_skip_repeated(False)
  try:
    with av.logging.Capture(local=True) as lines:
      yield said
      said += dict.fromkeys(f'{name}: {" ".join(text.split())}' for _, name, text in lines)
  finally:
    av.logging.set_level(None)


def display_matrix(frame: av.VideoFrame) -> Int[np.ndarray, '3 3'] | None:
  """Where the frame's points are shown; None where it says nothing.

  A point (x, y, 1) of the stored picture is shown at (x, y, 1) @ matrix, x to the right and y
  down, in libav's fixed-point numbers.
  """
  stored = frame.side_data.get(Type.DISPLAYMATRIX)
  return None if stored is None else np.frombuffer(bytes(stored), np.int32).reshape(3, 3)


def orient(image: UInt8[np.ndarray, 'H W 3'], frame: av.VideoFrame) -> UInt8[np.ndarray, '... 3']:
  """The image of a frame as it is shown: one of eight orientations, other angles by the nearest."""
  matrix = display_matrix(frame)
  if matrix is None or not matrix[:2, :2].any():
    return image
  (a, b), (c, d) = matrix[:2, :2].astype(int)
  if abs(a) + abs(d) < abs(b) + abs(c):  # x is shown along y.
    image, a, d = image.transpose(1, 0, 2), c, b
  return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def digest(image: UInt8[np.ndarray, 'H W 3']) -> UInt8[np.ndarray, '1 4 3']:
  """Few bytes that tell an image from others."""
  return np.frombuffer(hashlib.md5(image.tobytes()).digest()[:12], np.uint8).reshape(1, 4, 3)


class Clip:
  """Frames that are put together one by one, in one array.

  Args:
    indices: The video's frames that it consists of.
    shrink: What becomes of each; None keeps it.
  """

  frames: UInt8[np.ndarray, 'T H W 3']

  def __init__(self, indices: Sequence[int] | Int[np.ndarray, ' T'], shrink: Shrink | None):
    self._indices = np.asarray(indices)
    self._shrink = shrink
    self._missing = set(self._indices.tolist())
    self._shape = None

  @property
  def full(self) -> bool:
    return not self._missing

  def fill(self, images: Iterable[tuple[int, UInt8[np.ndarray, 'H W 3']]]) -> None:
    """Takes frames with their indices, in any order.

    Raises:
      VideoError: frames are not all of one size.
    """
    for i, image in images:
      if image.shape != (self._shape or image.shape):
        raise VideoError('frames are not all of one size')
      image, self._shape = image if self._shrink is None else self._shrink(image), image.shape
      if not hasattr(self, 'frames'):
        self.frames = np.empty((len(self._indices), *image.shape), np.uint8)
      self.frames[self._indices == i] = image
      self._missing.discard(i)
