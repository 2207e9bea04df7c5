"""Maps from which motion-guided masking starts: which places of the base frame are visible.

Each is (key, *, grid (h, w), cell (rows and columns of a token), visible) -> Float 'H W', with
maximum 1 and no zeros: a warp marks with 0 what has left the frame.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.masking.mask import hide_at_random
from vmae_jax.types import Array, Float, Key

Size = tuple[int, int]  # Rows and columns.
_NEVER_ZERO = 1e-8  # As in the released code.


def gaussians(
  key: Key[Array, ''], *, grid: Size, cell: Size, visible: int, combine: Callable[..., Any]
) -> Float[Array, 'H W']:
  """A peak in the middle of each of `visible` tokens: exp(-(d / side of a token)^2).

  Where peaks overlap, `combine` is the maximum (MGMAE's choice) or the sum, in which close peaks
  win over lone ones.
  """
  h, w = grid
  chosen = jnp.argsort(jax.random.uniform(key, (h * w,)))[:visible]

  def profile(place, size, count):
    centre = place * size + (size - 1) / 2
    return jnp.exp(-jnp.square((jnp.arange(count * size) - centre[:, None]) / size))

  rows = profile(chosen // w, cell[0], h)
  columns = profile(chosen % w, cell[1], w)
  field = combine(rows[:, :, None] * columns[:, None, :], axis=0)
  return jnp.maximum(field / field.max(), 1e-30)


def pixels(key: Key[Array, ''], *, grid: Size, cell: Size, visible: int) -> Float[Array, 'H W']:
  """The share of visible tokens, as single pixels of the flow's grid."""
  shape = grid[0] * cell[0], grid[1] * cell[1]
  count = shape[0] * shape[1] * visible // (grid[0] * grid[1])
  chosen = hide_at_random(key, n=shape[0] * shape[1], hidden=count)
  return jnp.where(chosen.reshape(shape), 1.0, _NEVER_ZERO)


def tokens(key: Key[Array, ''], *, grid: Size, cell: Size, visible: int) -> Float[Array, 'H W']:
  """Whole tokens, with sharp edges."""
  chosen = hide_at_random(key, n=grid[0] * grid[1], hidden=visible).reshape(grid)
  field = jnp.where(chosen, 1.0, _NEVER_ZERO)
  return field.repeat(cell[0], 0).repeat(cell[1], 1)


BASE_MAPS = {
  'gaussian_max': functools.partial(gaussians, combine=jnp.max),
  'gaussian_sum': functools.partial(gaussians, combine=jnp.sum),
  'pixels': pixels,
  'tokens': tokens,
}
