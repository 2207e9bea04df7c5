"""Between our tree of parameters and the tensors of another implementation, value for value.

Both sides hold the same numbers: ours has layers stacked along a first axis and matrices that
multiply from the right; the others have a tensor for each layer and matrices turned. A format
is a function from our path (and layer) to the names of its tensors.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.errors import UserError
from vmae_jax.interchange.tensors import Tensors
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.decoder import Output
from vmae_jax.models.encoder import Encoder
from vmae_jax.types import Num

# (our path, layer or None) -> names; several are parts of one matrix, one below the other.
Names = Callable[[str, int | None], tuple[str, ...]]

_MOST_NAMED = 5
_STACK = '/blocks/block/'


def param_shapes(info: Mapping[str, Any]) -> dict[str, Any]:
  """The tree of parameters that `info` describes, shapes for values.

  Args:
    info: Has kind (`pretraining`, `classification`, `encoder`), encoder, decoder, patch, pixels
      (names of the decoder and head of pixels), classes and pool, as `load_pretrained` says.
  """
  encoder = dict(info['encoder'], patch=tuple(info['patch']))
  pt, ph, pw = encoder['patch']
  clip = jax.ShapeDtypeStruct((1, 2 * pt, ph, pw, info['channels']), jnp.float32)
  one = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  key = jax.random.key(0)
  if info['kind'] == 'classification':
    classifier = Classifier(encoder | {'scan': True}, info['classes'], pool=info['pool'])
    shapes = jax.eval_shape(classifier.init, key, clip)
  elif info['kind'] == 'encoder':
    shapes = jax.eval_shape(Encoder(**encoder, scan=True).init, key, clip)
    shapes = {'params': {'encoder': shapes['params']}}
  else:
    decoder, head = info['pixels']
    heads = {head: Output(decoder, math.prod(encoder['patch']) * info['channels'])}
    model = MaskedAutoencoder(encoder, info['decoder'], heads, {'scan': True})
    shapes = jax.eval_shape(model.init, key, clip, one, one)
  return shapes['params']


def from_tensors(
  tensors: Tensors, info: Mapping[str, Any], names: Names, *, where: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Our parameters, and the tensors that none was made of.

  Args:
    tensors: All tensors.
    info: As for `param_shapes`.
    names: The format.
    where: The file, for messages.

  Raises:
    UserError: tensors are missing or of another shape than the others let expect.
  """
  leaves = flatten_dict(param_shapes(info), sep='/')
  shapes = _tensor_shapes(leaves, info, names)
  refuse([name for name in shapes if name not in tensors], 'are missing', where)
  wrong = [(name, shape) for name, shape in shapes.items() if tensors[name].shape != shape]
  refuse(
    [f'{name} is {list(tensors[name].shape)}, not {list(shape)}' for name, shape in wrong],
    'have another shape than the rest of the model asks for',
    where,
  )
  flat = {}
  for path, leaf in leaves.items():
    value = np.empty(leaf.shape, np.float32)
    for layer, _ in _layers(path, leaf.shape):
      parts = [tensors[name] for name in names(path, layer)]
      whole = _ours(path, np.concatenate(parts) if len(parts) > 1 else parts[0])
      value[() if layer is None else layer] = whole
    flat[path] = value
  left = {name: value for name, value in tensors.items() if name not in shapes}
  return unflatten_dict(flat, sep='/'), left


def tensor_shapes(info: Mapping[str, Any], names: Names) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every tensor that a format has for the model that `info` describes."""
  return _tensor_shapes(flatten_dict(param_shapes(info), sep='/'), info, names)


def _tensor_shapes(
  leaves: Mapping[str, Any], info: Mapping[str, Any], names: Names
) -> dict[str, tuple[int, ...]]:
  shapes = {}
  for path, leaf in leaves.items():
    for layer, shape in _layers(path, leaf.shape):
      parts = names(path, layer)
      rows, *rest = _their_shape(path, shape, info)
      shapes |= dict.fromkeys(parts, (rows // len(parts), *rest))
  return shapes


def to_tensors(
  params: Mapping[str, Any], info: Mapping[str, Any], names: Names
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Tensors of another format, and those parameters (by path) that `info` says nothing of."""
  flat, tensors = flatten_dict(params, sep='/'), {}
  for path, leaf in flatten_dict(param_shapes(info), sep='/').items():
    value = np.asarray(flat.pop(path))
    for layer, shape in _layers(path, leaf.shape):
      parts = names(path, layer)
      whole = _theirs(path, value if layer is None else value[layer], info)
      whole = whole.reshape(_their_shape(path, shape, info))
      split = np.split(whole, len(parts))
      tensors |= {n: np.ascontiguousarray(v) for n, v in zip(parts, split, strict=True)}
  return tensors, {path: np.asarray(value) for path, value in flat.items()}


def count_layers(names: Collection[str], pattern: str) -> int:
  """One more than the largest number that the pattern's group finds; 0 if it finds none."""
  found = (re.match(pattern, name) for name in names)
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def refuse(names: list[str], what: str, where: str) -> None:
  """Raises a UserError that names the first of some tensors, if there are any."""
  if names:
    shown, more = '; '.join(names[:_MOST_NAMED]), len(names) - _MOST_NAMED
    raise UserError(
      f'{where}: {len(names)} tensors {what}: {shown}{f"; and {more} more" if more > 0 else ""}. '
      'Is it whole, and of this kind of model?'
    )


def _their_shape(path: str, shape: tuple[int, ...], info: Mapping[str, Any]) -> tuple[int, ...]:
  """The shape that the parameter of a layer has in PyTorch."""
  if path.endswith('embed/kernel'):  # A convolution there.
    return (shape[1], info['channels'], *info['patch'])
  if path.endswith('mask_token'):
    return (1, 1, *shape)
  return shape[::-1]


def _layers(path: str, shape: tuple[int, ...]) -> Iterator[tuple[int | None, tuple[int, ...]]]:
  """(layer, shape) of each tensor that a parameter stands for."""
  if _STACK not in path:
    yield None, shape
  else:
    yield from ((i, shape[1:]) for i in range(shape[0]))


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
