"""The result of a masking; the numbers of visible and masked tokens are static."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax.types import Array, Bool, Float, Int, Key

Grid = tuple[int, int, int]  # Tokens (t, h, w) of a clip.


class Mask(NamedTuple):
  """Indices of one clip's tokens, both lists in raster order; with a batch axis after vmap.

  Attributes:
    visible: Tokens that the encoder sees.
    masked: Tokens that the decoder predicts: all hidden ones, unless the decoder is masked too.
    weight: 1 where the prediction counts in the loss, else 0.
  """

  visible: Int[Array, '*b k']
  masked: Int[Array, '*b m']
  weight: Float[Array, '*b m']


def count(ratio: float, n: int) -> int:
  """How many of n tokens are hidden: ratio * n, rounded down as in the released codes."""
  return int(ratio * n + 1e-6)  # 0.58 * 100 is 57.99999...


def hide_at_random(key: Key[Array, ''], *, n: int, hidden: int) -> Bool[Array, ' {n}']:
  """True for `hidden` of n tokens, all choices equally likely."""
  return jnp.argsort(jnp.argsort(jax.random.uniform(key, (n,)))) < hidden


def split(hidden: Bool[Array, ' n'], *, visible: int) -> Mask:
  """The `Mask` for a map of hidden tokens, exactly `visible` of which are False."""
  order = jnp.argsort(hidden, stable=True)
  return Mask(order[:visible], order[visible:], jnp.ones(hidden.shape[0] - visible))
