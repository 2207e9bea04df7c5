"""From one visit of a video to its clips: choose frames, decode once, cut.

Everything random is a function of (seed, epoch, sample, repeat), never of the process, the
thread or what was drawn before.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import logging

from vmae_jax.data import crop as crops
from vmae_jax.data.augment import RandAugment, apply
from vmae_jax.data.sampling import SAMPLINGS, clip_indices, dense_views, segment_views
from vmae_jax.data.sources import Frames, Source
from vmae_jax.errors import (
  UNAVAILABLE,
  Unavailable,
  UserError,
  VideoError,
  check_name,
  may_pass,
)
from vmae_jax.patience import Closed
from vmae_jax.types import UInt8

# What is no fault of the sample that was being read.
NOT_ITS_FAULT = (UserError, Unavailable, Closed)
CROPS = ('multi_scale', 'resized', 'centre')

MAX_ATTEMPTS = 16
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0  # Seconds from one try to the next.
# Keeps the draws for replacements apart from those for repeats, whose last word is 1 + repeat.
_REPLACEMENTS = 10**6

Frame = UInt8[np.ndarray, 'H W 3']
Square = UInt8[np.ndarray, 'S S 3']


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
  """How clips are drawn; a call draws them for one visit.

  Attributes:
    frames: Frames in a clip.
    size: Height and width of a clip.
    stride: Video frames from one clip frame to the next, for dense sampling.
    sampling: 'dense', 'linspace' or 'segment', see `vmae_jax.data.sampling`.
    released_end: See `vmae_jax.data.sampling.dense_indices`.
    crop: 'multi_scale', 'resized' or 'centre', see `vmae_jax.data.crop`.
    area: Bounds of the share of the picture that the crop 'resized' takes.
    resampling: 'antialiased' or 'bilinear', see `vmae_jax.data.crop.resize`.
    augment: What changes whole frames before a training clip is cut; None for nothing.
    flip: Whether half of the clips are mirrored. Wrong where left and right have a meaning.
    repeats: Clips cut from one decoded video: the same frames, each with its own crop.
    window: If not 0, so many neighbouring video frames come with each time slot of the clip,
      from the slot's first frame on: motion at the video's own rate.
    slot: Clip frames in a time slot.
    seed: Of the run.
    train: False takes the middle frames and the centre, without a flip.
  """

  frames: int = 16
  size: int = 224
  stride: int = 4
  sampling: str = 'dense'
  released_end: bool = False
  crop: str = 'multi_scale'
  area: tuple[float, float] = (0.5, 1.0)
  resampling: str = 'antialiased'
  augment: RandAugment | None = None
  flip: bool = False
  repeats: int = 1
  window: int = 0
  slot: int = 2
  seed: int = 0
  train: bool = True

  def __post_init__(self):
    check_name(self.sampling, SAMPLINGS, 'data.sampling')
    check_name(self.crop, CROPS, 'data.crop')
    check_name(self.resampling, crops.RESAMPLINGS, 'data.resampling')
    for name in ('frames', 'size', 'stride', 'repeats'):
      if getattr(self, name) < 1:
        raise UserError(f'data.{name} is {getattr(self, name)}: it must be at least 1.')

  def __call__(self, source: Source, epoch: int, sample: int) -> dict[str, Any]:
    """Draws the clips of one visit.

    A video that cannot be read is replaced by another that the same numbers always lead to.

    Args:
      source: The data set.
      epoch: Which pass over the data set.
      sample: Which video, in [0, len(source)).

    Returns:
      video: UInt8 'r T S S 3'; window, if asked for: UInt8 'r t w S S 3'; label: of the video
      that was read, -1 if unknown; replaced: whether it is another one than asked for;
      failures: a list of (name, reason).

    Raises:
      Unavailable: two videos in a row cannot be read although a second try might mend each.
      UserError: MAX_ATTEMPTS videos in a row cannot be read. Was something else than a
        VideoError among the reasons, that is raised.
    """
    failures, bug, away = [], None, set()
    for attempt in range(MAX_ATTEMPTS):
      i = sample
      if attempt:
        rng = np.random.default_rng([self.seed, epoch, sample, _REPLACEMENTS + attempt])
        i = int(rng.integers(len(source)))
      try:
        clips = ask_again(source, i, lambda i=i: self._read(source, i, epoch, sample))
      except NOT_ITS_FAULT:
        raise
      except Exception as e:  # Whatever one video causes must not end a run at every restart.
        bug = bug if isinstance(e, VideoError) else e
        if may_pass(e):
          away.add(i)
        failures.append((source.name(i), UNAVAILABLE * (i in away) + reason(e)))
        if len(away) > 1:  # One file may lie where the disk is damaged.
          raise Unavailable(
            f'two videos in a row cannot be read, last {source.name(i)} ({reason(e)}): is the '
            'disk, mount or store that they lie on alive?'
          ) from None  # Grain would add lines of its own.
        continue
      return dict(clips, label=source.label(i), replaced=attempt > 0, failures=failures)
    if bug is not None:  # Then it is hardly the videos' fault.
      raise bug
    raise UserError(
      f'{MAX_ATTEMPTS} videos in a row cannot be read, such as {failures[0][0]} '
      f'({failures[0][1]}): run python -m vmae_jax.check_data on the data.'
    )

  def _read(
    self, source: Source, i: int, epoch: int, sample: int
  ) -> dict[str, UInt8[np.ndarray, 'r ...']]:
    rng = np.random.default_rng([self.seed, epoch, sample, 0]) if self.train else None
    with source.open(i) as video:
      if video.num_frames < 1:
        raise VideoError('no frames')
      indices = clip_indices(
        video.num_frames,
        sampling=self.sampling,
        frames=self.frames,
        stride=self.stride,
        rng=rng,
        released_end=self.released_end,
      )
      wanted = indices
      if self.window:  # Decoded at once; beyond the video's end its last frame stays.
        windows = indices[:: self.slot, None] + np.arange(self.window)
        wanted = np.concatenate([indices, np.minimum(windows, video.num_frames - 1).ravel()])
      cuts: list[Callable[[Frame], Square]] = []

      def squares(frame: Frame) -> list[Square]:
        if not cuts:  # Boxes depend on the picture's size.
          size = frame.shape[:2]
          cuts.extend(self._draw_cut(*size, epoch, sample, r) for r in range(self.repeats))
        return [cut(frame) for cut in cuts]

      read, where = np.unique(wanted, return_inverse=True)
      clips = read_squares(video, read, squares)[:, where]
    parts = {'video': clips[:, : self.frames]}
    if self.window:
      shape = (self.repeats, len(windows), self.window, *clips.shape[2:])
      parts['window'] = clips[:, self.frames :].reshape(shape)
    return parts

  def _draw_cut(
    self, height: int, width: int, epoch: int, sample: int, repeat: int
  ) -> Callable[[Frame], Square]:
    """What makes one clip's squares of the frames of a video, which are of this size."""
    rng = np.random.default_rng([self.seed, epoch, sample, 1 + repeat])
    look = self.augment.draw(rng) if self.train and self.augment else []
    if not self.train or self.crop == 'centre':
      box = crops.centre_box(height, width)
    elif self.crop == 'multi_scale':
      box = crops.multi_scale_box(height, width, size=self.size, rng=rng)
    else:
      box = crops.resized_box(height, width, rng=rng, area=self.area)
    flip = self.train and self.flip and bool(rng.random() < 0.5)

    def cut(frame: Frame) -> Square:
      frame = apply(look, frame)
      return crops.crop_resize(frame, box, self.size, flip=flip, resampling=self.resampling)

    return cut


