"""Which frames of a video make a clip."""

import numpy as np

from vmae_jax.types import Int


def dense_indices(
  num_frames: int, *, frames: int, stride: int, rng: np.random.Generator | None
) -> Int[np.ndarray, ' T']:
  """Frames at a fixed stride from a random start, as VideoMAE samples Kinetics and UCF101.

  A video shorter than `frames * stride` starts at 0 and repeats the last frame that the
  released code reaches, which is never the video's very last one (kinetics.py advances only
  while offset + stride < length, with offset counted from 1).

  Args:
    num_frames: Frames in the video.
    frames: Frames in the clip.
    stride: Video frames from one to the next.
    rng: Draws the start; None takes the middle.
  """
  starts = max(1, num_frames - frames * stride + 1)
  start = (starts - 1) // 2 if rng is None else int(rng.integers(starts))
  steps = max(0, (num_frames - 2 - start) // stride)
  return start + stride * np.minimum(np.arange(frames), steps)


def segment_indices(
  num_frames: int, *, frames: int, rng: np.random.Generator | None
) -> Int[np.ndarray, ' T']:
  """One frame from each of `frames` equal segments, as for Something-Something V2.

  The segments cover the whole video, also where `frames` does not divide its length (the
  released code leaves the rest out); in a shorter video neighbours share a frame.

  Args:
    num_frames: Frames in the video.
    frames: Frames in the clip.
    rng: Draws one frame in each segment; None takes the middle ones.
  """
  edges = np.arange(frames + 1) * num_frames // frames
  first, last = edges[:-1], np.maximum(edges[1:] - 1, edges[:-1])
  return (first + last) // 2 if rng is None else rng.integers(first, last + 1)
