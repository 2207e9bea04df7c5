"""Random maskings, which use neither the clip nor its motion."""

from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.masking.mask import Grid, Mask, count, hide_at_random, split
from vmae_jax.types import Array, Key


def tube(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """The same places hidden in every time slot (VideoMAE): int(ratio * h * w) a slot."""
  t, h, w = grid
  hidden = count(ratio, h * w)
  slot = hide_at_random(key, n=h * w, hidden=hidden)
  return split(jnp.tile(slot, t), visible=t * (h * w - hidden))


def per_slot(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """Places drawn anew in every time slot, int(ratio * h * w) each (MotionMAE)."""
  t, h, w = grid
  hidden = count(ratio, h * w)
  slots = jax.vmap(lambda k: hide_at_random(k, n=h * w, hidden=hidden))(jax.random.split(key, t))
  return split(slots.reshape(-1), visible=t * (h * w - hidden))


def random(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """Tokens anywhere in space and time, int(ratio * n) in all (MAE-ST)."""
  t, h, w = grid
  hidden = count(ratio, t * h * w)
  return split(hide_at_random(key, n=t * h * w, hidden=hidden), visible=t * h * w - hidden)


def frame(key: Key[Array, ''], clip: Any, flow: Any, *, grid: Grid, ratio: float) -> Mask:
  """Whole time slots, int(ratio * t) of them: the baseline that VideoMAE ablates against."""
  t, h, w = grid
  hidden = count(ratio, t)
  slots = hide_at_random(key, n=t, hidden=hidden)
  return split(jnp.repeat(slots, h * w), visible=(t - hidden) * h * w)
