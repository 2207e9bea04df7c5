"""Writes the synthetic set as video files with lists."""

import functools
import itertools
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from vmae_jax.data.frames import encode
from vmae_jax.data.synthetic import CLIPS, LABELS, MOTIONS, OPTIONS, RATE, VERSION, SyntheticSource
from vmae_jax.errors import UserError


def _write_clip(index: int, *, folder: Path, source: SyntheticSource):
  with source.open(index) as video:
    frames = video.read(range(video.num_frames))
  (folder / source.name(index)).write_bytes(encode(frames, rate=RATE).getbuffer())


def write_set(
  folder: Path,
  *,
  train: int = CLIPS['train'],
  val: int = CLIPS['val'],
  seed: int = 0,
  workers: int | None = None,
  **options: int | float,
) -> bool:
  """Writes both splits as H.264 files with their lists.

  The folder gets `train/MOTION/INDEX.mp4`, `val/...`, the lists `train.txt` and `val.txt`
  (`path label`, relative) and `classes.txt` of the motions, the same of the looks in `look/`, and
  `set.json`. It appears when it is complete.

  Args:
    folder: New, empty or holding the same set.
    train: Clips to train on.
    val: Clips to evaluate on.
    seed: Of the whole set.
    workers: Processes; None means one for each processor.
    options: See `OPTIONS` of `data.synthetic`; `size` must be even.

  Returns:
    Whether the set was written: False if it is there already.

  Raises:
    UserError: a number is out of range, or the folder holds something else.
  """
  for name, clips in {'train': train, 'val': val}.items():
    if clips < 1:
      raise UserError(f'{name} is {clips}: it must be at least 1.')
  sources = {
    (split, label): SyntheticSource(split, label=label, clips=clips, seed=seed, **options)
    for split, clips in {'train': train, 'val': val}.items()
    for label in LABELS
  }
  options = {name: options.get(name, usual) for name, (usual, _) in OPTIONS.items()}
  parameters = {'train': train, 'val': val, 'seed': seed, **options, 'version': VERSION}
  if workers is not None and workers < 1:
    raise UserError(f'workers is {workers}: it must be at least 1.')
  if options['size'] % 2:
    raise UserError(f'size is {options["size"]}: H.264 needs an even number.')
  if _holds_set(folder, parameters):
    return False

  partial = folder.absolute().with_name(f'.{folder.name}.partial-{os.getpid()}')
  try:
    for split, motion in itertools.product(CLIPS, MOTIONS):
      (partial / split / motion).mkdir(parents=True)
    # Spawned, not forked, as the caller may run threads, such as those of JAX.
    context = multiprocessing.get_context('spawn')
    with (
      ProcessPoolExecutor(workers, mp_context=context) as pool,
      tqdm(total=train + val, unit='clip', desc=str(folder)) as progress,
    ):
      for (split, label), source in sources.items():
        lists, up = (partial, '') if label == 'motion' else (partial / label, '../')
        if not up:
          write = functools.partial(_write_clip, folder=partial, source=source)
          for _ in pool.map(write, range(len(source)), chunksize=32):
            progress.update()
        lists.mkdir(exist_ok=True)
        lines = [f'{up}{source.name(i)} {source.label(i)}\n' for i in range(len(source))]
        (lists / f'{split}.txt').write_text(''.join(lines))
        (lists / 'classes.txt').write_text('\n'.join(source.class_names) + '\n')
    (partial / 'set.json').write_text(json.dumps(parameters, indent=2) + '\n')
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return True


def _holds_set(folder: Path, parameters: dict[str, int | float]) -> bool:
  """Whether the folder holds this set; raises a UserError if it holds something else."""
  try:
    found = json.loads((folder / 'set.json').read_text())
  except (FileNotFoundError, NotADirectoryError):
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
      raise UserError(f'{folder} is not empty: give another folder.') from None
    return False
  except ValueError as e:
    raise UserError(f'{folder}/set.json is damaged ({e}): give another folder.') from e
  if found != parameters:
    differ = [f'{k} {found.get(k)}, not {v}' for k, v in parameters.items() if found.get(k) != v]
    raise UserError(f'{folder} holds another set ({"; ".join(differ)}): give another folder.')
  return True
