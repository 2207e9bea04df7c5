"""Clips of whole videos for a frozen model: one from the middle, or a sliding window."""

import contextlib
import queue
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vmae_jax.data.crop import centre_box, crop_resize, resize
from vmae_jax.data.sampling import clip_indices
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError, VideoError
from vmae_jax.types import Int, UInt8

AHEAD = 4  # Clips of each open video that are decoded ahead.


@dataclass(frozen=True, kw_only=True)
class Windows:
  """Which clips are cut out of a video."""

  frames: int  # Frames in a clip.
  stride: int  # Video frames from one to the next.
  hop: int  # Video frames from one clip's start to the next one's; 0 for only the middle clip.
  sampling: str  # For hop 0, one of SAMPLINGS in `vmae_jax.data.sampling`.
  # `224`: the centre square at this size, as models see it in evaluation; `480x880`: whole frames,
  # resized to these rows and columns.
  size: str

  def __post_init__(self):
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)?', self.size):
      raise UserError(
        f'size {self.size!r} is neither a side such as 224 (of the centre square) nor rows x '
        'columns such as 480x880 (whole frames).'
      )
    if self.hop and self.sampling != 'dense':
      raise UserError(f'--hop slides windows with a stride: drop --sampling={self.sampling}.')

  @property
  def sides(self) -> tuple[int, int]:
    """Rows and columns of a clip."""
    rows, _, columns = self.size.partition('x')
    return int(rows), int(columns or rows)

  def indices(self, num_frames: int) -> list[Int[np.ndarray, ' T']]:
    """The frames of the video in each clip.

    Windows start every `hop` frames; if frames are left, one more ends with the video. A video
    that is shorter than a window repeats its last frame.
    """
    if not self.hop:
      how = dict(sampling=self.sampling, frames=self.frames, stride=self.stride)
      return [clip_indices(num_frames, **how, rng=None)]
    steps = self.stride * np.arange(self.frames)
    last = max(0, num_frames - 1 - int(steps[-1]))
    starts = [*range(0, last, self.hop), last]
    return [np.minimum(start + steps, num_frames - 1) for start in starts]

  def cut(self, frame: UInt8[np.ndarray, 'H W 3']) -> UInt8[np.ndarray, 'H2 W2 3']:
    """A video frame at the clip's size."""
    if 'x' in self.size:
      return resize(frame, self.sides)
    return crop_resize(frame, centre_box(*frame.shape[:2]), self.sides[0])


class Found(NamedTuple):
  """One clip, or the end of a video: then `clip` is None, and `reason` says why if it failed."""

  video: int  # The video's number in the source.
  start: int = 0  # First frame of the clip.
  clip: UInt8[np.ndarray, 'T H W 3'] | None = None  # None at the end of the video.
  reason: str = ''  # Why the video could not be read; '' if it could.


def read_windows(
  source: Source, videos: Sequence[int], windows: Windows, *, threads: int
) -> Iterator[Found]:
  """Yields the clips of the given videos in order, and the end of each video after its clips.

  Threads decode the next few videos, at most AHEAD clips of each, which bounds memory for videos of
  any length.
  """
  stop = threading.Event()

  def clips(i: int) -> Iterator[Found]:
    try:
      with source.open(i) as video:
        if video.num_frames < 1:
          raise VideoError('no frames')
        for indices in windows.indices(video.num_frames):
          frames, where = np.unique(indices, return_inverse=True)
          yield Found(i, int(indices[0]), video.read(frames, shrink=windows.cut)[where])
      yield Found(i)
    except VideoError as e:
      yield Found(i, reason=str(e))

  def put(ready: queue.Queue, item: Found | BaseException) -> None:
    while not stop.is_set():
      with contextlib.suppress(queue.Full):
        return ready.put(item, timeout=0.1)

  def read(i: int, ready: queue.Queue) -> None:
    try:
      for item in clips(i):
        put(ready, item)
        if stop.is_set():
          return
    except BaseException as e:  # Else the caller would wait for ever.
      put(ready, e)

  pool = ThreadPoolExecutor(threads)
  left, active = deque(videos), deque()
  try:
    while left or active:
      while left and len(active) < threads:
        active.append(queue.Queue(AHEAD))
        pool.submit(read, left.popleft(), active[-1])
      while True:
        item = active[0].get()
        if isinstance(item, BaseException):
          raise item
        yield item
        if item.clip is None:
          break
      active.popleft()
  finally:
    stop.set()
    pool.shutdown(wait=True)
