"""Losses: how far a prediction is from its target, for each token."""

import jax
import jax.numpy as jnp
import optax

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


def smooth_l1(
  prediction: Float[Array, 'b m p'],
  target: Float[Array, 'b m p'],
  weights: Float[Array, '#b #m #p'] | float = 1.0,
) -> Float[Array, 'b m']:
  """Mean of weights x Huber losses over a token's values: x^2 / 2 up to 1, |x| - 1/2 beyond."""
  return (weights * optax.losses.huber_loss(prediction, target)).mean(axis=-1)


def cosine(
  prediction: Float[Array, 'b m p'],
  target: Float[Array, 'b m p'],
  weights: Float[Array, '#b #m 1'] | None = None,
) -> Float[Array, 'b m']:
  """1 - the cosine similarity of a token's values and their prediction, times its weight."""
  distance = optax.losses.cosine_distance(prediction, target, epsilon=1e-6)
  return distance if weights is None else distance * weights[..., 0]


def effective_rank(tokens: Float[Array, 'b m d']) -> Float[Array, '']:
  """In how many directions tokens differ: the participation ratio of their covariance.

  It is (sum of eigenvalues)^2 / (sum of their squares), computed without eigenvalues: d if tokens
  spread evenly, 1 if they lie on a line, 0 if all are equal. The tokens of a teacher that is the
  moving average of its student can collapse to one value.
  """
  x = tokens.reshape(-1, tokens.shape[-1])
  x = x - x.mean(axis=0)
  covariance = x.T @ x / len(x)
  return jnp.trace(covariance) ** 2 / (jnp.square(covariance).sum() + 1e-12)


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
  """The share of a token's f codes for which the target has the largest logit."""
  logits = code_logits(prediction, target.shape[-1])
  return (logits.argmax(axis=-1) == target).mean(axis=-1)


def code_logits(prediction: Float[Array, '*b p'], f: int) -> Float[Array, '*b f c']:
  """The logits over all c codes, for each of a token's f codes."""
  return prediction.reshape(*prediction.shape[:-1], f, -1)


LOSSES = {
  'mse': mse, 'l1': l1, 'smooth_l1': smooth_l1, 'cosine': cosine, 'cross_entropy': cross_entropy,
}  # fmt: skip
