"""The layout of DAVIS 2017: folders of frames, and of the masks of objects in them."""

import io
import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from tqdm import tqdm

from vmae_jax import storage
from vmae_jax.data.frame_folder import FrameFolder
from vmae_jax.errors import UserError, VideoError
from vmae_jax.prepare.layouts import Layout, Listed, Split, Tree

SPLITS = ('train', 'val', 'test-dev', 'test-challenge')
TOGETHER = ('train', 'val')  # These are in one archive.
VOID = 255  # The value of pixels whose object is not known.
MOST_OBJECTS = 32  # A mask with higher values has shades of grey instead of numbers of objects.


def davis2017(videos: Tree) -> Layout:
  """DAVIS 2017: ImageSets/2017/SPLIT.txt, JPEGImages/480p/NAME and Annotations/480p/NAME.

  A sequence is a folder of frames: a video of 24 frames per second, without a class. All of its
  frames and masks are read once. It is damaged if some are missing, cannot be read or differ in
  size. In test-dev and test-challenge only the first frame has a mask.
  """
  roots: dict[str, str] = {}  # Split -> the folder that holds its ImageSets.
  files: dict[str, list[str]] = defaultdict(list)
  for path in videos.others:
    folder, name = os.path.split(path)
    files[folder].append(name)
    match = re.fullmatch(rf'(.+)/ImageSets/2017/({"|".join(SPLITS)})\.txt', path)
    if match and roots.setdefault(match[2], match[1]) != match[1]:
      raise UserError(
        f'{roots[match[2]]} and {match[1]} both have the split {match[2]}: give the folder of one.'
      )
  if not roots:
    raise UserError(
      f'{videos.folder} has none of the lists {", ".join(SPLITS)}.txt in ImageSets/2017: give the '
      'folder that DAVIS 2017 was unpacked in.'
    )
  if len(there := [name for name in TOGETHER if name in roots]) == 1:
    (other,) = {*TOGETHER} - {*there}
    raise UserError(
      f'{roots[there[0]]}/ImageSets/2017/{other}.txt does not exist, but {there[0]}.txt does: '
      'unpack the archive again.'
    )
  layout = Layout((), {})
  for split in (name for name in SPLITS if name in roots):
    layout.splits[split] = _read_split(split, roots[split], files)
  return layout


def _read_split(split: str, root: str, files: dict[str, list[str]]) -> Split:
  path = f'{root}/ImageSets/2017/{split}.txt'
  try:
    names = list(dict.fromkeys(storage.read_text(path).split()))
  except OSError as e:
    raise UserError(f'cannot read {path}: {e}') from e
  if not names:
    raise UserError(f'{path} names no sequence.')

  def read(name: str) -> tuple[str, int, int] | None:
    if f'{root}/JPEGImages/480p/{name}' not in files:
      return None
    try:
      return '', *_check(root, name, files[f'{root}/Annotations/480p/{name}'])
    except VideoError as e:
      return str(e), 0, 0

  found, frames, objects = Split(), 0, 0
  with ThreadPoolExecutor() as pool:
    results = tqdm(
      pool.map(read, names), total=len(names), desc=f'checking {split}', unit='sequence'
    )
    for name, result in zip(names, results, strict=True):
      if result is None:
        found.missing.append(name)
        continue
      found.videos.append(Listed(name, f'{root}/JPEGImages/480p/{name}/', -1, damage=result[0]))
      frames, objects = frames + result[1], objects + result[2]
  found.about = f'{frames} frames, {objects} objects'
  return found


def _check(root: str, name: str, masks: list[str]) -> tuple[int, int]:
  """Numbers of frames and of objects of a sequence; raises a VideoError if it is damaged."""
  folder = FrameFolder(f'{root}/JPEGImages/480p/{name}/')
  wanted = [f'{os.path.splitext(frame)[0]}.png' for frame in folder.names]
  masks = [mask for mask in masks if mask.endswith('.png')]
  if extra := sorted({*masks} - {*wanted}):
    raise VideoError(f'truncated: {len(extra)} masks have no frame, such as {extra[0]}')
  if wanted[0] not in masks:
    raise VideoError(f'there is no mask {wanted[0]}, of the first frame')
  if len(masks) not in (1, len(wanted)):
    absent = next(mask for mask in wanted if mask not in masks)
    raise VideoError(f'{len(wanted)} frames, but {len(masks)} masks: there is no {absent}')
  folder.check()
  objects = [
    _objects(f'{root}/Annotations/480p/{name}/{mask}', (folder.height, folder.width))
    for mask in sorted(masks)
  ]
  if not objects[0]:
    raise VideoError(f'the mask {wanted[0]}, of the first frame, has no object')
  return len(wanted), objects[0]


def _objects(path: str, size: tuple[int, int]) -> int:
  """How many objects the mask of a frame of this height and width has.

  Raises:
    VideoError: it cannot be read, has another size, or its pixels are not numbers of objects.
  """
  name = os.path.basename(path)
  try:
    with Image.open(io.BytesIO(storage.read(path))) as image:
      mode, mask = image.mode, np.asarray(image)
  except (OSError, SyntaxError, ValueError) as e:
    raise VideoError(f'cannot read the mask {name}: {str(e).partition(" <")[0]}') from e
  if mode not in ('P', 'L'):
    raise VideoError(f'the mask {name} holds colours (mode {mode}), not numbers of objects')
  if mask.shape != size:
    height, width = mask.shape
    raise VideoError(f'the mask {name} is {width} x {height}, its frame {size[1]} x {size[0]}')
  numbers = np.flatnonzero(np.bincount(mask.ravel(), minlength=VOID + 1)[1:VOID]) + 1
  if numbers.size and numbers[-1] > MOST_OBJECTS:
    raise VideoError(f'the mask {name} has shades of grey, not numbers of objects')
  return numbers.size
