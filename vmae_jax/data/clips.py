"""From one visit of a video to its clips: choose frames, decode once, cut.

Everything random is a function of (seed, epoch, sample, repeat), never of the process, the
thread or what was drawn before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmae_jax.data import crop as crops
from vmae_jax.data.sampling import dense_indices, segment_indices
from vmae_jax.data.sources import Source
from vmae_jax.data.video import VideoError
from vmae_jax.errors import UserError, check_name
from vmae_jax.types import UInt8

SAMPLINGS = ('dense', 'segment')
CROPS = ('multi_scale', 'resized', 'centre')

MAX_ATTEMPTS = 16
# Keeps the draws for replacements apart from those for repeats, whose last word is 1 + repeat.
_REPLACEMENTS = 10**6


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
  """How clips are drawn; a call draws them for one visit.

  Attributes:
    frames: Frames in a clip.
    size: Height and width of a clip.
    stride: Video frames from one clip frame to the next, for dense sampling.
    sampling: 'dense' or 'segment', see `vmae_jax.data.sampling`.
    crop: 'multi_scale', 'resized' or 'centre', see `vmae_jax.data.crop`.
    area: Bounds of the share of the picture that the crop 'resized' takes.
    augment: (frames, rng) -> frames, before a training clip is cut; None for nothing.
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
  crop: str = 'multi_scale'
  area: tuple[float, float] = (0.5, 1.0)
  augment: Callable[..., Any] | None = None
  flip: bool = False
  repeats: int = 1
  window: int = 0
  slot: int = 2
  seed: int = 0
  train: bool = True

  def __post_init__(self):
    check_name(self.sampling, SAMPLINGS, 'data.sampling')
    check_name(self.crop, CROPS, 'data.crop')
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
      UserError: MAX_ATTEMPTS videos in a row cannot be read.
    """
    failures = []
    for attempt in range(MAX_ATTEMPTS):
      i = sample
      if attempt:
        rng = np.random.default_rng([self.seed, epoch, sample, _REPLACEMENTS + attempt])
        i = int(rng.integers(len(source)))
      try:
        clips = self._read(source, i, epoch, sample)
      except VideoError as e:
        failures.append((source.name(i), str(e)))
        continue
      return dict(clips, label=source.label(i), replaced=attempt > 0, failures=failures)
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
      if self.sampling == 'dense':
        indices = dense_indices(video.num_frames, frames=self.frames, stride=self.stride, rng=rng)
      else:
        indices = segment_indices(video.num_frames, frames=self.frames, rng=rng)
      wanted = indices
      if self.window:  # Decoded at once; beyond the video's end its last frame stays.
        windows = indices[:: self.slot, None] + np.arange(self.window)
        wanted = np.concatenate([indices, np.minimum(windows, video.num_frames - 1).ravel()])
      read, where = np.unique(wanted, return_inverse=True)
      frames = video.read(read)
    cut = np.stack([self._cut(frames, epoch, sample, r) for r in range(self.repeats)])
    clips = {'video': cut[:, where[: self.frames]]}
    if self.window:
      shape = (self.repeats, len(windows), self.window, *cut.shape[2:])
      clips['window'] = cut[:, where[self.frames :]].reshape(shape)
    return clips

  def _cut(self, frames: np.ndarray, epoch: int, sample: int, repeat: int) -> np.ndarray:
    _, height, width, _ = frames.shape
    rng = np.random.default_rng([self.seed, epoch, sample, 1 + repeat])
    if self.train and self.augment is not None:
      frames = self.augment(frames, rng)
    if not self.train or self.crop == 'centre':
      box = crops.centre_box(height, width)
    elif self.crop == 'multi_scale':
      box = crops.multi_scale_box(height, width, size=self.size, rng=rng)
    else:
      box = crops.resized_box(height, width, rng=rng, area=self.area)
    flip = self.train and self.flip and bool(rng.random() < 0.5)
    return crops.crop_resize(frames, box, self.size, flip)
