"""Folders of pictures, one for each frame, read as videos, as DAVIS is published.

A video's path that ends in / is such a folder; one that ends in a picture's suffix is a video of
one frame, whose clips stand still. Pictures are turned as EXIF says.
"""

import collections
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageOps

from vmae_jax import storage
from vmae_jax.data.frames import Frame, Frames
from vmae_jax.data.lists import IMAGE_SUFFIXES
from vmae_jax.data.video import Video
from vmae_jax.errors import VideoError

RATE = 24  # Frames per second, which pictures do not say; DAVIS has 24.


def open_video(path: str, *, vectors: bool = False) -> 'Video | FrameFolder':
  """Opens a video file, a folder of frames or a picture; `vectors` is that of `Video`.

  Raises:
    VideoError: it is none of these, or frames are missing.
    OSError: the network or the disk fails.
  """
  if path.lower().endswith(('/', *IMAGE_SUFFIXES)):
    return FrameFolder(path)
  return Video(storage.video_file(path), vectors=vectors)


def order_frames(names: Iterable[str]) -> list[str]:
  """The pictures among some files, in the order of the numbers in their names.

  Raises:
    VideoError: there is none, two differ only in their suffix, or one is missing: names that are
      numbers must grow by the same step.
  """
  found = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and n[0] != '.']
  if not found:
    raise VideoError(f'no frame in the folder (looked for {" ".join(IMAGE_SUFFIXES)})')

  def parts(name: str) -> list:
    return [int(x) if x.isdecimal() else x for x in re.split(r'(\d+)', os.path.splitext(name)[0])]

  found.sort(key=parts)
  stems = [os.path.splitext(name)[0] for name in found]
  [(stem, count)] = collections.Counter(stems).most_common(1)
  if count > 1:
    raise VideoError(f'several pictures are called {stem}: keep one')
  numbers = [int(stem) for stem in stems if stem.isdecimal()]
  if len(numbers) == len(stems) > 2:
    step = min(np.diff(numbers))
    for a, b in itertools.pairwise(numbers):
      if b - a != step:
        raise VideoError(
          f'frames are missing between {a} and {b} (others are {step} apart): add them, or '
          'renumber the frames'
        )
  return found


class FrameFolder(Frames):
  """A folder of pictures, or one picture, with the interface of `Video`.

  `names` are the names of the pictures, in their order.

  Raises:
    VideoError: there is no such folder, no picture in it, or one is missing.
  """

  rate = float(RATE)
  time_base = Fraction(1, RATE)  # Seconds from one frame to the next.

  def __init__(self, folder: str | os.PathLike):
    self._folder = os.fspath(folder)
    if self._folder.lower().endswith(IMAGE_SUFFIXES) and not storage.is_folder(self._folder):
      self._folder, name = os.path.split(self._folder)
      self.names, self.num_frames = [name], 1
      return
    try:
      self.names = order_frames(storage.names(self._folder))
    except OSError as e:
      raise VideoError(f'cannot read the folder: {e.strerror or e}') from e
    self.num_frames = len(self.names)

  def file(self, i: int) -> bytes:
    """The bytes of picture i."""
    try:
      return storage.read(os.path.join(self._folder, self.names[i]))
    except OSError as e:
      raise VideoError(f'cannot read the frame {self.names[i]}: {e.strerror or e}') from e

  def _image(self, i: int) -> Frame:
    try:
      with Image.open(io.BytesIO(self.file(i))) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith('I'):  # Grey of 16 bits, which Pillow would clip at 255.
          return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        return np.asarray(image.convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
      reason = str(e).partition(' <')[0]  # Some messages end in the address of an object.
      raise VideoError(f'cannot read the frame {self.names[i]}: {reason}') from e

  @property
  def codec(self) -> str:
    """The pictures' format, such as jpg."""
    return os.path.splitext(self.names[0])[1][1:].lower()

  def images(self, wanted: list[int]) -> Iterator[tuple[int, Frame]]:
    return ((i, self._image(i)) for i in wanted)

  def decode(self) -> Iterator[av.VideoFrame]:
    """Every frame, with its time.

    Raises:
      VideoError: a picture cannot be read, or pictures are not all of one size.
    """
    shape = None
    for i in range(self.num_frames):
      image = self._image(i)
      if image.shape != (shape or image.shape):
        raise VideoError('frames are not all of one size')
      shape = image.shape
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      frame.pts, frame.time_base = i, self.time_base
      yield frame

  def check(self) -> list[str]:
    """Reads every frame and raises a VideoError as `decode` does; there are no warnings."""
    for _ in self.decode():
      pass
    return []
