"""Files of frozen tokenizers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from vmae_jax.errors import UserError
from vmae_jax.frozen.files import load_params, read_kind, save_params
from vmae_jax.frozen.patch_vq import PatchVQ
from vmae_jax.frozen.vqgan import VQGAN

UNTRAINED = 'untrained'  # A config may give this in place of a path.
# Kind that a file names -> its model.
MODELS = {'vqgan': VQGAN, 'patches': PatchVQ}
_HOW_TO_GET_ONE = (
  'train one in minutes, python -m vmae_jax.train_tokenizer --videos=LIST --out=FILE, or '
  'convert a checkpoint of taming-transformers, python -m vmae_jax.convert CHECKPOINT --out=FILE.'
)


class Tokenizer(NamedTuple):
  """A frozen tokenizer and its file."""

  model: VQGAN | PatchVQ
  params: Mapping[str, Any]
  path: str


def param_shapes(model: VQGAN | PatchVQ) -> dict[str, Any]:
  """The shapes of a model's parameters."""
  side = model.factor
  images = jnp.zeros((1, side, side, 3))
  return jax.eval_shape(lambda: model.init(jax.random.key(0), images))['params']


def save_tokenizer(path: str | Path, model: VQGAN | PatchVQ, params: Mapping[str, Any]) -> None:
  """Writes a tokenizer to a safetensors file, see `save_params`."""
  kind = next(kind for kind, cls in MODELS.items() if isinstance(model, cls))
  save_params(path, params, kind=kind, config=model.config())


def load_tokenizer(path: str | Path) -> Tokenizer:
  """Reads a tokenizer that `save_tokenizer` or `vmae_jax.convert` wrote.

  Raises:
    UserError: there is no such file, it holds something else, or it is damaged.
  """
  if not str(path):
    raise UserError(f'no tokenizer is named: {_HOW_TO_GET_ONE}')
  if not Path(path).is_file():
    raise UserError(f'there is no tokenizer {path}: {_HOW_TO_GET_ONE}')
  kind = read_kind(path)
  params, config = load_params(path, kind=kind if kind in MODELS else 'vqgan')
  try:  # JSON has no tuples.
    model = MODELS[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
    expected = flatten_dict(param_shapes(model), sep='/')
  except (TypeError, KeyError, ValueError) as e:
    raise UserError(f'{path}: its config makes no tokenizer ({e}): make the file again.') from e
  found = flatten_dict(params, sep='/')
  wrong = [f'{name} is missing' for name in expected if name not in found]
  wrong += [f'{name} is unknown' for name in found if name not in expected]
  wrong += [
    f'{name} is {found[name].shape}, not {shape.shape}'
    for name, shape in expected.items()
    if name in found and found[name].shape != shape.shape
  ]
  if wrong:
    raise UserError(
      f'{path} does not fit its own config, {len(wrong)} tensors are wrong '
      f'({"; ".join(wrong[:5])}): make the file again.'
    )
  return Tokenizer(model, params, str(path))


def untrained_tokenizer() -> Tokenizer:
  """A tokenizer for smoke runs and tests: a code is the nearest of 64 random colours."""
  model = PatchVQ(factor=8, codes=64)
  colours = jax.random.uniform(jax.random.key(0), (model.codes, 1, 3))
  codebook = jnp.tile(colours, (1, model.factor**2, 1)).reshape(model.codes, -1)
  return Tokenizer(model, {'codebook': codebook}, UNTRAINED)
