"""Features of a data set, batch by batch, and tokens for several passes."""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.data.frames import ArrayVideo
from vmae_jax.errors import UserError, VideoError
from vmae_jax.evaluation import features
from vmae_jax.evaluation.features import TokenSet, extract, middle_clips


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


class Source:
  class_names = ()

  def __len__(self):
    return 7

  def name(self, i):
    return str(i)

  def label(self, i):
    return i % 3

  def open(self, i):
    if i == 5:
      raise VideoError('torn')
    return ArrayVideo(np.full((8, 8, 8, 3), 10 * i, np.uint8))


class Data:
  frames, size, stride, sampling = 2, 8, 1, 'dense'


class Counted(Source):
  """Eight frames that show their numbers."""

  def open(self, i):
    return ArrayVideo(np.arange(8, dtype=np.uint8).repeat(8 * 8 * 3).reshape(8, 8, 8, 3))


@pytest.mark.parametrize('sampling, frames', [('dense', [1, 4]), ('segment', [1, 5])])
def test_clips_are_from_the_middle_as_they_were_in_training(sampling, frames):
  """Of the six frames that a clip of stride 3 takes, or of two halves."""
  data = types.SimpleNamespace(frames=2, size=8, stride=3, sampling=sampling)
  with contextlib.closing(middle_clips(Counted(), data, batch_size=7)) as loader:
    shown = np.asarray(next(loader)['video'])[..., 0, 0, 0]
  assert shown.tolist() == [frames] * 7


@pytest.mark.parametrize('cache_bytes', [0, 10**9], ids=['encoded anew', 'kept'])
def test_tokens_of_a_source(cache_bytes):
  def encode(video):
    return jnp.broadcast_to(
      video.mean((1, 2, 3, 4))[:, None, None, None, None], (len(video), 1, 2, 2, 4)
    )

  tokens = TokenSet(encode, Source(), Data(), batch_size=4, cache_bytes=cache_bytes)
  assert (tokens.width, tokens.steps) == (4, 2)

  def seen(*args, **options):
    pairs = []
    for x, label, weight in tokens.batches(*args, **options):
      assert x.shape == (4, 4, 4) and x.dtype == jnp.bfloat16
      value = np.asarray(x)[:, 0, 0]
      pairs += [(int(v), int(c)) for v, c, w in zip(value, label, weight, strict=True) if w]
    return pairs

  whole = [(10 * i, i % 3) for i in range(7) if i != 5]
  assert seen() == whole
  shuffled = [seen(epoch) for epoch in (0, 1)]
  assert sorted(shuffled[0]) == sorted(shuffled[1]) == whole and shuffled[0] != shuffled[1]
  assert seen(counted=np.arange(7) < 2) == whole[:2]


def test_large_tokens_stay_finite():
  tokens = TokenSet(
    lambda video: jnp.full((len(video), 1, 2, 2, 4), 1e5),
    Source(),
    Data(),
    batch_size=4,
    cache_bytes=10**9,
  )
  x, _, _ = next(tokens.batches())
  np.testing.assert_allclose(np.asarray(x, np.float32)[:, 0], 1e5, rtol=1e-2)
