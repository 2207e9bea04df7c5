"""Masks of all frames of a clip from its first mask; masks and scores of a set of clips."""

import functools
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from vmae_jax import storage
from vmae_jax.data.crop import resize
from vmae_jax.errors import UserError
from vmae_jax.evaluation.propagation import CHANNELS, Protocol, decide, propagate, remember_first
from vmae_jax.evaluation.results import markdown, write_csv
from vmae_jax.evaluation.segmentation_scores import Statistics, evaluate
from vmae_jax.evaluation.sequences import Clip, first_mask, read_mask, write_mask
from vmae_jax.types import Array, Float, Int, UInt8
from vmae_jax.visualize.files import png
from vmae_jax.visualize.images import evenly
from vmae_jax.visualize.masks import COLUMNS, strip

# (uint8 clip 'T H W 3', time slot) -> features 'h w d' of that slot.
FrameFeatures = Callable[[UInt8[np.ndarray, 'T H W 3'], int], Float[Array, 'h w d']]
Scores = dict[str, list[tuple[Statistics, Statistics]]]  # Clip -> J and F of each object.


def input_size(height: int, width: int, *, size: str, patch: tuple[int, int]) -> tuple[int, int]:
  """Rows and columns to which frames are resized, rounded down to whole patches.

  Args:
    size: `native`; `480`, the shorter side, with the other in proportion; `480/64`, the same with
      the longer side first rounded down to a multiple of 64; or `480x880`, rows and columns.
    patch: Rows and columns of a patch.

  Raises:
    UserError: the size has another form, or is smaller than a patch.
  """
  match = re.fullmatch(r'native|(\d+)(?:/([1-9]\d*)|x(\d+))?', size)
  if match is None:
    raise UserError(
      f'size {size!r} is none of: native, 480 (the shorter side), 480/64 (the same, and the longer '
      'side a multiple of 64), 480x880 (rows and columns).'
    )
  short, multiple, columns = (int(x) if x else 0 for x in match.groups())
  if columns:
    height, width = short, columns
  elif short:
    long = max(height, width) * short // min(height, width)
    long -= long % multiple if multiple else 0
    height, width = (short, long) if height <= width else (long, short)
  sides = height // patch[0] * patch[0], width // patch[1] * patch[1]
  if not all(sides):
    raise UserError(f'size {size}: {height} x {width} pixels are less than a patch, {patch}.')
  return sides


def nearest(mask: UInt8[np.ndarray, 'H W'], size: tuple[int, int]) -> UInt8[np.ndarray, 'H2 W2']:
  """A mask at another size, by the nearest pixel, as numbers of objects cannot be averaged."""
  return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def first_labels(
  mask: UInt8[np.ndarray, 'H W'], grid: tuple[int, int], *, channels: int, how: str
) -> Float[Array, 'n c']:
  """Labels of the first frame's tokens, as `Protocol.first_mask` says; they sum to 1."""
  if how == 'nearest':
    return jax.nn.one_hot(nearest(mask, grid).reshape(-1), channels)
  labels = jax.nn.one_hot(mask, channels)
  shape = *grid, channels
  return jax.image.resize(labels, shape, 'bilinear', antialias=False).reshape(-1, channels)


