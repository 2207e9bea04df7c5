"""Random maskings, which use neither the clip nor its flow."""

from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.masking.mask import Grid, Mask, count, hide_at_random, split
from vmae_jax.types import Array, Key


def tube(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """Hides the same int(ratio * h * w) places in every time slot (VideoMAE)."""
  t, h, w = grid
  hidden = count(ratio, h * w)
  slot = hide_at_random(key, n=h * w, hidden=hidden)
  return split(jnp.tile(slot, t), visible=t * (h * w - hidden))


def per_slot(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """Hides int(ratio * h * w) places of every time slot, drawn anew for each slot (MotionMAE)."""
  t, h, w = grid
  hidden = count(ratio, h * w)
  slots = jax.vmap(lambda k: hide_at_random(k, n=h * w, hidden=hidden))(jax.random.split(key, t))
  return split(slots.reshape(-1), visible=t * (h * w - hidden))


def random(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """Hides int(ratio * n) tokens anywhere in space and time (MAE-ST)."""
  t, h, w = grid
  hidden = count(ratio, t * h * w)
  return split(hide_at_random(key, n=t * h * w, hidden=hidden), visible=t * h * w - hidden)


def frame(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """Hides int(ratio * t) whole time slots: a baseline in VideoMAE's ablations."""
  t, h, w = grid
  hidden = count(ratio, t)
  slots = hide_at_random(key, n=t, hidden=hidden)
  return split(jnp.repeat(slots, h * w), visible=(t - hidden) * h * w)
