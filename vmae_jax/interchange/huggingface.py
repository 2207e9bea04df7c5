"""VideoMAE as transformers names it (release 5) -> the parameters of this package."""

import re
from collections.abc import Mapping

import numpy as np

from vmae_jax.types import Float

Tensors = Mapping[str, Float[np.ndarray, '...']]

# In a block: transformers' name -> ours. A weight is turned, a LayerNorm's is a scale.
_BLOCK = {
  'attention.output.dense': 'attention/proj',
  'intermediate.dense': 'mlp/fc1',
  'output.dense': 'mlp/fc2',
  'layernorm_before': 'norm1',
  'layernorm_after': 'norm2',
}
_SINGLE = {
  'encoder_to_decoder': 'decoder/from_encoder',
  'decoder.norm': 'decoder/norm',
  'decoder.head': 'decoder/head_pixels',
  'videomae.layernorm': 'encoder/norm',
  'fc_norm': 'fc_norm',
  'classifier': 'classifier',
}
_STACKS = {'videomae.encoder.layer': 'encoder', 'decoder.decoder_layers': 'decoder'}


def from_huggingface(tensors: Tensors) -> dict:
  """Parameters of `MaskedAutoencoder` or `Classifier` from a VideoMAE state dict.

  Args:
    tensors: Of `VideoMAEForPreTraining` or `VideoMAEForVideoClassification`, all of them.

  Raises:
    KeyError: a tensor is missing.
    ValueError: a tensor has no place in the model.
  """
  tensors = dict(tensors)
  flat = {}
  kernel = tensors.pop('videomae.embeddings.patch_embeddings.projection.weight')
  flat['encoder/embed/kernel'] = kernel.transpose(2, 3, 4, 1, 0).reshape(-1, len(kernel))
  flat['encoder/embed/bias'] = tensors.pop('videomae.embeddings.patch_embeddings.projection.bias')
  if 'mask_token' in tensors:
    flat['decoder/mask_token'] = tensors.pop('mask_token').reshape(-1)
  for theirs, ours in _SINGLE.items():
    flat |= _layer(tensors, theirs, ours)
  for theirs, ours in _STACKS.items():
    found = (re.match(rf'{re.escape(theirs)}\.(\d+)\.', name) for name in tensors)
    depth = 1 + max((int(match[1]) for match in found if match), default=-1)
    blocks = [_block(tensors, f'{theirs}.{i}') for i in range(depth)]
    for name in blocks[0] if blocks else ():
      flat[f'{ours}/blocks/block/{name}'] = np.stack([block[name] for block in blocks])
  if tensors:
    raise ValueError(f'{len(tensors)} tensors are no part of VideoMAE: {", ".join(tensors)}')
  params: dict = {}
  for path, value in flat.items():
    *folders, leaf = path.split('/')
    node = params
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = value
  return params


def _layer(tensors: dict, theirs: str, ours: str) -> dict:
  weight, bias = tensors.pop(f'{theirs}.weight', None), tensors.pop(f'{theirs}.bias', None)
  if weight is None:
    return {}
  layer = {f'{ours}/kernel': weight.T} if weight.ndim == 2 else {f'{ours}/scale': weight}
  return layer if bias is None else layer | {f'{ours}/bias': bias}


def _block(tensors: dict, prefix: str) -> dict:
  block = {}
  for theirs, ours in _BLOCK.items():
    block |= _layer(tensors, f'{prefix}.{theirs}', ours)
  attention = f'{prefix}.attention.attention'
  rows = [tensors.pop(f'{attention}.{part}.weight') for part in ('query', 'key', 'value')]
  block['attention/qkv/kernel'] = np.concatenate(rows).T
  block['attention/q_bias'] = tensors.pop(f'{attention}.query.bias')
  block['attention/v_bias'] = tensors.pop(f'{attention}.value.bias')
  return block
