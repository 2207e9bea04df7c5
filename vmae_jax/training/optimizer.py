"""AdamW with the papers' decay rules and learning rate."""

import jax
import jax.numpy as jnp
import numpy
import optax

from vmae_jax.models.blocks import decays


def warmup_cosine(*, peak: float, end: float, warmup_steps: int, steps: int) -> optax.Schedule:
  """Linear from 0 to the peak, which the last warm-up step reaches, then half a cosine.

  Source: VideoMAE's `cosine_scheduler`; its step after the warm-up is at the peak once more.
  A step that is a Python number, as the log has it, is computed with on the host: a device would
  do so only after the training step that it is busy with.
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
  *,
  schedule: optax.Schedule,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
) -> optax.GradientTransformation:
  """AdamW; gradients are first cut to the global norm `clip_norm` if that is above 0."""
  adamw = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=decays)
  if clip_norm > 0:
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
  return adamw
