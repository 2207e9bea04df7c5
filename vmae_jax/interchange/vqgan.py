"""Checkpoints of VQGAN from taming-transformers."""

from collections.abc import Collection
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.errors import UserError
from vmae_jax.frozen.tokenizer import param_shapes
from vmae_jax.frozen.vqgan import VQGAN
from vmae_jax.interchange.layout import Tensors, count_layers, name_first, rename

CODEBOOKS = {'nearest': 'quantize.embedding.weight', 'gumbel': 'quantize.embed.weight'}
# Our paths -> their names, in this order. In `mid` the number is a part of the name: `attn_1`.
_RENAMED = (
  (r'/(down|up)_(\d+)/', r'/\1.\2/'),
  (r'(?<!/mid)/(block|attn)_(\d+)/', r'/\1.\2/'),
  (r'/(downsample|upsample)/', r'/\1.conv/'),
  ('code_logits/', 'quantize.proj/'),
  ('(kernel|scale)$', 'weight'),
  ('/', '.'),
)


def vqgan_kind(names: Collection[str]) -> bool:
  """Whether tensors of these names are of a VQGAN."""
  return 'post_quant_conv.weight' in names and 'encoder.conv_in.weight' in names


def vqgan_from_taming(tensors: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
  """The config of `VQGAN` and its parameters from the state dict of a VQModel or a GumbelVQ.

  The model follows from names and shapes, except for the 32 groups of its GroupNorms, which are
  the same in all of them. What belongs to the training loss is left out.

  Args:
    tensors: The whole state dict.

  Raises:
    UserError: tensors are missing, left over or of other shapes; the first five are named.
  """
  left = {name: value for name, value in tensors.items() if not name.startswith('loss.')}
  model = _model(left)
  flat, missing, misshapen = {}, [], []
  for path, leaf in flatten_dict(param_shapes(model), sep='/').items():
    name = CODEBOOKS[model.quantizer] if path == 'codebook' else rename(path, _RENAMED)
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
        f'{len(names)} tensors {what}: {name_first(names)}; is this a checkpoint of a VQModel or '
        'GumbelVQ of taming-transformers, with attention at the last level alone?'
      )
  return model.config(), unflatten_dict(flat, sep='/')


def _model(tensors: Tensors) -> VQGAN:
  """The model that has tensors of these names and shapes."""
  quantizer = 'gumbel' if 'quantize.embed.weight' in tensors else 'nearest'
  levels = count_layers(tensors, r'encoder\.down\.(\d+)\.')
  blocks = count_layers(tensors, r'encoder\.down\.0\.block\.(\d+)\.')
  firsts = [f'encoder.down.{i}.block.0.conv1.weight' for i in range(levels)]
  needed = ['encoder.conv_in.weight', 'encoder.conv_out.weight', 'quant_conv.weight']
  needed.append(CODEBOOKS[quantizer])
  if missing := [name for name in needed + firsts if name not in tensors]:
    raise UserError(f'this is no VQGAN of taming-transformers: it lacks {name_first(missing)}.')
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
