"""The linear probe, and that it finds the optimum of what it says it minimises."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from vmae_jax.errors import UserError
from vmae_jax.evaluation.linear import fit, linear_probe, standardise


def made_up(count, *, seed, classes=4, width=12, noise=1.0):
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).normal(size=(classes, width))
  labels = rng.integers(0, classes, count)
  features = centres[labels] + noise * rng.normal(size=(count, width))
  return features.astype(np.float32), labels


def objective(flat, features, labels, strength, classes):
  weight, bias = np.split(flat, [features.shape[1] * classes])
  weight = weight.reshape(-1, classes)
  logits = features @ weight + bias
  own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
  return (scipy.special.logsumexp(logits, axis=1) - own).mean() + strength / 2 * (weight**2).sum()


@pytest.mark.parametrize('strength', [1.0, 1e-2])
def test_fit_finds_the_optimum(strength):
  features, labels = made_up(200, seed=0, classes=3, width=4)
  weight, bias = fit(
    jnp.asarray(features),
    jnp.asarray(labels),
    jnp.ones(200),
    jnp.float32(strength),
    classes=3,
    max_steps=200,
  )
  args = features.astype(float), labels, strength, 3
  best = scipy.optimize.minimize(objective, np.zeros(15), args, method='L-BFGS-B', tol=1e-12)
  found = objective(np.concatenate([np.ravel(weight), bias]).astype(float), *args)
  assert best.fun <= found + 1e-9 < best.fun + 1e-4
  np.testing.assert_allclose(np.ravel(weight), best.x[:12], atol=0.02)


def test_fit_leaves_out_samples_that_do_not_count():
  features, labels = made_up(200, seed=0)
  kept = np.arange(200) < 60

  def fitted(x, y, counts):
    arguments = map(jnp.asarray, (x, y, counts.astype(np.float32), np.float32(0.1)))
    return fit(*arguments, classes=4, max_steps=200)

  for a, b in zip(
    fitted(features, labels, kept),
    fitted(features[kept], labels[kept], np.ones(60)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_tells_classes_apart():
  found = linear_probe(*made_up(200, seed=0, noise=0.5), *made_up(300, seed=1, noise=0.5))
  assert found['top1'] > 0.9
  assert found['held_out_top1'] > 0.8
  assert found['top5'] == 1.0  # There are four classes.


def test_features_without_meaning_stay_at_chance():
  train, labels = made_up(200, seed=0)
  test, test_labels = made_up(400, seed=1)
  rng = np.random.default_rng(2)
  found = linear_probe(rng.permutation(train), labels, rng.permutation(test), test_labels)
  assert found['top1'] < 0.25 + 3.5 * np.sqrt(0.25 * 0.75 / 400)


def test_is_deterministic():
  sets = *made_up(200, seed=0, noise=3), *made_up(50, seed=1, noise=3)
  assert linear_probe(*sets) == linear_probe(*sets)


def test_scale_and_offset_of_a_feature_do_not_matter():
  train, train_labels = made_up(200, seed=0, noise=2)
  test, test_labels = made_up(200, seed=1, noise=2)
  scale = np.logspace(-2, 2, 12, dtype=np.float32)
  moved = linear_probe(train * scale + 5, train_labels, test * scale + 5, test_labels)
  plain = linear_probe(train, train_labels, test, test_labels)
  assert moved['l2'] == plain['l2']
  assert moved['top1'] == pytest.approx(plain['top1'], abs=0.01)


def test_standardised_as_by_hand():
  """Of 1 and 3 the mean is 2 and the variance 1; a constant one is shifted and hardly enlarged."""
  train, test = np.array([[1, 0.1], [3, 0.1]], np.float32), np.array([[5, 0.101]], np.float32)
  train, test = standardise(np.tile(train, (100_000, 1)), test)
  one = 1 / np.sqrt(1 + 1e-6)
  np.testing.assert_allclose(train[:2], [[-one, 0], [one, 0]], atol=1e-6)
  np.testing.assert_allclose(test, [[3 * one, 1.0]], atol=1e-4)


def test_without_batch_norm_the_scale_of_features_counts():
  """Strong L2 leaves no weight to small features that tell the classes, beside large noise."""
  rng = np.random.default_rng(2)

  def mixed(count, seed):
    features, labels = made_up(count, seed=seed, noise=0.5)
    noise = 30 * rng.normal(size=(count, 12))
    return np.concatenate([0.03 * features, noise], 1).astype(np.float32), labels

  sets = *mixed(200, 0), *mixed(200, 1)
  with_norm, plain = (linear_probe(*sets, strengths=(1.0,), batch_norm=b) for b in (True, False))
  assert plain['top1'] < 0.5 and with_norm['top1'] > 0.8


def test_a_dead_feature_that_moves_in_the_test_set_changes_nothing():
  train, train_labels = made_up(5000, seed=0, noise=2)
  test, test_labels = made_up(500, seed=1, noise=2)
  plain = linear_probe(train, train_labels, test, test_labels, strengths=(1e-5,))

  def with_dead(features, by):
    return np.concatenate([features, np.full((len(features), 1), 0.1 + by, np.float32)], 1)

  moved = linear_probe(
    with_dead(train, 0), train_labels, with_dead(test, 1e-3), test_labels, strengths=(1e-5,)
  )
  assert moved['top1'] == pytest.approx(plain['top1'], abs=0.01)


def test_constant_features_are_no_error():
  train, train_labels = made_up(200, seed=0, noise=0.5)
  test, test_labels = made_up(100, seed=1, noise=0.5)
  train[:, 0] = test[:, 0] = 0.1
  assert linear_probe(train, train_labels, test, test_labels)['top1'] > 0.9


def test_chooses_the_strength_by_the_held_out_tenth():
  """With few samples and many noisy features, weak L2 overfits, and too strong says nothing."""
  rng = np.random.default_rng(0)

  def noisy(count, seed):
    features, labels = made_up(count, seed=seed, noise=2)
    return np.concatenate([features, rng.normal(size=(count, 300))], 1).astype(np.float32), labels

  sets = *noisy(400, 0), *noisy(1000, 1)
  each = {s: linear_probe(*sets, strengths=(s,)) for s in (1e-5, 1e-1, 1.0)}
  chosen = linear_probe(*sets, strengths=(1e-5, 1e-1, 1.0))
  assert chosen == each[chosen['l2']]
  assert chosen['held_out_top1'] == max(found['held_out_top1'] for found in each.values())
  assert chosen['top1'] > each[1e-5]['top1']
  # Had the held-out tenth been fitted, too, it would be told without a mistake.
  assert abs(each[1e-5]['held_out_top1'] - each[1e-5]['top1']) < 0.25
  assert each[1e-5]['held_out_top1'] < 0.9


def test_the_test_set_chooses_nothing():
  train, train_labels = made_up(200, seed=0, noise=3)
  test, test_labels = made_up(100, seed=1, noise=3)
  usual = linear_probe(train, train_labels, test, test_labels)
  wrong = linear_probe(train, train_labels, -100 * test, (test_labels + 1) % 4)
  assert (usual['l2'], usual['held_out_top1']) == (wrong['l2'], wrong['held_out_top1'])


def test_classes_without_training_samples_are_missed():
  train, train_labels = made_up(200, seed=0)
  test, test_labels = made_up(100, seed=1)
  test_labels[:50] = 5
  assert linear_probe(train, train_labels, test, test_labels)['top1'] < 0.51


def test_mistakes():
  features, labels = made_up(30, seed=0)
  with pytest.raises(UserError, match='one class'):
    linear_probe(features, np.zeros_like(labels), features, labels)
  with pytest.raises(UserError, match='at least 10'):
    linear_probe(features[:9], labels[:9], features, labels)
