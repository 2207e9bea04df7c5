"""A linear classifier on frozen features: multinomial logistic regression."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vmae_jax.evaluation.results import a_tenth, accuracy, count_classes
from vmae_jax.types import Array, Float, Int

EPS = 1e-6  # That of the BatchNorm in MAE's linear probe.
MAX_STEPS = 200  # L-BFGS stops here if it has not converged.
STRENGTHS = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # L2 on standardised features.


@functools.partial(jax.jit, static_argnames=('classes', 'max_steps'))
def fit(
  features: Float[Array, 's d'],
  labels: Int[Array, ' s'],
  counts: Float[Array, ' s'],
  strength: Float[Array, ''],
  *,
  classes: int,
  max_steps: int,
) -> tuple[Float[Array, 'd c'], Float[Array, ' c']]:
  """Weight and bias of the classifier with the least cross-entropy + strength / 2 |weight|^2.

  The problem is convex and all features are in memory, so L-BFGS from zero needs no learning rate
  and no random order. It has converged when the gradient is a thousandth of its first size. Several
  strengths at once, under vmap, were slower than one after another, as all line searches wait for
  the slowest.

  Args:
    features: Standardised.
    counts: Weight of each sample; 0 leaves it out without another compilation.
    strength: Strength of L2 on the weight; the bias is free.
    max_steps: Stops a fit that has not converged.
  """

  def loss(parameters):
    weight, bias = parameters
    # Full precision, as the line search compares losses that differ little.
    logits = jnp.dot(features, weight, precision='highest') + bias
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (errors * counts).sum() / counts.sum() + strength / 2 * (weight**2).sum()

  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(loss)
  start = jnp.zeros((features.shape[1], classes)), jnp.zeros(classes)
  steepest = optax.tree.norm(jax.grad(loss)(start))

  def goes_on(carry):
    _, state = carry
    count, grad = optax.tree.get(state, 'count'), optax.tree.get(state, 'grad')
    steep = optax.tree.norm(grad) > 1e-3 * steepest
    return (count == 0) | ((count < max_steps) & steep)

  def step(carry):
    parameters, state = carry
    value, grad = value_and_grad(parameters, state=state)
    updates, state = solver.update(grad, state, parameters, value=value, grad=grad, value_fn=loss)
    return optax.apply_updates(parameters, updates), state

  parameters, _ = jax.lax.while_loop(goes_on, step, (start, solver.init(start)))
  return parameters


def standardise(
  train: Float[np.ndarray, 's d'], test: Float[np.ndarray, 'q d']
) -> tuple[Float[np.ndarray, 's d'], Float[np.ndarray, 'q d']]:
  """Both sets minus the mean of the training set, divided by sqrt(its variance + EPS).

  Sums are in float64: in float32 the deviation of a feature that is constant over 240,000 clips
  was 2e-4 instead of 0, which enlarged its values in the test set.
  """
  mean = train.mean(0, dtype=np.float64)
  scale = np.sqrt(train.var(0, dtype=np.float64) + EPS)
  return (train - mean) / scale, (test - mean) / scale


def linear_probe(
  train: Float[np.ndarray, 's d'],
  train_labels: Int[np.ndarray, ' s'],
  test: Float[np.ndarray, 'q d'],
  test_labels: Int[np.ndarray, ' q'],
  *,
  strengths: Sequence[float] = STRENGTHS,
  batch_norm: bool = True,
) -> dict[str, float]:
  """The test accuracy of a linear classifier that is fitted to the training set.

  Features are standardised over the training set unless `batch_norm` is False, like by a BatchNorm
  without parameters before the classifier, as in MAE's linear probe. A held-out tenth of the
  training set chooses the strength of L2 by top-1 (the strongest of equals); then the classifier is
  fitted to the whole set. The test set chooses nothing. Sets are given as to `knn`.

  Returns:
    `top1` and `top5` (shares of the test set), `l2` (the strength chosen) and `held_out_top1`.

  Raises:
    UserError: the labels cannot be used (`count_classes`), or the training set is too small.
  """
  classes = count_classes(train_labels, test_labels)
  held_out = a_tenth(len(train))
  if batch_norm:
    train, test = standardise(train, test)
  train, test = jnp.asarray(train, jnp.float32), jnp.asarray(test, jnp.float32)

  def scores(counts, strength: float, features) -> Float[np.ndarray, 'q c']:
    given = jnp.asarray(train_labels), jnp.asarray(counts, jnp.float32), jnp.float32(strength)
    weight, bias = fit(train, *given, classes=classes, max_steps=MAX_STEPS)
    return np.asarray(jnp.dot(features, weight, precision='highest') + bias)

  strengths = sorted(strengths, reverse=True)
  top1 = [
    accuracy(scores(~held_out, strength, train[held_out]), train_labels[held_out])['top1']
    for strength in strengths
  ]
  best = int(np.argmax(top1))
  result = accuracy(scores(np.ones(len(train)), strengths[best], test), test_labels)
  return {**result, 'l2': strengths[best], 'held_out_top1': top1[best]}
