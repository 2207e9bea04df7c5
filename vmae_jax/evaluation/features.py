"""Frozen features of a data set."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jax.experimental import multihost_utils

from vmae_jax.errors import UserError
from vmae_jax.types import Array, Float, Int, UInt8


def extract(
  apply_fn: Callable[[UInt8[Array, 'b T H W 3']], Float[Array, 'b d']],
  batches: Iterable[Mapping[str, Array]],
) -> tuple[Float[np.ndarray, 's d'], Int[np.ndarray, ' s']]:
  """Runs a frozen model over one pass of a data set.

  Args:
    apply_fn: Makes one feature of each clip; jitted by the caller.
    batches: With `video`, `label` and `valid`; clips that are not valid only fill the last
      batch and are left out.

  Returns:
    Features (float32) and labels, in the order of the batches; the same on every process.

  Raises:
    UserError: there is no valid clip, or a feature is not finite.
  """
  features, labels = [], []

  def keep(*arrays: Array) -> None:
    feature, label, valid = multihost_utils.process_allgather(arrays, tiled=True)
    # bfloat16 features would be too coarse to add up.
    features.append(feature[valid].astype(np.float32))
    labels.append(label[valid])

  # Read one batch late, so that the device has work while the host waits.
  pending = None
  for batch in batches:
    coming = apply_fn(batch['video']), batch['label'], batch['valid']
    if pending:
      keep(*pending)
    pending = coming
  if pending:
    keep(*pending)
  if not sum(map(len, labels)):
    raise UserError('there is no clip to take features from: look at the data set.')
  features = np.concatenate(features)
  if not np.isfinite(features).all():
    raise UserError('features hold NaN or infinity: the checkpoint comes from a diverged run.')
  return features, np.concatenate(labels)
