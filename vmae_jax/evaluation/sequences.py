"""Inputs of segmentation: sequences of DAVIS, folders of frames, video files, and masks.

Masks are pictures whose pixels are numbers of objects.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vmae_jax.data.frame_folder import FrameFolder
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError
from vmae_jax.evaluation.segmentation_scores import VOID
from vmae_jax.types import UInt8
from vmae_jax.visualize.masks import MAX_OBJECTS, palette

RESOLUTION = '480p'  # The folder of DAVIS that published results use.
BLOCK = 32  # Frames of a video decoded at once, as each read decodes from a keyframe on.

Read = Callable[[Sequence[int]], UInt8[np.ndarray, 'T H W 3']]


@dataclass(frozen=True)
class Clip:
  """Frames, and the mask of the first."""

  name: str  # Name of the folder that its masks are written to.
  frames: tuple[str, ...]  # Name of each frame and its mask, without a suffix.
  read: Read  # Frame numbers -> RGB in [0, 255].
  mask: Path  # The file of the first frame's mask.
  truth: tuple[Path, ...] = ()  # The file of each frame's true mask; empty if not known.


def open_davis(folder: str | os.PathLike, split: str) -> list[Clip]:
  """The sequences of a split of DAVIS 2017, in the folder layout of its download.

  A sequence with only a first mask (test-dev) can be segmented, not scored.

  Raises:
    UserError: a folder, list, frame or mask is missing.
  """
  root = Path(folder)
  lists = root / 'ImageSets' / '2017'
  path = lists / f'{split}.txt'
  if not path.is_file():
    there = ', '.join(sorted(p.stem for p in lists.glob('*.txt'))) or 'none'
    raise UserError(
      f'{path} does not exist (splits there: {there}): give --davis the folder that holds '
      'ImageSets, JPEGImages and Annotations, and one of its splits.'
    )
  names = path.read_text(encoding='utf-8').split()
  if not names:
    raise UserError(f'{path} names no sequence.')
  return [_davis_sequence(root, name) for name in dict.fromkeys(names)]


def _davis_sequence(root: Path, name: str) -> Clip:
  pictures, masks = (root / kind / RESOLUTION / name for kind in ('JPEGImages', 'Annotations'))
  stems, read = _open_folder(pictures)
  truth = [masks / f'{stem}.png' for stem in stems]
  there = [path.is_file() for path in truth]
  if not there[0]:
    raise UserError(f'{truth[0]} does not exist: the first frame needs a mask.')
  if any(there[1:]) and not all(there):
    raise UserError(
      f'{truth[there.index(False)]} does not exist, but {sum(there)} masks of {name} do: all '
      'frames must have one, or only the first.'
    )
  if extra := sorted({path.stem for path in masks.glob('*.png')} - set(stems)):
    raise UserError(
      f'{masks / extra[0]}.png has no frame in {pictures} ({len(extra)} such): frames are missing.'
    )
  return Clip(name, stems, read, truth[0], tuple(truth) if all(there) else ())


def open_frames(path: str | os.PathLike, mask: str | os.PathLike) -> Clip:
  """A folder of frames or a video file, with the mask of its first frame.

  Raises:
    UserError: there is no such path, frames are missing, or the video cannot be read.
  """
  name = Path(path).resolve().stem
  if Path(path).is_dir():
    return Clip(name, *_open_folder(Path(path)), Path(mask))
  try:
    video = Video(path)
  except VideoError as e:
    raise UserError(f'{path}: {e}; give a folder of frames, or a video.') from e
  read_video = _with_user_errors(video.read, path)

  @functools.lru_cache(maxsize=2)
  def block(number: int) -> UInt8[np.ndarray, 'T H W 3']:
    first = number * BLOCK
    return read_video(range(first, min(first + BLOCK, video.num_frames)))

  def read(indices: Sequence[int]) -> UInt8[np.ndarray, 'T H W 3']:
    return np.stack([block(i // BLOCK)[i % BLOCK] for i in indices])

  return Clip(name, tuple(f'{i:05d}' for i in range(video.num_frames)), read, Path(mask))


def _open_folder(folder: Path) -> tuple[tuple[str, ...], Read]:
  """Names of the frames in a folder, without suffixes, and a function that reads them."""
  if not folder.is_dir():
    raise UserError(f'there is no folder {folder}.')
  try:
    frames = FrameFolder(folder)
  except VideoError as e:
    raise UserError(f'{folder}: {e}.') from e
  return tuple(Path(name).stem for name in frames.names), _with_user_errors(frames.read, folder)


def _with_user_errors(read: Read, path: str | os.PathLike) -> Read:
  def wrapped(indices: Sequence[int]) -> UInt8[np.ndarray, 'T H W 3']:
    try:
      return read(indices)
    except VideoError as e:
      raise UserError(f'{path}, frames {indices[0]} to {indices[-1]}: {e}.') from e

  return wrapped


def read_mask(path: str | os.PathLike) -> UInt8[np.ndarray, 'H W']:
  """The number of the object at each pixel: 0 for none, VOID (255) where it is unknown.

  In a picture of only black and white, white is object 1.

  Raises:
    UserError: there is no such picture, or its pixels are colours instead of numbers.
  """
  try:
    with Image.open(path) as image:
      mode, mask = image.mode, np.asarray(image)
  except (OSError, UnidentifiedImageError) as e:
    reason = ' '.join((getattr(e, 'strerror', None) or str(e)).split())
    raise UserError(f'cannot read the mask {path}: {reason}.') from e
  if mode == '1':
    mask = mask.astype(np.uint8) * 255
  elif mode not in ('P', 'L'):
    raise UserError(
      f'{path} holds colours (mode {mode}), but a mask holds the number of an object at each '
      'pixel: save it with a palette (indexed), or in black and white for one object.'
    )
  if mode != 'P' and set(np.unique(mask)) == {0, 255}:
    mask = (mask > 0).astype(np.uint8)
  return mask


def first_mask(path: str | os.PathLike) -> UInt8[np.ndarray, 'H W']:
  """A mask to propagate: the result of `read_mask`, with 0 for unknown pixels.

  Raises:
    UserError: it has no object, or more than MAX_OBJECTS.
  """
  mask = read_mask(path)
  mask = np.where(mask == VOID, 0, mask).astype(np.uint8)
  if not mask.any():
    raise UserError(f'{path} has no object: all its pixels are 0.')
  if mask.max() > MAX_OBJECTS:
    raise UserError(
      f'{path} has objects up to {mask.max()}, at most {MAX_OBJECTS} are possible: number them '
      'from 1, and do not smooth edges, where each shade would be an object.'
    )
  return mask


def write_mask(path: str | os.PathLike, mask: UInt8[np.ndarray, 'H W']) -> None:
  """Writes a PNG with DAVIS's palette."""
  image = Image.fromarray(mask, 'L')
  image.putpalette(palette().tobytes())
  image.save(path)
