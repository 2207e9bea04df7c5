"""Checkpoints of VQGAN from taming-transformers."""

from collections.abc import Collection
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.frozen.tokenizer import param_shapes
from vmae_jax.frozen.vqgan import VQGAN
from vmae_jax.interchange.layout import Tensors, count_layers, refuse, rename

CODEBOOKS = {'nearest': 'quantize.embedding.weight', 'gumbel': 'quantize.embed.weight'}
_WHERE = (
  'not a VQGAN of taming-transformers (VQModel or GumbelVQ with attention only at the last level)'
)
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
  """Config and parameters of `VQGAN` from the whole state dict of a VQModel or a GumbelVQ.

  The model follows from names and shapes, except for the 32 groups of GroupNorms, which all models
  have. Tensors of the training loss are left out.

  Raises:
    UserError: tensors are missing, left over or of other shapes; the first few are named.
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
    if value.ndim == 4:  # (out, in, rows, columns); some 1 x 1 convolutions are matrices here.
      value = value.transpose(2, 3, 1, 0)
      value = value[0, 0] if len(leaf.shape) == 2 and value.shape[:2] == (1, 1) else value
    if value.shape != leaf.shape:
      misshapen.append(f'{name} {tensors[name].shape}')
    flat[path] = value
  refuse(missing, 'are missing', _WHERE)
  refuse(misshapen, 'have shapes that do not fit the others', _WHERE)
  refuse(list(left), 'have no place in it', _WHERE)
  return model.config(), unflatten_dict(flat, sep='/')


def _model(tensors: Tensors) -> VQGAN:
  """The model to which tensors of these names and shapes belong."""
  quantizer = 'gumbel' if 'quantize.embed.weight' in tensors else 'nearest'
  levels = count_layers(tensors, r'encoder\.down\.(\d+)\.')
  blocks = count_layers(tensors, r'encoder\.down\.0\.block\.(\d+)\.')
  firsts = [f'encoder.down.{i}.block.0.conv1.weight' for i in range(levels)]
  needed = ['encoder.conv_in.weight', 'encoder.conv_out.weight', 'quant_conv.weight']
  needed.append(CODEBOOKS[quantizer])
  refuse([name for name in needed + firsts if name not in tensors], 'are missing', _WHERE)
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
