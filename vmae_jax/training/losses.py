"""How far a prediction is from its target, for each token."""

import jax.numpy as jnp

from vmae_jax.types import Array, Float


def mse(prediction: Float[Array, 'b m p'], target: Float[Array, 'b m p']) -> Float[Array, 'b m']:
  """Mean of squared differences over a token's values."""
  return jnp.square(prediction - target).mean(axis=-1)


def l1(prediction: Float[Array, 'b m p'], target: Float[Array, 'b m p']) -> Float[Array, 'b m']:
  """Mean of absolute differences over a token's values."""
  return jnp.abs(prediction - target).mean(axis=-1)


LOSSES = {'mse': mse, 'l1': l1}
