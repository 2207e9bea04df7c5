"""Which frames of a video make a clip.

In all functions `num_frames` is the length of the video, `frames` that of the clip, and `stride`
the number of video frames from one clip frame to the next; `rng` None takes the middle.
"""

import numpy as np

from vmae_jax.types import Int

ORDERS = ('hashed', 'added')  # How the order of samples follows from seed and epoch.
SAMPLINGS = ('dense', 'linspace', 'segment')


def clip_indices(
  num_frames: int,
  *,
  sampling: str,
  frames: int,
  stride: int,
  rng: np.random.Generator | None,
  released_end: bool = False,
) -> Int[np.ndarray, ' T']:
  """The frames that one of SAMPLINGS chooses."""
  if sampling == 'segment':
    return segment_indices(num_frames, frames=frames, rng=rng)
  if sampling == 'linspace':
    return linspace_indices(num_frames, frames=frames, stride=stride, rng=rng)
  return dense_indices(num_frames, frames=frames, stride=stride, rng=rng, released_end=released_end)


def dense_indices(
  num_frames: int,
  *,
  frames: int,
  stride: int,
  rng: np.random.Generator | None,
  released_end: bool = False,
) -> Int[np.ndarray, ' T']:
  """Frames at a fixed stride from a random start, as in VideoMAE's pre-training.

  A video shorter than `frames * stride` starts at 0 and repeats the last frame that it reaches.

  With `released_end`, as in VideoMAE's released code, a clip that would end with the video's very
  last frame repeats the frame before (kinetics.py advances only while offset + stride < length,
  with offset counted from 1). It differs at stride 1 for the last start, and in short videos; the
  repeated frame shows no motion to learn from.
  """
  starts = max(1, num_frames - frames * stride + 1)
  start = (starts - 1) // 2 if rng is None else int(rng.integers(starts))
  steps = max(0, (num_frames - 1 - released_end - start) // stride)
  return start + stride * np.minimum(np.arange(frames), steps)


def linspace_indices(
  num_frames: int, *, frames: int, stride: int, rng: np.random.Generator | None
) -> Int[np.ndarray, ' T']:
  """Frames spread over a window of `frames * stride`, both ends included (VideoMAE's fine-tuning).

  16 frames of stride 4 are 64 / 15 apart. In a video that is no longer than the window, one for
  every `stride` frames is spread over the whole video, and its last frame is repeated.

  Source: VideoClsDataset.loadvideo_decord of VideoMAE's kinetics.py.
  """
  window = frames * stride
  if num_frames <= window:
    spread = np.linspace(0, num_frames, num_frames // stride)
    at = np.pad(spread, (0, frames - len(spread)), constant_values=num_frames)
    return np.minimum(at, num_frames - 1).astype(int)
  starts = num_frames - window
  start = (starts - 1) // 2 if rng is None else int(rng.integers(starts))
  return np.minimum(np.linspace(start, start + window, frames), start + window - 1).astype(int)


def segment_indices(
  num_frames: int, *, frames: int, rng: np.random.Generator | None
) -> Int[np.ndarray, ' T']:
  """One frame from each of `frames` equal segments, as for Something-Something V2.

  The segments cover the whole video, also where `frames` does not divide its length (the
  released code leaves the rest out, and makes a still of a video shorter than the clip); in a
  shorter video neighbours share a frame.
  """
  edges = np.arange(frames + 1) * num_frames // frames
  first, last = edges[:-1], np.maximum(edges[1:] - 1, edges[:-1])
  return (first + last) // 2 if rng is None else rng.integers(first, last + 1)


def dense_views(
  num_frames: int, *, frames: int, stride: int, segments: int
) -> Int[np.ndarray, 'segments T']:
  """Windows of `frames` frames, spread evenly over every `stride`-th frame of the video.

  A video that is too short for one window repeats the last of these frames. One segment is the
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
  """Frames over the whole video; clip i lies i / segments of a step later, a single one 1 / 2.

  Source: VideoMAE's test protocol for Something-Something V2, where `segments` is 2.
  """
  shift = (np.arange(segments) if segments > 1 else np.array([0.5]))[:, None] / segments
  at = (np.arange(frames) + shift) * num_frames / frames
  return np.minimum(at.astype(int), num_frames - 1)
