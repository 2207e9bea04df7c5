"""k nearest neighbours against a plain loop."""

import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.evaluation.knn import knn


def made_up(count, *, seed, classes=7, width=16, noise=1.0):
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).normal(size=(classes, width))
  labels = rng.integers(0, classes, count)
  features = centres[labels] + noise * rng.normal(size=(count, width))
  lengths = rng.uniform(0.1, 10, (count, 1))  # Cosine similarity does not see them.
  return (features * lengths).astype(np.float32), labels


def plain(train, train_labels, test, test_labels, *, k, temperature):
  top1 = top5 = 0
  for x, label in zip(test, test_labels, strict=True):
    similarity = train @ x / np.linalg.norm(train, axis=1) / np.linalg.norm(x)
    votes = {}
    for i in np.argsort(-similarity)[:k]:
      votes[train_labels[i]] = votes.get(train_labels[i], 0) + np.exp(similarity[i] / temperature)
    best = sorted(votes, key=votes.get, reverse=True)
    top1 += label == best[0]
    top5 += label in best[:5]
  return {'top1': top1 / len(test), 'top5': top5 / len(test)}


@pytest.mark.parametrize(('k', 'temperature'), [(1, 0.07), (20, 0.07), (20, 0.5), (60, 1.0)])
def test_equals_a_plain_loop(k, temperature):
  sets = *made_up(300, seed=0, noise=2), *made_up(101, seed=1, noise=2)
  found = knn(*sets, k=k, temperature=temperature, chunk=32)
  assert found == pytest.approx(plain(*sets, k=k, temperature=temperature), abs=1e-6)
  assert 1 / 7 < found['top1'] < 1


def test_temperature_and_k_matter():
  """One near neighbour against two far ones."""
  train = np.array([[1, 0], [0.8, 0.6], [0.8, 0.6]], np.float32)
  train_labels, test, test_labels = np.array([0, 1, 1]), train[:1], np.array([0])
  assert knn(train, train_labels, test, test_labels, k=3, temperature=0.07)['top1'] == 1
  assert knn(train, train_labels, test, test_labels, k=3, temperature=10.0)['top1'] == 0
  assert knn(train, train_labels, test, test_labels, k=1, temperature=10.0)['top1'] == 1


def test_a_small_temperature_still_votes():
  sets = *made_up(50, seed=0), *made_up(20, seed=1)
  assert knn(*sets, k=5, temperature=1e-4) == knn(*sets, k=1) | {
    'top5': knn(*sets, k=5, temperature=1e-4)['top5']
  }


@pytest.mark.parametrize('chunk', [1, 7, 20, 1000])
def test_chunks_change_nothing(chunk):
  sets = *made_up(50, seed=0), *made_up(20, seed=1)
  assert knn(*sets, k=5, chunk=chunk) == knn(*sets, k=5)


def test_classes_without_training_samples_are_missed():
  train, train_labels = made_up(60, seed=0, noise=0.01)
  test, test_labels = made_up(40, seed=1, noise=0.01)
  assert knn(train, train_labels, test, test_labels, k=5)['top1'] == 1
  assert knn(train, train_labels, test, np.full(40, 9), k=5) == {'top1': 0.0, 'top5': 0.0}


def test_zero_features_are_no_error():
  train = np.zeros((4, 3), np.float32)
  found = knn(train, np.array([0, 1, 0, 0]), train[:2], np.array([0, 0]), k=4)
  assert found == {'top1': 1.0, 'top5': 1.0}


@pytest.mark.parametrize('k', [0, 51])
def test_k_out_of_range(k):
  with pytest.raises(UserError, match=f'k is {k}: choose 1 to 50'):
    knn(*made_up(50, seed=0), *made_up(20, seed=1), k=k)


def test_one_class():
  features, labels = made_up(30, seed=0)
  with pytest.raises(UserError, match='one class'):
    knn(features, np.zeros_like(labels), features, labels)
