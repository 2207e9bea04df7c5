"""Trains the built-in tokenizer from your own videos, in a minute on a CPU.

  python -m vmae_jax.train_tokenizer --videos=LIST --out=tokenizer.safetensors

Writes the tokenizer, and beside it a picture of frames above their reconstructions (.png) and the
measurements (.json), which it also prints. The same command gives the same file.
"""

import json

from absl import flags
from PIL import Image

from vmae_jax import cli
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.errors import UserError
from vmae_jax.frozen.patch_vq import PatchVQ
from vmae_jax.frozen.tokenizer import save_tokenizer
from vmae_jax.training.tokenizer import learn_tokenizer
from vmae_jax.visualize.images import labelled_rows

_VIDEOS = flags.DEFINE_string('videos', None, 'A list, a folder, tfds:... or synthetic:train.')
_OUT = flags.DEFINE_string('out', None, 'The file to write, FILE.safetensors.')
_ROOT = flags.DEFINE_string('root', '', "Where relative paths start; by default the list's folder.")
_SIZE = flags.DEFINE_integer('size', 32, 'Height and width of a frame.', lower_bound=1)
_FACTOR = flags.DEFINE_integer(
  'factor', 8, 'Height and width of the patch that one code stands for, in pixels.', lower_bound=1
)
_CODES = flags.DEFINE_integer('codes', 256, 'Number of codes.', lower_bound=2)
_STEPS = flags.DEFINE_integer('steps', 400, 'Number of batches.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 64, 'Frames in a batch, a multiple of 4.', lower_bound=4)
_STRIDE = flags.DEFINE_integer(
  'stride', 4, "Distance between a video's frames in a batch, in video frames.", lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of order, crops and initial codes.', lower_bound=0)
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace an existing file.')


def main(argv: list[str]) -> None:
  cli.refuse_arguments(argv)
  cli.need(_VIDEOS, _OUT)
  out = cli.here(_OUT.value)
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
  options = cli.values(_SIZE, _STEPS, _BATCH, _STRIDE, _SEED)
  params, figures, frames, decoded = learn_tokenizer(source, model, **options)
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