def around(frame: int, count: int, *, length: int, slot: int) -> tuple[Int[np.ndarray, ' T'], int]:
  """The clip that a frame's features are computed from.

  Args:
    frame: The frame's number.
    count: Frames in the sequence.
    length: Frames in the clip; 0 for the frame alone, repeated to fill a time slot.
    slot: Frames in a time slot.

  Returns:
    The clip's frames, `length` in a row with the frame near the middle except at the ends of the
    sequence (a shorter sequence repeats its last frame), and the frame's time slot in the clip.
  """
  if not length:
    return np.full(slot, frame), 0
  start = max(0, min(frame - (length - 1) // 2, count - length))
  return np.minimum(start + np.arange(length), count - 1), (frame - start) // slot


def frame_features(encode: Callable[..., Array], params: Any) -> FrameFeatures:
  """A function for the features of one time slot, from an encoder with the pool `tokens`."""
  one = jax.jit(lambda params, video, slot: encode(params, video[None])[0, slot])
  return functools.partial(one, params)


def segment(
  clip: Clip,
  mask: UInt8[np.ndarray, 'H W'],
  features: FrameFeatures,
  *,
  protocol: Protocol,
  patch: tuple[int, int, int],
  length: int = 0,
) -> Iterator[UInt8[np.ndarray, 'H W']]:
  """Yields the mask of each frame, beginning with the given one.

  `patch` is in frames, rows and columns; see `around` for `length`.

  Raises:
    UserError: the mask or a frame has another size than the first frame, or a frame cannot be read.
  """
  height, width = clip.read([0]).shape[1:3]
  if mask.shape != (height, width):
    raise UserError(
      f'{clip.mask} is {mask.shape[1]} x {mask.shape[0]} pixels, but the frames of {clip.name} are '
      f'{width} x {height}: the mask must be drawn on the first frame.'
    )
  size = input_size(height, width, size=protocol.size, patch=patch[1:])
  grid = size[0] // patch[1], size[1] // patch[2]

  def tokens(frame: int) -> Float[Array, 'n d']:
    indices, slot = around(frame, len(clip.frames), length=length, slot=patch[0])
    used, where = np.unique(indices, return_inverse=True)
    frames = clip.read(used.tolist())
    if frames.shape[1:3] != (height, width):
      raise UserError(
        f'{clip.name}: frame {clip.frames[frame]} is {frames.shape[2]} x {frames.shape[1]} pixels, '
        f'the first is {width} x {height}: all frames must have the same size.'
      )
    frames = np.stack([resize(frame, size, resampling='bilinear') for frame in frames])
    x = features(frames[where], slot)
    return x.reshape(math.prod(grid), -1)

  yield mask
  channels = -(-(int(mask.max()) + 1) // CHANNELS) * CHANNELS
  labels = first_labels(mask, grid, channels=channels, how=protocol.first_mask)
  memory = remember_first(tokens(0), labels, protocol=protocol)
  for frame in range(1, len(clip.frames)):
    new = tokens(frame), jnp.int32(frame)
    labels, memory = propagate(memory, *new, grid=grid, protocol=protocol)
    shown = (height, width) if protocol.enlarge_to_frame else size
    found = np.asarray(decide(labels, grid=grid, size=shown, stretch=protocol.stretch))
    yield nearest(found, (height, width))


def segment_all(
  clips: Sequence[Clip],
  features: FrameFeatures,
  out: Path,
  *,
  protocol: Protocol,
  patch: tuple[int, int, int],
  length: int,
  caption: str,
) -> None:
  """Writes masks and a picture of each clip that has no masks yet, into `out`/masks and pictures.

  A clip's folder of masks gets its name when it is complete, so that an interrupted run continues
  with the clips that it has not finished. `caption` is for the pictures; the other arguments are
  those of `segment`.
  """
  masks, pictures = out / 'masks', out / 'pictures'
  for folder in (masks, pictures):
    folder.mkdir(parents=True, exist_ok=True)
  left = [clip for clip in clips if not (masks / clip.name).is_dir()]
  total = sum(len(clip.frames) for clip in left)
  # Finds a mistake in any mask before hours are spent on the others.
  firsts = {clip.name: first_mask(clip.mask) for clip in left}
  with tqdm(total=total, unit='frame', desc='segmenting') as bar:
    for clip in left:
      bar.set_postfix_str(clip.name)
      part = masks / f'.{clip.name}.part'
      shutil.rmtree(part, ignore_errors=True)
      part.mkdir()
      found = segment(
        clip, firsts[clip.name], features, protocol=protocol, patch=patch, length=length
      )
      for name, mask in zip(clip.frames, found, strict=True):
        write_mask(part / f'{name}.png', mask)
        bar.update()
      _draw(clip, part, pictures / f'{clip.name}.png', caption)
      os.replace(part, masks / clip.name)


def _draw(clip: Clip, masks: Path, path: Path, caption: str) -> None:
  """A few frames of a clip under their masks."""
  chosen = evenly(len(clip.frames), most=COLUMNS).tolist()
  names = [clip.frames[i] for i in chosen]
  rows = {'propagated': [read_mask(masks / f'{name}.png') for name in names]}
  if clip.truth:
    rows['ground truth'] = [read_mask(clip.truth[i]) for i in chosen]
  picture = strip(
    [clip.read([i])[0] for i in chosen],
    rows,
    names=[f'frame {name}' for name in names],
    title=f'{clip.name}: the first mask is given',
    caption=caption,
  )
  storage.write(str(path), png(picture))


def score_all(clips: Sequence[Clip], out: Path) -> Scores:
  """J and F of each object of the clips whose ground truth is known, from the PNGs in `out`.

  Raises:
    UserError: masks are missing, have another size, or more objects than the truth.
  """
  scores = {}
  for clip in tqdm([clip for clip in clips if clip.truth], unit='clip', desc='scoring'):
    found = [out / 'masks' / clip.name / f'{name}.png' for name in clip.frames]
    scores[clip.name] = evaluate(_stack(clip.truth), _stack(found), name=clip.name)
  return scores


def _stack(paths: Sequence[Path]) -> UInt8[np.ndarray, 'T H W']:
  masks = [read_mask(path) for path in paths]
  for path, mask in zip(paths, masks, strict=True):
    if mask.shape != masks[0].shape:
      raise UserError(f'{path} has another size than {paths[0]}: masks must match the frames.')
  return np.stack(masks)


def global_results(scores: Scores) -> dict[str, float]:
  """The values of the official table: means over all objects of all clips."""
  pairs = np.array([pair for clip in scores.values() for pair in clip])  # object, (J, F), statistic
  names = [f'{measure}-{name}' for measure in 'JF' for name in ('Mean', 'Recall', 'Decay')]
  values = dict(zip(names, pairs.mean(0).ravel().tolist(), strict=True))
  return {'J&F-Mean': (values['J-Mean'] + values['F-Mean']) / 2} | values


def write_results(scores: Scores, out: Path, *, split: str, settings: Mapping[str, Any]) -> str:
  """Writes both tables of the official evaluation, and results.md, whose text it returns."""
  whole = global_results(scores)
  rows = [
    (f'{clip}_{i}', j.mean, f.mean)
    for clip, pairs in scores.items()
    for i, (j, f) in enumerate(pairs, 1)
  ]
  tables = {
    f'global_results-{split}.csv': [list(whole), [f'{x:.3f}' for x in whole.values()]],
    f'per-sequence_results-{split}.csv': [
      ('Sequence', 'J-Mean', 'F-Mean'),
      *((name, f'{j:.3f}', f'{f:.3f}') for name, j, f in rows),
    ],
  }
  for name, table in tables.items():
    write_csv(f'{out}/{name}', table)
  percent = [f'{100 * x:.1f}' for x in whole.values()]
  objects = [(n, f'{100 * j:.1f}', f'{100 * f:.1f}', f'{50 * (j + f):.1f}') for n, j, f in rows]
  lines = [
    *markdown([('', *whole), (f'{len(rows)} objects', *percent)]),
    '',
    *markdown([('object', 'J-Mean', 'F-Mean', 'J&F-Mean'), *objects]),
    '',
    'Percent. ' + ', '.join(f'{key} {value}' for key, value in settings.items()) + '.',
  ]
  text = '\n'.join(lines) + '\n'
  storage.write_text(f'{out}/results.md', text)
  return text
