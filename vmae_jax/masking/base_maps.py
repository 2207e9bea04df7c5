"""Base maps of motion-guided masking: high values are the visible places of the base frame.

Each is (key, *, grid (h, w), cell (rows and columns of a token), visible) -> Float 'H W', with
maximum 1 and no zeros, because a warp writes 0 where nothing of the map arrives.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.masking.mask import hide_at_random
from vmae_jax.types import Array, Float, Key

Size = tuple[int, int]  # Rows and columns.
_HIDDEN = 1e-8  # Value of hidden places, not quite 0; as in the released code.


def gaussians(
  key: Key[Array, ''], *, grid: Size, cell: Size, visible: int, combine: Callable[..., Any]
) -> Float[Array, 'H W']:
  """A peak in the middle of each of `visible` random tokens: exp(-(distance / side of a token)^2).

  Overlapping peaks are combined by their maximum (MGMAE's choice) or their sum, in which peaks with
  close neighbours are higher than single ones.
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
  """Random single pixels of the flow's grid, as large a share as that of the visible tokens."""
  shape = grid[0] * cell[0], grid[1] * cell[1]
  count = shape[0] * shape[1] * visible // (grid[0] * grid[1])
  chosen = hide_at_random(key, n=shape[0] * shape[1], hidden=count)
  return jnp.where(chosen.reshape(shape), 1.0, _HIDDEN)


def tokens(key: Key[Array, ''], *, grid: Size, cell: Size, visible: int) -> Float[Array, 'H W']:
  """Random whole tokens, with sharp edges."""
  chosen = hide_at_random(key, n=grid[0] * grid[1], hidden=visible).reshape(grid)
  field = jnp.where(chosen, 1.0, _HIDDEN)
  return field.repeat(cell[0], 0).repeat(cell[1], 1)


BASE_MAPS = {
  'gaussian_max': functools.partial(gaussians, combine=jnp.max),
  'gaussian_sum': functools.partial(gaussians, combine=jnp.sum),
  'pixels': pixels,
  'tokens': tokens,
}
