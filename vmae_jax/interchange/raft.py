"""Checkpoints of RAFT from torchvision or princeton-vl."""

from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.frozen.raft import RAFT
from vmae_jax.interchange.layout import Tensors, refuse, rename

# Princeton's names -> torchvision's, in this order.
_PRINCETON = (
  (r'^fnet\.', 'feature_encoder.'),
  (r'^cnet\.', 'context_encoder.'),
  (r'_encoder\.conv1\.', '_encoder.convnormrelu.0.'),
  (r'_encoder\.norm1\.', '_encoder.convnormrelu.1.'),
  (r'_encoder\.conv2\.', '_encoder.conv.'),
  (r'(layer\d\.\d)\.conv(\d)\.', r'\1.convnormrelu\2.0.'),
  (r'(layer\d\.\d)\.norm([12])\.', r'\1.convnormrelu\2.1.'),
  (r'^update_block\.encoder\.convc(\d)', r'update_block.motion_encoder.convcorr\1.0'),
  (r'^update_block\.encoder\.convf(\d)', r'update_block.motion_encoder.convflow\1.0'),
  (r'^update_block\.encoder\.conv\.', 'update_block.motion_encoder.conv.0.'),
  (r'^update_block\.gru\.conv([zrq])\.', r'update_block.gru.conv\g<1>1.'),  # Small has one.
  (r'^update_block\.gru\.conv([zrq])(\d)\.', r'update_block.recurrent_block.convgru\2.conv\1.'),
  (r'^update_block\.mask\.0\.', 'mask_predictor.convrelu.0.'),
  (r'^update_block\.mask\.2\.', 'mask_predictor.conv.'),
)
# Our paths -> torchvision's names, in this order.
_OURS = (
  (r'^(\w+_encoder)/stem/conv', r'\1.convnormrelu.0'),
  (r'^(\w+_encoder)/stem/norm', r'\1.convnormrelu.1'),
  (r'^(\w+_encoder)/out', r'\1.conv'),
  (r'/stage(\d)_(\d)/layer(\d)', r'.layer\1.\2.convnormrelu\3'),
  (r'/stage(\d)_(\d)/skip', r'.layer\1.\2.downsample'),
  (r'/conv/', '.0/'),
  (r'/norm/', '.1/'),
  (r'^update/(corr|flow)(\d)', r'update_block.motion_encoder.conv\1\2.0'),
  (r'^update/motion', 'update_block.motion_encoder.conv.0'),
  (r'^update/gru(\d)/(\w)', r'update_block.recurrent_block.convgru\1.conv\2'),
  (r'^update/head(\d)', r'update_block.flow_head.conv\1'),
  (r'^convex_mask/layer1', 'mask_predictor.convrelu.0'),
  (r'^convex_mask/layer2', 'mask_predictor.conv'),
)


def raft_kind(names: Collection[str]) -> bool:
  """Whether tensors of these names are of RAFT, torchvision's or princeton-vl's."""
  stems = 'feature_encoder.convnormrelu.0.weight', 'fnet.conv1.weight'
  return any(name.removeprefix('module.') in stems for name in names)


def raft_from_torch(tensors: Tensors) -> tuple[dict[str, str], dict[str, Any]]:
  """The config (`size`: 'small' or 'large') and parameters of `RAFT` from a whole state dict.

  A frozen BatchNorm becomes a scale and a bias, which combine its weight and bias with its running
  statistics. Batch counters and princeton's second names of some norms are left out.

  Raises:
    UserError: tensors are missing, left over or of other shapes; the first few are named.
  """
  left, twice = {}, []
  for name, value in tensors.items():
    if name.endswith('.num_batches_tracked'):
      continue
    theirs = rename(name.removeprefix('module.'), _PRINCETON)
    if theirs in left:
      twice.append(name)
    left[theirs] = value
  # Princeton saves the norm of a skip connection twice, as `downsample.1` and as `norm3`.
  for name in [name for name in left if '.norm3.' in name]:
    first = left.get(name.replace('.norm3.', '.downsample.1.'))
    if first is not None and np.array_equal(first, left[name]):
      del left[name]
  size = 'large' if 'mask_predictor.conv.weight' in left else 'small'
  shapes = flatten_dict(param_shapes(size), sep='/')
  sources = {path: _their_names(path) for path in shapes}
  needed = dict.fromkeys(name for names in sources.values() for name in names)
  where = f"not a RAFT {size} of torchvision or princeton-vl (these are torchvision's names)"
  refuse(twice, 'are there twice', where)
  refuse([name for name in needed if name not in left], 'are missing', where)
  refuse([name for name in left if name not in needed], 'have no place in it', where)
  values = {name: left[name].astype(np.float32) for name in needed}
  values = {name: v.transpose(2, 3, 1, 0) if v.ndim == 4 else v for name, v in values.items()}
  pairs = [(name, shapes[path].shape) for path, names in sources.items() for name in names]
  misshapen = {name: left[name].shape for name, shape in pairs if values[name].shape != shape}
  refuse([f'{name} {shape}' for name, shape in misshapen.items()], 'have other shapes', where)
  flat = {}
  for path, names in sources.items():
    value, *statistics = (values[name] for name in names)
    flat[path] = value
    if '/norm/' in path:
      variance, *shift = statistics
      flat[path] = scale = value / np.sqrt(variance + np.float32(1e-5))
      if shift:
        bias, mean = shift
        flat[path] = bias - mean * scale
  return {'size': size}, unflatten_dict(flat, sep='/')


def param_shapes(size: str) -> dict[str, Any]:
  """RAFT's parameters, as shapes."""
  frames = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  return jax.eval_shape(RAFT(size, 1).init, jax.random.key(0), frames, frames)['params']


def _their_names(path: str) -> list[str]:
  """The tensors that a parameter is made of."""
  layer, leaf = rename(path, _OURS).rsplit('/', 1)
  if '/norm/' in path:
    parts = ('weight', 'running_var', 'bias', 'running_mean')
    return [f'{layer}.{part}' for part in parts[: 2 if leaf == 'scale' else 4]]
  return [f'{layer}.{"weight" if leaf == "kernel" else "bias"}']
