"""Sharding of arrays: the mesh, the batch's axes, and rules from parameter paths to axes.

The mesh has three axes. The batch is split over `data` and `fsdp`; parameters, optimizer
moments and EMA are split over `fsdp` (their input side) and `tensor` (heads and hidden
units). Any size may be 1: one CPU is the mesh 1 x 1 x 1, and nothing else changes. Several
slices of TPUs are joined by a slower network: `data` goes over the slices first, so that only
sums of gradients cross it. Hosts of GPUs, which JAX counts as slices, are treated the same.
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax.errors import UserError
from vmae_jax.types import Array

AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')

# The first pattern found in a parameter's path decides; paths of the optimizer's moments and of
# the EMA have the same ends. Leading axes that a rule does not name (the depth of a stack of
# blocks) are replicated.
RULES = (
  (r'(qkv|attention/[qkv]|fc1)/kernel$', P('fsdp', 'tensor')),
  (r'(proj|fc2)/kernel$', P('tensor', 'fsdp')),
  (r'(embed|from_encoder|from_regressor|hidden_\w+|head_\w+|classifier)/kernel$', P('fsdp', None)),
  (r'/(bias|scale|q_bias|v_bias|mask_token)$', P()),
)


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
  """A mesh over `devices`, by default all; one size may be -1, which takes the rest of them.

  Axes are Auto: flax.linen modules do not support Explicit ones.

  Raises:
    UserError: the product of sizes is not the number of devices, or does not split over slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor]
  free = [i for i, size in enumerate(sizes) if size == -1]
  known = int(np.prod([size for size in sizes if size != -1]))
  if len(free) == 1 and known > 0 and len(devices) % known == 0:
    sizes[free[0]] = len(devices) // known
  if min(sizes) < 1 or np.prod(sizes) != len(devices):
    raise UserError(
      f'mesh data={data} fsdp={fsdp} tensor={tensor} does not cover the {len(devices)} devices: '
      'choose sizes whose product is that number; one of them may be -1.'
    )
  if (slices := count_slices(devices)) > 1:
    return Mesh(_over_slices(sizes, slices, devices), AXES, axis_types=(AxisType.Auto,) * 3)
  return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def count_slices(devices) -> int:
  """The number of TPU slices, or hosts of GPUs."""
  return len({getattr(device, 'slice_index', 0) for device in devices})


def _over_slices(sizes: list[int], slices: int, devices) -> np.ndarray:
  """Devices in the shape `sizes`: `data`, then `fsdp`, are split over slices, the rest within."""
  data, fsdp, tensor = sizes
  outer = math.gcd(data, slices)
  if fsdp % (slices // outer):
    raise UserError(
      f'mesh data={data} fsdp={fsdp} tensor={tensor} does not go over {slices} slices: choose a '
      f'multiple of {slices} as data (or as data x fsdp).'
    )
  across = (outer, slices // outer, 1)
  within = tuple(size // parts for size, parts in zip(sizes, across, strict=True))
  # As `jax.make_mesh` does for one slice of v5e, whose links allow any shape.
  flat = devices[0].device_kind in ('TPU v5 lite', 'TPU v5e')
  return mesh_utils.create_hybrid_device_mesh(
    within, across, devices, allow_split_physical_axes=flat
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading axis split over all devices that hold data; other axes whole."""
  return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, P())


def constrain_batch(x: Array) -> Array:
  """Keeps activations split over the batch; does nothing where no mesh is set.

  Without it the compiler follows the parameters' `fsdp` axis into the activations, which
  costs many times the memory.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def constrain_heads(x: Array, *, heads: int) -> Array:
  """Keeps the last axis split over `tensor` by heads and all others whole, where a mesh is set."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or heads % mesh.shape['tensor']:
    return x
  return jax.lax.with_sharding_constraint(x, P(*[None] * (x.ndim - 1), 'tensor'))


def tensor_ways() -> int:
  """Devices of the axis `tensor`; 1 where no mesh is set."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.shape['tensor']


def as_on_cpu() -> AbstractMesh:
  """The current mesh, or one device, with CPUs as devices: to trace what no device changes."""
  mesh, device = jax.sharding.get_abstract_mesh(), AbstractDevice('cpu', 1, 'cpu')
  shape = mesh.axis_sizes or (1,) * len(AXES)  # Within a mesh only one of its shape may be set.
  types = (AxisType.Auto,) * len(shape)
  return AbstractMesh(shape, mesh.axis_names or AXES, axis_types=types, abstract_device=device)


def platform() -> str:
  """cpu, gpu or tpu: of the current mesh, which may have no real devices, or of this process."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  name = device.platform if device else jax.default_backend()
  return 'gpu' if name in ('cuda', 'rocm') else name


def spec(*names: str | tuple[str, ...] | None, shape: tuple[int, ...], mesh) -> P:
  """How an array's axes are split over those of a mesh.

  An axis whose size is not divisible, as in small models, stays whole, which is always correct.
  """

  def divides(name, size):
    axes = (name,) if isinstance(name, str) else name or ()
    return size % math.prod(mesh.shape[axis] for axis in axes) == 0

  return P(*(a if divides(a, n) else None for a, n in zip(names, shape, strict=False)))


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  for pattern, names in RULES:
    if re.search(pattern, path):
      # Leading axes that the rule does not name stay whole.
      names = (None,) * (len(shape) - len(names)) + tuple(names) if len(names) else ()
      return spec(*names, shape=shape, mesh=mesh)
  raise ValueError(f'no sharding rule covers the parameter {path}, shape {shape}: add one.')


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
  """Shardings for a tree of parameters, moments or a whole train state.

  Scalars (steps and counters) are replicated; a leaf that no rule covers is a ValueError.
  """

  def sharding(path, leaf):
    if leaf.ndim == 0:
      return NamedSharding(mesh, P())
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return NamedSharding(mesh, _spec(name, leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(sharding, tree)
