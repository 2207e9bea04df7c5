"""How far a prediction is from its target, for each token."""

import jax
import jax.numpy as jnp

from vmae_jax.types import Array, Float, Int


def mse(
  prediction: Float[Array, 'b m p'],
  target: Float[Array, 'b m p'],
  weights: Float[Array, '#b #m #p'] | float = 1.0,
) -> Float[Array, 'b m']:
  """Mean of weights x squared differences over a token's values."""
  return (weights * jnp.square(prediction - target)).mean(axis=-1)


def l1(
  prediction: Float[Array, 'b m p'],
  target: Float[Array, 'b m p'],
  weights: Float[Array, '#b #m #p'] | float = 1.0,
) -> Float[Array, 'b m']:
  """Mean of weights x absolute differences over a token's values."""
  return (weights * jnp.abs(prediction - target)).mean(axis=-1)


def cross_entropy(
  prediction: Float[Array, 'b m p'], target: Int[Array, 'b m f']
) -> Float[Array, 'b m']:
  """Cross-entropy of f codes a token, in nats; the mean over f."""
  logits = code_logits(prediction, target.shape[-1])
  chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
  return (jax.nn.logsumexp(logits, axis=-1) - chosen).mean(axis=-1)


def code_accuracy(
  prediction: Float[Array, 'b m p'], target: Int[Array, 'b m f']
) -> Float[Array, 'b m']:
  """The share of a token's f codes that have the largest logit."""
  logits = code_logits(prediction, target.shape[-1])
  return (logits.argmax(axis=-1) == target).mean(axis=-1)


def code_logits(prediction: Float[Array, '*b p'], f: int) -> Float[Array, '*b f c']:
  """The logits over c codes of each of a token's f codes."""
  return prediction.reshape(*prediction.shape[:-1], f, -1)


LOSSES = {'mse': mse, 'l1': l1, 'cross_entropy': cross_entropy}
