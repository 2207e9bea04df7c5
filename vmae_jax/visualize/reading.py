"""A clip of a video file, to be looked at."""

import os

import numpy as np

from vmae_jax.data.crop import centre_box, crop_resize
from vmae_jax.data.sampling import dense_indices
from vmae_jax.data.video import Video, VideoError
from vmae_jax.errors import UserError
from vmae_jax.evaluation.segmentation import resize
from vmae_jax.types import UInt8


def read_square(
  path: str | os.PathLike, *, frames: int, size: int, stride: int
) -> UInt8[np.ndarray, 'T H W 3']:
  """The middle of a video, in time and space, as models see it when they are tested.

  Args:
    path: Of the file.
    frames: T; a shorter video repeats its last one.
    size: H and W.
    stride: Video frames from one to the next.

  Raises:
    UserError: the video cannot be read.
  """
  video = _open(path)
  indices = dense_indices(video.num_frames, frames=frames, stride=stride, rng=None)
  film = _read(video, path, indices.tolist())
  return crop_resize(film, centre_box(*film.shape[1:3]), size, False)


def read_whole(
  path: str | os.PathLike, *, frames: int, longest: int, stride: int = 1
) -> UInt8[np.ndarray, 'T H W 3']:
  """A video from its first frame on, whole frames, made smaller where they are large.

  Args:
    path: Of the file.
    frames: At most so many.
    longest: At most so long are the sides.
    stride: Video frames from one to the next.

  Raises:
    UserError: the video cannot be read.
  """
  video = _open(path)
  film = _read(video, path, list(range(0, video.num_frames, stride))[:frames])
  scale = min(1.0, longest / max(film.shape[1:3]))
  return resize(film, (round(film.shape[1] * scale), round(film.shape[2] * scale)))


def _open(path: str | os.PathLike) -> Video:
  try:
    return Video(path)
  except VideoError as e:
    raise UserError(f'{path}: {e}; give a video file.') from e


def _read(video: Video, path: str | os.PathLike, indices: list[int]) -> UInt8[np.ndarray, '...']:
  try:
    with video:
      return video.read(indices)
  except VideoError as e:
    raise UserError(f'{path}: {e}; give another video.') from e
