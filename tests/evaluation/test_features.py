"""Features of a data set, batch by batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.evaluation import features
from vmae_jax.evaluation.features import extract


def made_up(count, batch):
  """Batches of clips filled with their own number; the last one is padded."""
  for start in range(0, count, batch):
    number = np.arange(start, start + batch)
    video = np.broadcast_to(number[:, None, None, None, None], (batch, 2, 4, 4, 3))
    yield {
      'video': jnp.asarray(video, jnp.uint8),
      'label': jnp.asarray(number * 10, jnp.int32),
      'valid': jnp.asarray(number < count),
    }


@jax.jit
def apply_fn(video):
  mean = video.astype(jnp.float32).mean((1, 2, 3, 4))
  return jnp.stack([mean, -mean], -1).astype(jnp.bfloat16)


@pytest.mark.parametrize('batch', [1, 3, 4, 20])
def test_keeps_order_and_drops_padding(batch):
  found, labels = extract(apply_fn, made_up(10, batch))
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, np.stack([np.arange(10), -np.arange(10)], -1))
  np.testing.assert_array_equal(labels, np.arange(10) * 10)


def test_the_model_runs_a_batch_ahead_of_the_host(monkeypatch):
  seen = []
  gather = features.multihost_utils.process_allgather

  def run(video):
    seen.append('run')
    return apply_fn(video)

  def read(*args, **kwargs):
    seen.append('read')
    return gather(*args, **kwargs)

  monkeypatch.setattr(features.multihost_utils, 'process_allgather', read)
  extract(run, made_up(3, 1))
  assert seen == ['run', 'run', 'read', 'run', 'read', 'read']


def test_nothing_to_read():
  with pytest.raises(UserError, match='no clip'):
    extract(apply_fn, [])


def test_features_that_are_not_finite():
  with pytest.raises(UserError, match='NaN'):
    extract(lambda video: apply_fn(video) / 0, made_up(2, 2))


def test_sharded_batches():
  devices = jax.devices()
  mesh = jax.sharding.Mesh(np.array(devices), ('data',))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  batches = (jax.device_put(batch, sharding) for batch in made_up(6, 2 * len(devices)))
  assert extract(apply_fn, batches)[1].tolist() == [0, 10, 20, 30, 40, 50]
