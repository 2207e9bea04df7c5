"""Writes the synthetic motion set as video files with lists."""

import functools
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from vmae_jax.data.synthetic import CLASSES, CLIPS, RATE, VERSION, clip_name, render, split_seed
from vmae_jax.errors import UserError


def write_video(path: Path, video: UInt8[np.ndarray, 'T H W 3']) -> None:
  """Encodes a clip with H.264, at a quality that keeps small motions."""
  with av.open(str(path), 'w') as container:
    # No B-frames and one thread: clips this short decode fastest so.
    options = {'crf': '18', 'preset': 'fast', 'bf': '0', 'threads': '1'}
    stream = container.add_stream('libx264', rate=RATE, options=options)
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for frame in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())


def _write_clip(index: int, *, folder: Path, split: str, seed: int, frames: int, size: int):
  video, _ = render(split_seed(split, seed), index, frames=frames, size=size)
  write_video(folder / clip_name(split, index), video)


def write_set(
  folder: Path,
  *,
  train: int = CLIPS['train'],
  val: int = CLIPS['val'],
  frames: int = 16,
  size: int = 48,
  seed: int = 0,
  workers: int | None = None,
) -> bool:
  """Writes both splits as H.264 files with their lists.

  The folder gets `train/CLASS/INDEX.mp4`, `val/...`, the lists `train.txt` and `val.txt`
  (`path label`, relative), `classes.txt` and `set.json`. It appears when all is complete.

  Args:
    folder: The folder to write: new, empty or holding the same set.
    train: Clips of the training split.
    val: Clips of the validation split.
    frames: T.
    size: H and W, even.
    seed: Seed of the whole set.
    workers: Processes; None for as many as there are processors.

  Returns:
    Whether the set was written: False where it was there already.

  Raises:
    UserError: a number is out of range, or the folder holds something else.
  """
  clips = {'train': train, 'val': val}
  least = {'train': 1, 'val': 1, 'frames': 1, 'seed': 0}
  parameters = {**clips, 'frames': frames, 'size': size, 'seed': seed, 'version': VERSION}
  for name, value in least.items():
    if parameters[name] < value:
      raise UserError(f'{name} is {parameters[name]}: it must be at least {value}.')
  if workers is not None and workers < 1:
    raise UserError(f'workers is {workers}: it must be at least 1.')
  if size < 16 or size % 2:
    raise UserError(f'size is {size}: H.264 needs an even number, of at least 16 here.')
  if _holds_set(folder, parameters):
    return False

  partial = folder.absolute().with_name(f'.{folder.name}.partial-{os.getpid()}')
  try:
    for split in CLIPS:
      for name in CLASSES:
        (partial / split / name).mkdir(parents=True)
    # Spawned, not forked: the caller may run threads (JAX's, for one).
    context = multiprocessing.get_context('spawn')
    with (
      ProcessPoolExecutor(workers, mp_context=context) as pool,
      tqdm(total=train + val, unit='clip', desc=str(folder)) as progress,
    ):
      for split, count in clips.items():
        write = functools.partial(
          _write_clip, folder=partial, split=split, seed=seed, frames=frames, size=size
        )
        for _ in pool.map(write, range(count), chunksize=32):
          progress.update()
        lines = [f'{clip_name(split, i)} {i % len(CLASSES)}\n' for i in range(count)]
        (partial / f'{split}.txt').write_text(''.join(lines))
    (partial / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
    (partial / 'set.json').write_text(json.dumps(parameters, indent=2) + '\n')
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return True


def _holds_set(folder: Path, parameters: dict[str, int]) -> bool:
  """Whether the very set is there; raises a UserError if something else is."""
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
