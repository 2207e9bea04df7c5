"""Trains the built-in tokenizer from your own videos, in a minute on a CPU.

  python -m vmae_jax.tokenizers.train --videos=LIST --out=tokenizer.safetensors

Writes the tokenizer, beside it a picture of frames above their reconstructions (.png) and the
figures (.json), which it prints, too. The same command gives the same file.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from vmae_jax import cli
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.errors import UserError
from vmae_jax.tokenizers import learn
from vmae_jax.tokenizers.patch_vq import PatchVQ
from vmae_jax.tokenizers.tokenizer import save_tokenizer
from vmae_jax.training.progress import Progress
from vmae_jax.visualize.images import labelled_rows, to_uint8

_VIDEOS = flags.DEFINE_string('videos', None, 'A list, a folder, tfds:... or synthetic:train.')
_OUT = flags.DEFINE_string('out', None, 'The file to write, FILE.safetensors.')
_ROOT = flags.DEFINE_string('root', '', "Where relative paths start; by default the list's folder.")
_SIZE = flags.DEFINE_integer('size', 32, 'Height and width of a frame.', lower_bound=1)
_FACTOR = flags.DEFINE_integer('factor', 8, 'Pixels from one code to the next.', lower_bound=1)
_CODES = flags.DEFINE_integer('codes', 256, 'How many codes there are.', lower_bound=2)
_STEPS = flags.DEFINE_integer('steps', 400, 'Batches.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 64, 'Frames in a batch, a multiple of 4.', lower_bound=4)
_STRIDE = flags.DEFINE_integer('stride', 4, "Between a video's frames in a batch.", lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Of order, crops and first codes.', lower_bound=0)
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace a tokenizer that is there.')

FRAMES = 4  # That are taken of a video at a time: opening it costs more than they do.
_EVALUATED = 512  # Frames that the figures are of.
_DRAWN = 8


def train(
  source: Any,
  model: PatchVQ,
  *,
  size: int,
  steps: int,
  batch: int,
  stride: int,
  seed: int,
) -> tuple[dict, dict[str, float], np.ndarray, np.ndarray]:
  """Trains and measures.

  Args:
    source: Videos, see `vmae_jax.data.sources`.
    model: The tokenizer.
    size: Height and width of frames.
    steps: Batches.
    batch: Frames in a batch, a multiple of FRAMES.
    stride: Between the frames of one video in a batch.
    seed: Of everything.

  Returns:
    Parameters; figures; some frames and their reconstructions, both UInt8 'b H W 3'. What is
    measured are frames that come after the last step in the stream of training data.

  Raises:
    UserError: sizes do not fit.
  """
  if batch % FRAMES:
    raise UserError(f'--batch={batch}: it must be a multiple of {FRAMES}, the frames of a video.')
  evaluations = -(-_EVALUATED // batch)
  sampler = ClipSampler(frames=FRAMES, size=size, stride=stride, seed=seed)
  loader = Loader(
    source,
    sampler,
    batch_size=batch // FRAMES,
    seed=seed,
    shuffle=True,
    num_steps=steps + evaluations,
  )
  frames = (item['video'].reshape(-1, size, size, 3) for item in loader)
  key = jax.random.key(seed)
  step_fn = jax.jit(functools.partial(learn.learn_step, model), donate_argnums=0)
  measure = jax.jit(functools.partial(learn.measure, model))
  progress = Progress(steps, log_every=max(1, steps // 10))
  try:
    pixels = next(frames)
    state = learn.init_state(model, key, pixels)
    for step in range(1, steps + 1):
      state, scalars = step_fn(state, jax.random.fold_in(key, step), pixels)
      shown = {'loss': float(scalars['error'])} if step % 10 == 0 or step == steps else {}
      progress.update(step, shown)
      pixels = next(frames)
    counts, errors, squares = np.zeros(model.codes, np.int64), [], []
    for index in range(evaluations):
      pixels = next(frames) if index else pixels
      found, error, decoded = jax.device_get(measure(state.codebook, pixels))
      counts += found
      errors.append(error)
      squares.append(np.square(decoded - np.asarray(pixels) / 255).mean())
  finally:
    loader.close()
    progress.close()
  error = float(np.mean(errors))
  used = int((counts > 0).sum())
  figures = {
    'mean_absolute_error': round(error, 5),
    'psnr': round(float(-10 * np.log10(np.mean(squares))), 2),
    'codes': model.codes,
    'codes_used': used,
    'share_used': round(used / model.codes, 4),
    'perplexity': round(float(learn.perplexity(jnp.asarray(counts))), 2),
    'frames_evaluated': evaluations * batch,
  }
  shown = slice(0, None, max(1, batch // _DRAWN))  # Of different videos.
  return {'codebook': state.codebook}, figures, np.asarray(pixels)[shown], to_uint8(decoded[shown])


def main(argv: list[str]) -> None:
  cli.refuse_arguments(argv)
  for flag in (_VIDEOS, _OUT):
    if not flag.value:
      raise UserError(f'give --{flag.name}: {flags.FLAGS[flag.name].help}')
  out = Path(_OUT.value)
  if out.is_dir() or (out.exists() and not _OVERWRITE.value):
    raise UserError(f'--out={out} is there already: give another name, or add --overwrite.')
  model = PatchVQ(factor=_FACTOR.value, codes=_CODES.value)
  size = _SIZE.value
  if size % model.factor:
    raise UserError(f'--size={size}: it must be a multiple of --factor={model.factor}.')
  source = open_source(_VIDEOS.value, root=_ROOT.value)
  check_paths(source, max_bad_share=0.05)
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise UserError(f'--out={out} cannot be written: {e.strerror}.') from e
  options = dict(
    size=size,
    steps=_STEPS.value,
    batch=_BATCH.value,
    stride=_STRIDE.value,
    seed=_SEED.value,
  )
  params, figures, frames, decoded = train(source, model, **options)
  save_tokenizer(out, model, params)
  picture = labelled_rows(
    {'frames': list(frames), 'from codes': list(decoded)},
    columns=[str(i + 1) for i in range(len(frames))],
    title=f'{model.codes} codes of {model.factor} x {model.factor} pixels',
  )
  Image.fromarray(picture).save(out.with_suffix('.png'))
  line = json.dumps({'tokenizer': str(out), 'videos': _VIDEOS.value, **options, **figures})
  out.with_suffix('.json').write_text(line + '\n')
  print(line)


if __name__ == '__main__':
  cli.run(main)
