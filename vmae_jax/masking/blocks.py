"""Masks of blocks: large connected places are hidden, for the whole clip."""

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
  """Blocks that may overlap are hidden in all time slots alike, and only what they hide counts.

  int(ratio * h * w) places are not shown: those in blocks, and others at random, which are not
  counted in the loss. (Counts must not depend on the clip. Where blocks leave too few places, the
  last rows of the last block are shown.)

  V-JEPA shows each clip under one mask of each kind, and drops tokens from the end until all clips
  of a device have equally many: of 24 clips 23 % are shown beside 8 blocks and 6 % beside 2. Ours
  draws one kind for each clip and visit.

  Args:
    key: The clip's key.
    clip, flow: Not used.
    grid: Tokens (t, h, w).
    ratio: Share of tokens that are not shown.
    kinds: How many blocks, and the share of the picture that each covers.
    aspect: Bounds of the blocks' height over width, drawn once for each clip.

  Raises:
    UserError: kinds that are none.

  Source: V-JEPA (Bardes et al., 2024), section 3.2 and its released `multiblock3d.py`.
  """
  t, h, w = grid
  if not kinds or not all(number > 0 and 0 < share <= 1 for number, share in kinds):
    raise UserError(f'masking blocks: kinds is {kinds}: it takes pairs such as (8, 0.15).')
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
  # The first block that covers a place; then the others, at random.
  first = jnp.where(inside.any(axis=0), inside.argmax(axis=0), most)
  first = first + jnp.where(first == most, jax.random.uniform(rest_key, (h * w,)), 0.0)
  hidden = count(ratio, h * w)
  rank = jnp.argsort(jnp.argsort(first, stable=True))
  mask = split(jnp.tile(rank < hidden, t), visible=t * (h * w - hidden))
  counted = jnp.tile(first < most, t).astype(jnp.float32)
  return mask._replace(weight=counted[mask.masked])