def read_squares(
  video: Frames, indices: np.ndarray, squares: Callable[[Frame], Sequence[Square]]
) -> UInt8[np.ndarray, 'r T S S 3']:
  """The squares that are cut out of each of these frames as it is decoded; no frame is kept."""
  stacked = video.read(indices, shrink=lambda frame: np.concatenate(squares(frame)))
  count, height, width, _ = stacked.shape
  return stacked.reshape(count, height // width, width, width, 3).swapaxes(0, 1)


def ask_again(source: Source, i: int, read: Callable[[], Any]) -> Any:
  """What `read()` returns; it is called again for a while if a second try may mend what failed.

  Args:
    source: Its `try_for`, where it has one, is how many seconds that may take; its `given_up`
      are the videos that it took in vain.
    i: Which video, for the message.
    read: Reads it.
  """
  given_up = getattr(source, 'given_up', set())
  end = time.monotonic() + (0.0 if i in given_up else getattr(source, 'try_for', 0.0))
  pause = FIRST_PAUSE
  while True:
    try:
      return read()
    except NOT_ITS_FAULT:
      raise
    except Exception as e:
      if not may_pass(e):
        raise
      if time.monotonic() + pause > end:
        given_up.add(i)
        raise
      logging.warning('%s: %s; trying again.', source.name(i), reason(e))
    time.sleep(pause * random.uniform(0.5, 1.5))  # Lest all ask at once.
    pause = min(2 * pause, LAST_PAUSE)


def reason(error: Exception) -> str:
  """Why a video could not be read, in one line."""
  text = ' '.join(str(error).split())
  return text if isinstance(error, VideoError) else f'{type(error).__name__}: {text}'


@dataclass(frozen=True, kw_only=True)
class ViewSampler(ClipSampler):
  """Cuts all views of a video, segment by segment; nothing is random.

  Attributes:
    segments: Clips over the time of a video.
    crops: Crops of each of them.
    repeats: segments * crops.
  """

  segments: int = 1
  crops: int = 1
  train: bool = False

  def __post_init__(self):
    for name in ('segments', 'crops'):
      if getattr(self, name) < 1:
        raise UserError(f'test.{name} is {getattr(self, name)}: it must be at least 1.')
    super().__post_init__()
    if self.repeats != self.segments * self.crops:
      raise ValueError(f'{self.repeats} repeats for {self.segments} x {self.crops} views')

  def __call__(self, source: Source, epoch: int, sample: int) -> dict[str, Any]:
    """All views of one video, as `ClipSampler` gives its clips.

    A video that cannot be read is not replaced by another one: it is black and marked.
    """
    failures = []
    try:
      video = ask_again(source, sample, lambda: self._views(source, sample))
    except NOT_ITS_FAULT:
      raise
    except Exception as e:
      video = np.zeros((self.repeats, self.frames, self.size, self.size, 3), np.uint8)
      failures.append((source.name(sample), reason(e)))
    label = source.label(sample)
    return dict(video=video, label=label, replaced=bool(failures), failures=failures)

  def _views(self, source: Source, sample: int) -> UInt8[np.ndarray, 'r T S S 3']:
    with source.open(sample) as video:
      if video.num_frames < 1:
        raise VideoError('no frames')
      if self.sampling == 'segment':
        indices = segment_views(video.num_frames, frames=self.frames, segments=self.segments)
      else:
        indices = dense_views(
          video.num_frames, frames=self.frames, stride=self.stride, segments=self.segments
        )
      # Windows overlap in short videos: each frame is decoded once.
      wanted, place = np.unique(indices, return_inverse=True)
      cut = read_squares(video, wanted, self._squares)
    place = place.reshape(indices.shape)
    return np.concatenate([cut[:, place[k]] for k in range(self.segments)])

  def _squares(self, frame: Frame) -> list[Square]:
    """The crops of a frame.

    Resampling 'bilinear' makes the whole frame smaller first and cuts then, as VideoMAE's test.
    """
    if self.resampling == 'bilinear':
      height, width = frame.shape[:2]
      shorter = min(height, width)
      size = self.size * height // shorter, self.size * width // shorter
      frame = crops.resize(frame, size, resampling='bilinear')
    boxes = crops.view_boxes(*frame.shape[:2], crops=self.crops)
    return [crops.crop_resize(frame, box, self.size) for box in boxes]
