"""What a head is to predict, and how much each value counts."""

from typing import NamedTuple

from vmae_jax.types import Array, Float, Num


class Target(NamedTuple):
  """What a head is to predict for every token of a clip.

  Attributes:
    values: Floats, or whole numbers of codes.
    weights: Of the values in the loss, one for each token or for each of its values; None: all 1.
      Tokens without weight still count in the mean over tokens.
  """

  values: Num[Array, 'b n p']
  weights: Float[Array, 'b n _'] | None = None
