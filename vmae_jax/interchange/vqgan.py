"""VQGAN as taming-transformers names it -> the tokenizer and parameters of this package."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.errors import UserError
from vmae_jax.frozen.tokenizer import param_shapes
from vmae_jax.frozen.vqgan import VQGAN
from vmae_jax.types import Num

Tensors = Mapping[str, Num[np.ndarray, '...']]


def vqgan_from_taming(tensors: Tensors) -> tuple[VQGAN, dict[str, Any]]:
  """A model and its parameters from the state dict of a VQModel or a GumbelVQ.

  Everything about the model follows from names and shapes, but for the 32 groups of its
  GroupNorms, which are the same in all of them. What belongs to the training loss is left out.

  Args:
    tensors: The whole state dict.

  Raises:
    UserError: tensors are missing, left over or of other shapes; the first five are named.
  """
  left = {name: value for name, value in tensors.items() if not name.startswith('loss.')}
  model = _model(left)
  flat, missing, misshapen = {}, [], []
  for path, leaf in flatten_dict(param_shapes(model), sep='/').items():
    name = _taming_name(path, model.quantizer)
    value = left.pop(name, None)
    if value is None:
      missing.append(name)
      continue
    if value.ndim == 4:  # (out, in, rows, columns); of 1 x 1 there remains a matrix.
      value = value.transpose(2, 3, 1, 0)
      value = value[0, 0] if len(leaf.shape) == 2 and value.shape[:2] == (1, 1) else value
    if value.shape != leaf.shape:
      misshapen.append(f'{name} {tensors[name].shape}')
    flat[path] = value
  for names, what in (
    (missing, 'are missing'),
    (misshapen, 'have shapes that do not fit the others'),
    (list(left), 'have no place in a VQGAN'),
  ):
    if names:
      raise UserError(
        f'{len(names)} tensors {what}: {_first(names)}; is this a checkpoint of a VQModel or '
        'GumbelVQ of taming-transformers, with attention at the last level alone?'
      )
  return model, unflatten_dict(flat, sep='/')


def _model(tensors: Tensors) -> VQGAN:
  """The model that names and shapes tell of."""
  quantizer = 'gumbel' if 'quantize.embed.weight' in tensors else 'nearest'
  levels = _count(tensors, r'encoder\.down\.(\d+)\.')
  blocks = _count(tensors, r'encoder\.down\.0\.block\.(\d+)\.')
  firsts = [f'encoder.down.{i}.block.0.conv1.weight' for i in range(levels)]
  codebook = _codebook(quantizer)
  needed = ['encoder.conv_in.weight', 'encoder.conv_out.weight', 'quant_conv.weight', codebook]
  if missing := [name for name in needed + firsts if name not in tensors]:
    raise UserError(f'this is no VQGAN of taming-transformers: it lacks {_first(missing)}.')
  channels, latent, embed, codes = (tensors[name].shape[0] for name in needed)
  return VQGAN(
    channels=channels,
    multipliers=tuple(tensors[name].shape[0] // channels for name in firsts),
    res_blocks=blocks,
    latent=latent,
    embed=embed,
    codes=codes,
    quantizer=quantizer,
  )


def _count(tensors: Tensors, pattern: str) -> int:
  found = (re.match(pattern, name) for name in tensors)
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def _codebook(quantizer: str) -> str:
  return {'nearest': 'quantize.embedding.weight', 'gumbel': 'quantize.embed.weight'}[quantizer]


def _taming_name(path: str, quantizer: str) -> str:
  """From `encoder/down_0/block_1/conv1/kernel` to `encoder.down.0.block.1.conv1.weight`."""
  if path == 'codebook':
    return _codebook(quantizer)
  path = re.sub(r'/(down|up)_(\d+)/', r'/\1.\2/', path)
  if '/mid/' not in path:  # There the number is a part of the name: `mid.attn_1`.
    path = re.sub(r'/(block|attn)_(\d+)/', r'/\1.\2/', path)
  path = re.sub(r'/(downsample|upsample)/', r'/\1.conv/', path)
  path = path.replace('code_logits/', 'quantize.proj/')
  return re.sub(r'(kernel|scale)$', 'weight', path).replace('/', '.')


def _first(names: list[str]) -> str:
  return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
