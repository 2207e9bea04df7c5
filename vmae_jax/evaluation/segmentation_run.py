"""Segments and scores all clips of a set, into one folder; continues where it was stopped."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from vmae_jax import storage
from vmae_jax.errors import UserError
from vmae_jax.evaluation.propagation import Protocol
from vmae_jax.evaluation.results import markdown, write_csv
from vmae_jax.evaluation.segmentation import FrameFeatures, segment
from vmae_jax.evaluation.segmentation_scores import Statistics, evaluate
from vmae_jax.evaluation.sequences import Clip, first_mask, read_mask, write_mask
from vmae_jax.types import UInt8
from vmae_jax.visualize.masks import COLUMNS, strip

Scores = dict[str, list[tuple[Statistics, Statistics]]]  # Clip -> J and F of each object.


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
  """Writes masks and a picture of each clip that has none yet, into `out`/masks and pictures.

  A clip's folder of masks gets its name when it is complete, so that the clips that an
  interrupted run has finished are not done again. The other arguments are those of `segment`, and
  the caption of the pictures.
  """
  masks, pictures = out / 'masks', out / 'pictures'
  for folder in (masks, pictures):
    folder.mkdir(parents=True, exist_ok=True)
  left = [clip for clip in clips if not (masks / clip.name).is_dir()]
  total = sum(len(clip.frames) for clip in left)
  # A mistake in any mask must be found before hours are spent on the others.
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
  count = len(clip.frames)
  chosen = np.linspace(0, count - 1, min(COLUMNS, count)).round().astype(int).tolist()
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
  part = path.with_name(f'.{path.name}.part')
  Image.fromarray(picture).save(part, 'PNG')
  os.replace(part, path)


def score_all(clips: Sequence[Clip], out: Path) -> Scores:
  """J and F of each object of the clips whose ground truth is known, from the PNGs in `out`.

  Raises:
    UserError: masks are missing, of another size, or have objects that the truth has not.
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
      raise UserError(f'{path} is of another size than {paths[0]}: masks must match the frames.')
  return np.stack(masks)


def global_results(scores: Scores) -> dict[str, float]:
  """The official table: means over all objects of all clips."""
  pairs = np.array([pair for clip in scores.values() for pair in clip])  # object, (J, F), statistic
  names = [f'{measure}-{name}' for measure in 'JF' for name in ('Mean', 'Recall', 'Decay')]
  values = dict(zip(names, pairs.mean(0).ravel().tolist(), strict=True))
  return {'J&F-Mean': (values['J-Mean'] + values['F-Mean']) / 2} | values


def write_results(scores: Scores, out: Path, *, split: str, settings: Mapping[str, Any]) -> str:
  """Writes both tables of the official evaluation, and one in Markdown, which is returned."""
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
