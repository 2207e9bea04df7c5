"""Losses of tokens."""

import jax
import numpy as np

from vmae_jax.method.losses import (
  code_accuracy,
  cosine,
  cross_entropy,
  effective_rank,
  l1,
  mse,
  smooth_l1,
)


def test_squares_and_absolute_values_are_means_over_a_tokens_values():
  a = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
  zero = jax.numpy.zeros_like(a)
  np.testing.assert_allclose(mse(jax.numpy.asarray(a), zero), (a**2).mean(-1), rtol=1e-6)
  np.testing.assert_allclose(l1(jax.numpy.asarray(a), zero), np.abs(a).mean(-1), rtol=1e-6)


def test_weights_multiply_a_tokens_errors_or_its_values():
  rng = np.random.default_rng(0)
  a, token, value = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4), (2, 3, 1), (4,)))
  arrays = [jax.numpy.asarray(x) for x in (a, np.zeros_like(a))]
  np.testing.assert_allclose(
    mse(*arrays, jax.numpy.asarray(token)), token[..., 0] * (a**2).mean(-1), rtol=1e-5
  )
  each = jax.numpy.broadcast_to(value, a.shape)
  np.testing.assert_allclose(l1(*arrays, each), (value * np.abs(a)).mean(-1), rtol=1e-5, atol=1e-6)


def test_cross_entropy_and_accuracy_of_two_codes_a_token():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 2, 5)).astype(np.float32)
  target = rng.integers(0, 5, (2, 3, 2)).astype(np.int32)
  chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  chosen = np.take_along_axis(chances, target[..., None], -1)[..., 0]
  flat = jax.numpy.asarray(logits.reshape(2, 3, 10))
  found = cross_entropy(flat, jax.numpy.asarray(target))
  np.testing.assert_allclose(found, -np.log(chosen).mean(-1), rtol=1e-5)
  right = (logits.argmax(-1) == target).mean(-1)
  assert 0 < right.mean() < 1
  np.testing.assert_allclose(code_accuracy(flat, jax.numpy.asarray(target)), right)


SMOOTH, COSINE = [[0.881667, 0.552083]], [[1.11538, 0.944952]]


def test_smooth_l1_and_cosine_are_those_of_torch():
  """torch 2.13: smooth_l1_loss and cosine_similarity of these numbers, rounded to 6 digits."""
  a = jax.numpy.array([[[0.3, -2.0, 1.0], [0.0, 0.5, -0.25]]])
  b = jax.numpy.array([[[0.1, 1.0, 1.5], [2.0, 0.25, 0.25]]])
  np.testing.assert_allclose(smooth_l1(a, b), SMOOTH, rtol=1e-5)
  np.testing.assert_allclose(cosine(a, b), COSINE, rtol=1e-5)
  weights = jax.numpy.array([[[2.0], [0.0]]])
  np.testing.assert_allclose(smooth_l1(a, b, weights), [[2 * SMOOTH[0][0], 0]], rtol=1e-5)
  np.testing.assert_allclose(cosine(a, b, weights), [[2 * COSINE[0][0], 0]], rtol=1e-5)


def test_the_rank_is_the_number_of_directions_that_tokens_spread_over():
  rng = np.random.default_rng(0)
  spread = np.zeros((4, 500, 8), np.float32)
  spread[..., :3] = rng.normal(size=(4, 500, 3))
  turned = spread @ np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32) + 5
  assert abs(float(effective_rank(jax.numpy.asarray(turned))) - 3) < 0.02
  values = np.linalg.eigvalsh(np.cov((turned * np.arange(1, 9)).reshape(-1, 8).T))
  found = effective_rank(jax.numpy.asarray(turned * np.arange(1, 9, dtype=np.float32)))
  np.testing.assert_allclose(found, values.sum() ** 2 / (values**2).sum(), rtol=1e-4)
  assert effective_rank(jax.numpy.ones((2, 3, 4))) == 0
