"""Maps our parameters to the tensors of another implementation and back, value for value.

Ours are stacked over layers along a first axis, and matrices multiply from the right. The others
have a tensor for each layer, and their matrices are the transposes of ours. A format is a
function from our path (and layer) to the names of its tensors.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.errors import UserError, first_few
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.decoder import Output
from vmae_jax.models.encoder import Encoder
from vmae_jax.types import Num

Tensors = Mapping[str, Num[np.ndarray, '...']]

# (our path, layer or None) -> names; several are stacked rows of one matrix.
Names = Callable[[str, int | None], tuple[str, ...]]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in all published models.


def model_info(**known: Any) -> dict[str, Any]:
  """The info of `load_pretrained`; what is not given is as in the official VideoMAE."""
  usual = dict(method='videomae', eps=1e-6, mean=MEAN, std=STD, normalised_targets=True)
  unknown = dict.fromkeys(('decoder', 'pixels', 'classes', 'pool', 'id2label'))
  return usual | unknown | known


def build_model(info: Mapping[str, Any]) -> nn.Module:
  """The model that `info`, as from `load_pretrained`, describes."""
  encoder = dict(info['encoder'], patch=tuple(info['patch']))
  common = {'eps': info['eps'], 'scan': True}
  if info['kind'] == 'classification':
    return Classifier(encoder | common, info['classes'], pool=info['pool'])
  if heads := predicted_heads(info):
    return MaskedAutoencoder(encoder, info['decoder'], heads, common)
  return Encoder(**encoder, **common)


def predicted_heads(info: Mapping[str, Any]) -> dict[str, Output]:
  """What the decoders of a pre-trained model predict, as far as `info` describes it."""
  if 'outputs' in info:  # MME.
    return {name: Output(*fields) for name, fields in info['outputs'].items()}
  if info['kind'] != 'pretraining' or not info['pixels']:
    return {}
  decoder, head = info['pixels']
  return {head: Output(decoder, math.prod(info['patch']) * info['channels'])}


def param_shapes(info: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters of the model that `info` describes, as shapes."""
  pt, ph, pw = info['patch']
  clip = jax.ShapeDtypeStruct((1, 2 * pt, ph, pw, info['channels']), jnp.float32)
  one_token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  model = build_model(info)
  inputs = (clip, one_token, one_token) if isinstance(model, MaskedAutoencoder) else (clip,)
  params = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
  return {'encoder': params} if isinstance(model, Encoder) else params


def _parts(
  leaves: Mapping[str, Any], info: Mapping[str, Any], names: Names
) -> Iterator[tuple[str, int | None, tuple[str, ...], tuple[int, ...]]]:
  """For each layer: path, layer or None, names of its tensors, and their shape when joined."""
  for path, leaf in leaves.items():
    stacked = '/blocks/block/' in path
    shape = _their_shape(path, leaf.shape[stacked:], info)
    for layer in range(leaf.shape[0]) if stacked else [None]:
      yield path, layer, names(path, layer), shape


def from_tensors(
  tensors: Tensors, info: Mapping[str, Any], names: Names, *, where: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Our parameters from the tensors of a format, and the tensors that were not used.

  Raises:
    UserError: tensors are missing or do not have the shape that follows from the others.
  """
  leaves = flatten_dict(param_shapes(info), sep='/')
  shapes = tensor_shapes(info, names)
  refuse([name for name in shapes if name not in tensors], 'are missing', where)
  refuse(
    [
      f'{name} is {list(tensors[name].shape)}, not {list(shape)}'
      for name, shape in shapes.items()
      if tensors[name].shape != shape
    ],
    'have another shape than the rest of the model asks for',
    where,
  )
  flat = {path: np.empty(leaf.shape, np.float32) for path, leaf in leaves.items()}
  for path, layer, parts, _ in _parts(leaves, info, names):
    joined = np.concatenate([tensors[name] for name in parts])
    flat[path][() if layer is None else layer] = _ours(path, joined)
  unused = {name: value for name, value in tensors.items() if name not in shapes}
  return unflatten_dict(flat, sep='/'), unused


def tensor_shapes(info: Mapping[str, Any], names: Names) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every tensor that a format has for the model that `info` describes."""
  leaves = flatten_dict(param_shapes(info), sep='/')
  return {
    name: (rows // len(parts), *columns)
    for _, _, parts, (rows, *columns) in _parts(leaves, info, names)
    for name in parts
  }


def to_tensors(
  params: Mapping[str, Any], info: Mapping[str, Any], names: Names
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Tensors in another format, and by path the parameters that `info` does not describe."""
  flat = {path: np.asarray(value) for path, value in flatten_dict(params, sep='/').items()}
  leaves, tensors = flatten_dict(param_shapes(info), sep='/'), {}
  for path, layer, parts, shape in _parts(leaves, info, names):
    value = flat[path] if layer is None else flat[path][layer]
    split = np.split(_theirs(path, value, info).reshape(shape), len(parts))
    tensors |= {n: np.ascontiguousarray(v) for n, v in zip(parts, split, strict=True)}
  return tensors, {path: value for path, value in flat.items() if path not in leaves}


def count_layers(names: Collection[str], pattern: str) -> int:
  """One more than the largest number in the pattern's group over all names; 0 without a match."""
  found = (re.match(pattern, name) for name in names)
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def rename(name: str, table: Sequence[tuple[str, str]]) -> str:
  """A name after all replacements (regular expression, text) of a table, in its order."""
  for pattern, replacement in table:
    name = re.sub(pattern, replacement, name)
  return name


def refuse(names: list[str], what: str, where: str) -> None:
  """Raises a UserError that names the first few tensors, if there are any."""
  if names:
    raise UserError(
      f'{where}: {len(names)} tensors {what}: {first_few(names, separator="; ")}. Is the '
      'checkpoint whole, and of this kind of model?'
    )


def _their_shape(path: str, shape: tuple[int, ...], info: Mapping[str, Any]) -> tuple[int, ...]:
  """The shape that the parameter of a layer has in PyTorch."""
  if path.endswith('embed/kernel'):  # A convolution there.
    return (shape[1], info['channels'], *info['patch'])
  if path.endswith('mask_token'):
    return (1, 1, *shape)
  return shape[::-1]


def _ours(path: str, value: Num[np.ndarray, '...']) -> Num[np.ndarray, '...']:
  if path.endswith('embed/kernel'):
    return value.transpose(2, 3, 4, 1, 0).reshape(-1, len(value))
  return value.reshape(-1) if path.endswith('mask_token') else value.T


def _theirs(
  path: str, value: Num[np.ndarray, '...'], info: Mapping[str, Any]
) -> Num[np.ndarray, '...']:
  if path.endswith('embed/kernel'):
    return value.reshape(*info['patch'], info['channels'], -1).transpose(4, 3, 0, 1, 2)
  return value.T
