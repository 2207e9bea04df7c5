"""What is segmented: DAVIS's sequences, a folder of frames, or a video file."""

import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vmae_jax.data.video import Video, VideoError
from vmae_jax.errors import UserError
from vmae_jax.types import UInt8

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
RESOLUTION = '480p'  # The folder of DAVIS that all published figures are for.

BLOCK = 32  # Frames of a video decoded at a time, as each time starts at a keyframe.

Read = Callable[[Sequence[int]], UInt8[np.ndarray, 'T H W 3']]


@dataclass(frozen=True)
class Clip:
  """Frames, and the mask of the first.

  Attributes:
    name: Of the folder that its masks are written to.
    frames: Name of each frame, hence of each mask's file.
    read: Frame numbers -> RGB in [0, 255].
    mask: The file of the first frame's mask.
    truth: The file of each frame's mask, or none.
  """

  name: str
  frames: tuple[str, ...]
  read: Read
  mask: Path
  truth: tuple[Path, ...] = ()


def open_davis(folder: str | os.PathLike, split: str) -> list[Clip]:
  """The sequences of a split of DAVIS 2017, in the folder layout of its download.

  A sequence of which the first mask alone is there (test-dev) is segmented and not scored.

  Raises:
    UserError: something is missing.
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
  frames = list_frames(pictures)
  stems = [path.stem for path in frames]
  truth = [masks / f'{stem}.png' for stem in stems]
  there = [path.is_file() for path in truth]
  if not there[0]:
    raise UserError(f'{truth[0]} does not exist: the first frame needs a mask.')
  if any(there[1:]) and not all(there):
    raise UserError(
      f'{truth[there.index(False)]} does not exist, but {sum(there)} masks of {name} do: all '
      'frames have one, or the first alone.'
    )
  if extra := sorted({path.stem for path in masks.glob('*.png')} - set(stems)):
    raise UserError(
      f'{masks / extra[0]}.png has no frame in {pictures} ({len(extra)} such): frames are missing.'
    )
  return Clip(name, tuple(stems), _reader(frames), truth[0], tuple(truth) if all(there) else ())


def open_frames(path: str | os.PathLike, mask: str | os.PathLike) -> Clip:
  """A folder of frames or a video file, with the mask of its first frame.

  Raises:
    UserError: there is no such thing, frames are missing, or the video cannot be read.
  """
  name = Path(path).resolve().stem
  if Path(path).is_dir():
    frames = list_frames(Path(path))
    return Clip(name, tuple(p.stem for p in frames), _reader(frames), Path(mask))
  try:
    video = Video(path)
  except VideoError as e:
    raise UserError(f'{path}: {e}; give a folder of frames, or a video.') from e

  @functools.lru_cache(maxsize=2)
  def block(number: int) -> UInt8[np.ndarray, 'T H W 3']:
    first = number * BLOCK
    indices = range(first, min(first + BLOCK, video.num_frames))
    try:
      return video.read(indices)
    except VideoError as e:
      raise UserError(f'{path}, frames {first} to {indices[-1]}: {e}.') from e

  def read(indices: Sequence[int]) -> UInt8[np.ndarray, 'T H W 3']:
    return np.stack([block(i // BLOCK)[i % BLOCK] for i in indices])

  return Clip(name, tuple(f'{i:05d}' for i in range(video.num_frames)), read, Path(mask))


def list_frames(folder: Path) -> list[Path]:
  """The pictures in a folder, in the order of the numbers in their names.

  Raises:
    UserError: there is none, two are of one name, or one is missing: names that are numbers
      must go on by the same step.
  """
  if not folder.is_dir():
    raise UserError(f'there is no folder {folder}.')
  found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != '.']
  if not found:
    raise UserError(f'no frame in the folder {folder} (looked for {" ".join(IMAGE_SUFFIXES)}).')

  def parts(path: Path) -> list:
    return [int(x) if x.isdigit() else x for x in re.split(r'(\d+)', path.stem)]

  found.sort(key=parts)
  stems = [path.stem for path in found]
  if len(set(stems)) < len(stems):
    twice = next(a for a, b in zip(stems, stems[1:], strict=False) if a == b)
    raise UserError(f'{folder} has several pictures of the name {twice}: leave one.')
  numbers = [int(stem) for stem in stems if stem.isdigit()]
  if len(numbers) == len(stems) > 2:
    step = min(np.diff(numbers))
    for a, b in zip(numbers, numbers[1:], strict=False):
      if b - a != step:
        raise UserError(
          f'{folder}: frames are missing between {a} and {b} (others are {step} apart): put them '
          'there, or number the frames anew.'
        )
  return found


def _reader(paths: Sequence[Path]) -> Read:
  def read(indices: Sequence[int]) -> UInt8[np.ndarray, 'T H W 3']:
    frames = []
    for path in (paths[i] for i in indices):
      try:
        with Image.open(path) as image:
          frames.append(np.asarray(image.convert('RGB')))
      except (OSError, UnidentifiedImageError) as e:
        raise UserError(f'cannot read the frame {path}: {e}.') from e
    if len({frame.shape for frame in frames}) > 1:
      raise UserError(f'{paths[indices[0]]}: frames are not all of one size.')
    return np.stack(frames)

  return read
