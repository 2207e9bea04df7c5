"""RAFT's correlation volume: how similar each place of one frame is to all places of another.

Coordinates are in pixels of the map. The original has values in [-1, 1] and divides by a level's
size minus one, which is zero at the coarsest level of frames of 64 and of 112 pixels.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from vmae_jax.types import Array, Float


def hat(points: Float[Array, '*q'], size: int) -> Float[Array, '*q {size}']:
  """Weights of linear interpolation at the points, between values at 0, 1, ... size - 1.

  Values outside are zero: within one pixel beyond the ends, the weights fall to 0. A product with
  these weights replaces a gather, since accelerators are fast at products.
  """
  return jnp.maximum(0.0, 1.0 - jnp.abs(points[..., None] - jnp.arange(size)))


def correlation_pyramid(
  first: Float[Array, 'b h w d'], second: Float[Array, 'b h w d'], *, levels: int
) -> list[Float[Array, 'b h w _ _']]:
  """Dot products of all features of the first frame with all of the second, in float32.

  The second frame has half the rows and columns in each next level, rounded down. Of small frames,
  the last levels may be empty.
  """
  pyramid = []
  for _ in range(levels):
    how = dict(precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    products = jnp.einsum('bhwd,byxd->bhwyx', first, second, **how)
    pyramid.append(products / math.sqrt(first.shape[-1]))
    # The mean of four products is the product with the mean.
    second = nn.avg_pool(second, (2, 2), (2, 2))
  return pyramid


def look_up(
  pyramid: list[Float[Array, 'b h w _ _']], target: Float[Array, 'b h w 2'], *, radius: int
) -> Float[Array, 'b h w l']:
  """Correlations around the places that the flow points to: bilinear, zero outside the frame.

  Args:
    pyramid: The result of `correlation_pyramid`.
    target: Where each place of the first frame is in the second, (x, y) in pixels of the map.
    radius: Radius of the window at each level, in pixels of the level.

  Returns:
    (2 radius + 1) ** 2 values for each level, the finest level first. Within a window x varies
    slowest, as in the original, whose weights expect it.
  """
  offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
  found = []
  for i, level in enumerate(pyramid):
    centre = target / 2**i
    x = hat(centre[..., 0, None] + offsets, level.shape[-1])
    y = hat(centre[..., 1, None] + offsets, level.shape[-2])
    # In full precision, since the weights x and y stand for coordinates.
    rows = jnp.einsum('bhwyx,bhwjy->bhwjx', level, y, precision=lax.Precision.HIGHEST)
    window = jnp.einsum('bhwjx,bhwix->bhwij', rows, x, precision=lax.Precision.HIGHEST)
    found.append(window.reshape(*target.shape[:3], -1))
  return jnp.concatenate(found, axis=-1)
