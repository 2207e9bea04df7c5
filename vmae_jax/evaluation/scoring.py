"""From scores to accuracy, and which labels can be scored."""

import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.types import Float, Int


def accuracy(scores: Float[np.ndarray, 'q c'], labels: Int[np.ndarray, ' q']) -> dict[str, float]:
  """`top1` and `top5`: shares of samples whose class is the best, or among the best five.

  A score of -inf is no guess: it does not count even if fewer than five others are left.
  """
  best = np.argsort(-scores, axis=-1, kind='stable')[:, :5]
  guessed = np.isfinite(np.take_along_axis(scores, best, axis=-1))
  hits = (best == labels[:, None]) & guessed
  return {'top1': float(hits[:, 0].mean()), 'top5': float(hits.any(-1).mean())}


def count_classes(train_labels: Int[np.ndarray, ' s'], test_labels: Int[np.ndarray, ' q']) -> int:
  """One more than the highest label of either set: how many scores a sample gets.

  Classes that the training set lacks are counted, too: their test samples are told wrongly.

  Raises:
    UserError: a set is empty, a label is unknown (-1), or all training samples are of one class.
  """
  for name, labels in (('training', train_labels), ('test', test_labels)):
    if not len(labels):
      raise UserError(f'the {name} set is empty: a probe needs clips with labels.')
    if unknown := int((labels < 0).sum()):
      raise UserError(
        f'{unknown} of {len(labels)} clips of the {name} set have no label: a probe needs one '
        'for each clip.'
      )
  if len(np.unique(train_labels)) < 2:
    raise UserError('the training set has one class alone: a probe needs at least two.')
  return int(max(train_labels.max(), test_labels.max())) + 1
