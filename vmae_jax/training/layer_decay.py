"""Learning rates that fall from the head to the patches: layer-wise decay."""

import re
from typing import Any

import jax
import optax

from vmae_jax.types import Array, Float


def layer_scales(params: Any, *, decay: float, depth: int) -> Any:
  """For each parameter: decay^(depth + 1 - layer), as a factor on its learning rate.

  The embedding is layer 0, block i layer i + 1, all else depth + 1, hence 1 (BEiT's rule, which
  VideoMAE follows). Blocks are stacked along the leading axis: they get one factor each.

  Args:
    params: Of a `Classifier`, or a tree like it.
    decay: Below 1, lower layers learn more slowly.
    depth: Blocks of the encoder.
  """

  def scale(path, x) -> float | Float[Array, 'depth ...']:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if re.search(r'(^|/)encoder/embed/', name):
      return decay ** (depth + 1)
    if re.search(r'(^|/)encoder/blocks/', name):
      factors = jax.numpy.asarray([decay ** (depth - i) for i in range(depth)])
      return factors.reshape(-1, *(1,) * (x.ndim - 1))
    return 1.0

  return jax.tree_util.tree_map_with_path(scale, params)


def scale_by_layer(*, decay: float, depth: int) -> optax.GradientTransformation:
  """Multiplies updates by `layer_scales`; after AdamW, it scales weight decay as well."""

  def update(updates, _):
    return jax.tree.map(
      lambda update, scale: update * scale, updates, layer_scales(updates, decay=decay, depth=depth)
    )

  return optax.stateless(update)
