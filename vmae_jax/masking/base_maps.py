"""Maps from which motion-guided masking starts: which places of the base frame are seen.

Each is (key, *, grid (h, w), cell (rows and columns of a token), visible) -> Float 'H W', its
greatest value 1 and none 0, for a warp marks with 0 what has left the frame.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.masking.mask import hide_at_random
from vmae_jax.types import Array, Float, Key

_NEVER_ZERO = 1e-8  # As the released code has it.


def _gaussians(
  key: Key[Array, ''],
  *,
  grid: tuple[int, int],
  cell: tuple[int, int],
  visible: int,
  combine: Callable[..., Any],
) -> Float[Array, 'H W']:
  """A peak in the middle of each of `visible` tokens: exp(-(d / side of a token)^2)."""
  h, w = grid
  chosen = jnp.argsort(jax.random.uniform(key, (h * w,)))[:visible]

  def profile(place, size, count):
    centre = place * size + (size - 1) / 2
    return jnp.exp(-jnp.square((jnp.arange(count * size) - centre[:, None]) / size))

  rows = profile(chosen // w, cell[0], h)
  columns = profile(chosen % w, cell[1], w)
  field = combine(rows[:, :, None] * columns[:, None, :], axis=0)
  return jnp.maximum(field / field.max(), 1e-30)


def gaussian_max(key: Key[Array, ''], **sizes: Any) -> Float[Array, 'H W']:
  """Where peaks overlap, the higher one counts (MGMAE's choice)."""
  return _gaussians(key, combine=jnp.max, **sizes)


def gaussian_sum(key: Key[Array, ''], **sizes: Any) -> Float[Array, 'H W']:
  """Peaks add up: close ones win over lone ones."""
  return _gaussians(key, combine=jnp.sum, **sizes)


def pixels(
  key: Key[Array, ''], *, grid: tuple[int, int], cell: tuple[int, int], visible: int
) -> Float[Array, 'H W']:
  """The share of visible tokens, as single pixels of the flow's grid."""
  shape = grid[0] * cell[0], grid[1] * cell[1]
  count = shape[0] * shape[1] * visible // (grid[0] * grid[1])
  chosen = hide_at_random(key, n=shape[0] * shape[1], hidden=count)
  return jnp.where(chosen.reshape(shape), 1.0, _NEVER_ZERO)


def tokens(
  key: Key[Array, ''], *, grid: tuple[int, int], cell: tuple[int, int], visible: int
) -> Float[Array, 'H W']:
  """Whole tokens, with sharp edges."""
  chosen = hide_at_random(key, n=grid[0] * grid[1], hidden=visible).reshape(grid)
  field = jnp.where(chosen, 1.0, _NEVER_ZERO)
  return field.repeat(cell[0], 0).repeat(cell[1], 1)


BASE_MAPS = {
  'gaussian_max': gaussian_max,
  'gaussian_sum': gaussian_sum,
  'pixels': pixels,
  'tokens': tokens,
}
