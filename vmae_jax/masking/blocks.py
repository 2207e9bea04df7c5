"""Block masking (V-JEPA): large blocks are hidden for the whole clip."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError
from vmae_jax.masking.mask import Grid, Mask, count, split
from vmae_jax.types import Array, Key


def blocks(
  key: Key[Array, ''],
  clip: Any,
  flow: Any,
  *,
  grid: Grid,
  ratio: float,
  kinds: Sequence[tuple[int, float]] = ((8, 0.15), (2, 0.7)),
  aspect: tuple[float, float] = (0.75, 1.5),
) -> Mask:
  """Hides blocks, which may overlap, in all time slots alike; only their tokens count in the loss.

  int(ratio * h * w) places of each slot are hidden, since the number must not depend on the clip:
  those in blocks and, if these are fewer, random others, which do not count in the loss. If blocks
  cover more places, the last rows of the last block are visible.

  V-JEPA shows each clip with one mask of each kind, and drops tokens from the end until all clips
  of a device have equally many: for 24 clips 23 % are visible beside 8 blocks and 6 % beside 2.
  Drawing one kind for each clip and visit is our choice.

  Args:
    key, clip, flow, grid, ratio: See `MASKINGS`.
    kinds: Each is the number of blocks and the share of the picture that each block covers.
    aspect: Bounds of the blocks' height over width, drawn once for each clip.

  Raises:
    UserError: `kinds` is empty or has a number or a share out of range.

  Source: V-JEPA (Bardes et al., 2024), section 3.2 and its released `multiblock3d.py`.
  """
  t, h, w = grid
  if not kinds or not all(number > 0 and 0 < share <= 1 for number, share in kinds):
    raise UserError(f'masking blocks: kinds is {kinds}: give pairs such as (8, 0.15).')
  numbers, shares = map(jnp.array, zip(*kinds, strict=True))
  most = max(number for number, _ in kinds)
  kind_key, aspect_key, row_key, column_key, rest_key = jax.random.split(key, 5)
  kind = jax.random.randint(kind_key, (), 0, len(kinds))
  cells = jnp.floor(h * w * shares[kind] + 1e-4)
  tall = jax.random.uniform(aspect_key, minval=aspect[0], maxval=aspect[1])

  def covered(key, side, size):
    """Which rows or columns each block covers."""
    side = jnp.clip(jnp.round(side), 1, size)
    first = jnp.floor(jax.random.uniform(key, (most, 1)) * (size - side + 1))
    return (jnp.arange(size) >= first) & (jnp.arange(size) < first + side)

  rows = covered(row_key, jnp.sqrt(cells * tall), h)
  columns = covered(column_key, jnp.sqrt(cells / tall), w)
  inside = (rows[:, :, None] & columns[:, None]).reshape(most, -1)
  inside &= (jnp.arange(most) < numbers[kind])[:, None]
  # The number of the first block that covers a place; other places follow in random order.
  first = jnp.where(inside.any(axis=0), inside.argmax(axis=0), most)
  first = first + jnp.where(first == most, jax.random.uniform(rest_key, (h * w,)), 0.0)
  hidden = count(ratio, h * w)
  rank = jnp.argsort(jnp.argsort(first, stable=True))
  mask = split(jnp.tile(rank < hidden, t), visible=t * (h * w - hidden))
  counted = jnp.tile(first < most, t).astype(jnp.float32)
  return mask._replace(weight=counted[mask.masked])
