"""AdamW with the papers' weight decay, learning rate schedule and layer-wise decay."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy
import optax

from vmae_jax.models.blocks import decays
from vmae_jax.types import Array, Float


def warmup_cosine(*, peak: float, end: float, warmup_steps: int, steps: int) -> optax.Schedule:
  """Linear from 0 to the peak, which the last warm-up step reaches, then half a cosine.

  Source: VideoMAE's `cosine_scheduler`, in which the step after the warm-up is at the peak, too.
  For a Python number, as in the log, the host computes it: on a device it would have to wait for
  the training step in progress.
  """

  def schedule(step):
    np = jnp if isinstance(step, jax.Array) else numpy
    step = np.asarray(step, np.float32)
    rise = peak * step / max(warmup_steps - 1, 1)
    x = (step - warmup_steps) / max(steps - warmup_steps, 1)
    fall = end + 0.5 * (peak - end) * (1 + np.cos(np.pi * np.clip(x, 0, 1)))
    return np.where(step < warmup_steps, rise, fall)

  return schedule


def make_optimizer(
  c: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """AdamW with the options of a config's block `optimizer`.

  Gradients are first clipped to the global norm `clip_norm` if that is above 0.
  """
  adamw = optax.adamw(schedule, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=decays)
  return optax.chain(optax.clip_by_global_norm(c.clip_norm), adamw) if c.clip_norm > 0 else adamw


def layer_scales(params: Any, *, decay: float, depth: int) -> Any:
  """For each parameter the factor on its learning rate, decay^(depth + 1 - layer).

  The embedding is layer 0, block i is layer i + 1, all else is layer depth + 1, with the factor 1
  (BEiT's rule, which VideoMAE follows). Blocks are stacked along the leading axis, so their factors
  are an array. `params` are those of a `Classifier`, or a tree like them.
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
  """Multiplies updates by `layer_scales`; after AdamW this includes weight decay."""

  def update(updates, _):
    return jax.tree.map(
      lambda update, scale: update * scale, updates, layer_scales(updates, decay=decay, depth=depth)
    )

  return optax.stateless(update)
