"""The k-NN probe: k nearest neighbours on frozen features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.evaluation.propagation import unit
from vmae_jax.evaluation.results import accuracy, count_classes
from vmae_jax.types import Array, Float, Int


@functools.partial(jax.jit, static_argnames=('k', 'classes', 'chunk'))
def vote(
  train: Float[Array, 's d'],
  train_labels: Int[Array, ' s'],
  test: Float[Array, 'q d'],
  *,
  k: int,
  temperature: Float[Array, ''],
  classes: int,
  chunk: int,
) -> Float[Array, 'q c']:
  """For each test sample, the votes of its k nearest training samples for each class.

  Each votes for its class with exp(similarity / temperature), as in DINO (Caron et al. 2021), here
  divided by the nearest one's vote, so that it cannot overflow. A class without votes gets -inf.
  """
  train = unit(train)

  def one(x: Float[Array, ' d']) -> Float[Array, ' c']:
    # Full precision: by default GPUs and TPUs round, which changes which samples are nearest.
    similarity, nearest = jax.lax.top_k(jnp.dot(train, unit(x), precision='highest'), k)
    votes = jnp.exp((similarity - similarity[0]) / temperature)
    total = jnp.zeros(classes).at[train_labels[nearest]].add(votes)
    return jnp.where(total > 0, total, -jnp.inf)

  return jax.lax.map(one, test, batch_size=chunk)


def knn(
  train: Float[np.ndarray, 's d'],
  train_labels: Int[np.ndarray, ' s'],
  test: Float[np.ndarray, 'q d'],
  test_labels: Int[np.ndarray, ' q'],
  *,
  k: int = 20,
  temperature: float = 0.07,
  chunk: int = 512,
) -> dict[str, float]:
  """Classifies by cosine similarity to the training set; nothing is learnt.

  Args:
    train, test: Features of both sets; their labels are classes from 0.
    k: Neighbours that vote.
    temperature: Temperature of the votes; a lower one gives the nearest more weight.
    chunk: Test samples at a time, to limit memory.

  Returns:
    `top1` and `top5`, shares of the test set.

  Raises:
    UserError: k is out of range, or the labels cannot be used (`count_classes`).
  """
  classes = count_classes(train_labels, test_labels)
  if not 1 <= k <= len(train):
    raise UserError(f'k is {k}: choose 1 to {len(train)}, the size of the training set.')
  arrays = map(jnp.asarray, (train, train_labels, test))
  options = dict(temperature=jnp.float32(temperature), classes=classes, chunk=chunk)
  return accuracy(np.asarray(vote(*arrays, k=k, **options)), test_labels)
