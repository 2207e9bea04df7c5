"""The clips of a multi-view test: from each video, segments in time times crops in space."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vmae_jax.data.clips import NOT_ITS_FAULT, ClipSampler, Frame, Square, read_squares, reason
from vmae_jax.data.crop import Box, crop_resize, resize
from vmae_jax.data.sources import Source
from vmae_jax.data.video import VideoError
from vmae_jax.errors import UserError
from vmae_jax.types import Int, UInt8


def dense_views(
  num_frames: int, *, frames: int, stride: int, segments: int
) -> Int[np.ndarray, 'segments T']:
  """Windows of `frames` frames, spread evenly over every `stride`-th frame of the video.

  A video that is too short for one window repeats its last frame of those. One segment is the
  middle window.

  Source: VideoMAE's test protocol for Kinetics: window i starts at i * (rest) / (segments - 1).
  """
  thinned = np.arange(0, num_frames, stride)
  rest = max(0, len(thinned) - frames)
  if segments == 1:
    starts = np.array([rest // 2])
  else:
    starts = np.arange(segments) * rest // (segments - 1)
  return thinned[np.minimum(starts[:, None] + np.arange(frames), len(thinned) - 1)]


def segment_views(num_frames: int, *, frames: int, segments: int) -> Int[np.ndarray, 'segments T']:
  """Frames over the whole video; clip i lies i / segments of a step later. One takes the middles.

  Source: VideoMAE's test protocol for Something-Something V2, where `segments` is 2.
  """
  shift = (np.arange(segments) if segments > 1 else np.array([0.5]))[:, None] / segments
  at = (np.arange(frames) + shift) * num_frames / frames
  return np.minimum(at.astype(int), num_frames - 1)


def view_boxes(height: int, width: int, *, crops: int) -> list[Box]:
  """Squares as high as the shorter side, evenly along the longer one; one is in the middle."""
  side, rest = min(height, width), abs(height - width)
  offsets = [round(rest / 2)] if crops == 1 else [i * rest // (crops - 1) for i in range(crops)]
  return [(x, 0, side, side) if width > height else (0, x, side, side) for x in offsets]


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
      video = self._views(source, sample)
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
      frame = resize(frame, size, resampling='bilinear')
    boxes = view_boxes(*frame.shape[:2], crops=self.crops)
    return [crop_resize(frame, box, self.size) for box in boxes]
