"""Decoder masking: only some of the hidden tokens are predicted."""

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError
from vmae_jax.masking.mask import Mask, count, hide_at_random
from vmae_jax.types import Array, Key


def running_cell(
  key: Key[Array, ''], mask: Mask, *, grid: tuple[int, int, int], ratio: float
) -> Mask:
  """Decodes a fixed share of each 2 x 2 cell of each slot, in a pattern that moves.

  The pattern starts at a random place of the cell and advances by one place in each time slot, so
  that all places are decoded equally often. The decoder gets a mask token for each decoded place,
  even if the encoder sees its token; the loss counts only tokens that the encoder does not see.

  Args:
    key: The clip's key.
    mask: What the encoder sees.
    grid: Tokens (t, h, w); h and w are even.
    ratio: Share of tokens that is not decoded: 0.25, 0.5 or 0.75.

  Raises:
    UserError: h or w is odd, or `ratio` is none of these.

  Source: VideoMAE V2 (Wang et al., 2023), section 3.2.
  """
  t, h, w = grid
  skipped = count(ratio, 4)
  if h % 2 or w % 2:
    raise UserError(f'decoder_masking running_cell needs an even token grid, not {h} x {w}.')
  if not 0 < skipped < 4 or skipped != 4 * ratio:
    raise UserError(f'decoder_masking.ratio is {ratio}: running_cell takes 0.25, 0.5 or 0.75.')
  ys, xs = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing='ij')
  place = 2 * (ys % 2) + xs % 2
  start = jax.random.randint(key, (), 0, 4)
  decoded = (place + jnp.arange(t)[:, None, None] + start) % 4 >= skipped
  order = jnp.argsort(~decoded.reshape(-1), stable=True)[: t * h * w * (4 - skipped) // 4]
  hidden = jnp.ones(t * h * w).at[mask.visible].set(0)
  return Mask(mask.visible, order, hidden[order])


def random_share(
  key: Key[Array, ''], mask: Mask, *, grid: tuple[int, int, int], ratio: float
) -> Mask:
  """Decodes a random choice of the hidden tokens, in raster order.

  It makes a step affordable if masked tokens are expensive, as with MAM2's regressor and alignment.

  Args:
    key: The clip's key.
    mask: What the encoder sees.
    grid: Not used.
    ratio: Share of the hidden tokens that is left out, rounded down.

  Source: our choice; no paper does it.
  """
  m = mask.masked.shape[0]
  skipped = count(ratio, m)
  order = jnp.argsort(hide_at_random(key, n=m, hidden=skipped), stable=True)[: m - skipped]
  return Mask(mask.visible, mask.masked[order], mask.weight[order])
