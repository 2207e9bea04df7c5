"""Frozen features of a data set: pooled, from one pass, or all tokens, for several passes."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.types import Array, Bool, Float, Int, UInt8

# Not float16: some encoders without a last LayerNorm have values above its maximum 65,504.
TOKENS_DTYPE = jnp.bfloat16
# Tokens, labels, and the weight of each clip.
Batch = tuple[Float[Array, 'b n d'], Int[Array, ' b'], Float[Array, ' b']]


def one_behind(results: Iterable[Any]) -> Iterator[Any]:
  """Yields each result once the next one was started, so that devices work while the host waits."""
  for result, _ in itertools.pairwise(itertools.chain(results, [None])):
    yield result


def check_finite(features: Float[np.ndarray, 's ...']) -> None:
  """Raises a UserError for features that are not finite."""
  if not np.isfinite(features).all():
    raise UserError('features hold NaN or infinity: the checkpoint comes from a diverged run.')


def middle_clips(
  source: Source, data, *, batch_size: int, seed: int | None = None, mesh: Mesh | None = None
) -> Loader:
  """One pass over a source, with one clip from the middle of each video.

  Args:
    data: The config's block `data`, which says how clips are cut.
    seed: Seed of a random order; None for the order of the source.
    mesh: The devices; None for one device.
  """
  names = 'frames size stride sampling'.split()
  sampler = ClipSampler(**{name: getattr(data, name) for name in names}, train=False)
  order = dict(seed=seed or 0, shuffle=seed is not None, num_steps=None)
  return Loader(source, sampler, batch_size=batch_size, mesh=mesh, **order)


def extract(
  apply_fn: Callable[[UInt8[Array, 'b T H W 3']], Float[Array, 'b d']],
  batches: Iterable[Mapping[str, Array]],
) -> tuple[Float[np.ndarray, 's d'], Int[np.ndarray, ' s']]:
  """Runs a frozen model over one pass of a data set.

  Args:
    apply_fn: A jitted function from clips to one feature each.
    batches: Dicts with `video`, `label` and `valid`; clips that are not valid are left out.

  Returns:
    Features (float32) and labels, in the order of the batches; the same on every process.

  Raises:
    UserError: there is no valid clip, or a feature is not finite.
  """
  features, labels = [], []
  for arrays in one_behind((apply_fn(x['video']), x['label'], x['valid']) for x in batches):
    feature, label, valid = multihost_utils.process_allgather(arrays, tiled=True)
    # Sums of bfloat16 features would be too coarse.
    features.append(feature[valid].astype(np.float32))
    labels.append(label[valid])
  if not sum(map(len, labels)):
    raise UserError('there is no clip to compute features of: check the data set.')
  features = np.concatenate(features)
  check_finite(features)
  return features, np.concatenate(labels)


def token_batches(
  tokens: Float[np.ndarray, 's n d'],
  labels: Int[np.ndarray, ' s'],
  counted: Bool[np.ndarray, ' s'],
  *,
  batch_size: int,
  epoch: int | None,
) -> Iterator[Batch]:
  """One pass over clips in memory; arguments as of `TokenSet.batches`."""
  order = np.arange(len(tokens))
  if epoch is not None:
    order = np.random.default_rng(epoch).permutation(order)
  for first in range(0, len(order), batch_size):
    some = order[first : first + batch_size]
    # The last batch is filled up, as another size would need another compilation.
    filled = np.resize(some, batch_size)
    there = np.arange(batch_size) < len(some)
    yield tokens[filled], labels[filled], (counted[filled] & there).astype(np.float32)


class TokenSet:
  """All clips of a source as tokens (half precision), in batches."""

  def __init__(
    self,
    encode: Callable[[UInt8[Array, 'b T H W 3']], Float[Array, 'b t h w d']],
    source: Source,
    data,
    *,
    batch_size: int,
    cache_bytes: int,
  ):
    """Uses the `middle_clips`; keeps their tokens in memory if they fit into `cache_bytes`."""
    self._encode = jax.jit(lambda x: encode(x).astype(TOKENS_DTYPE).reshape(len(x), -1, self.width))
    self._source, self._data, self._batch_size = source, data, batch_size
    video = jax.ShapeDtypeStruct((1, data.frames, data.size, data.size, 3), np.uint8)
    shape = jax.eval_shape(encode, video).shape
    self.width, self.steps = shape[-1], -(-len(source) // batch_size)  # d; batches in a pass.
    self._shape = int(np.prod(shape[:-1])), self.width
    self._keep = 2 * len(source) * int(np.prod(self._shape)) <= cache_bytes
    self._kept = None

  def batches(
    self, epoch: int | None = None, *, counted: Bool[np.ndarray, ' s'] | None = None
  ) -> Iterator[Batch]:
    """One pass, in a random order with the seed `epoch`, or for None in that of the source.

    Videos have weight 1 if they are `counted` (by default all are) and could be read, else 0.
    """
    counted = np.ones(len(self._source), bool) if counted is None else counted
    if self._keep and self._kept is None:
      self._fill()
    if self._kept is None:
      for tokens, label, sample, valid in self._read(epoch):
        yield tokens, np.maximum(label, 0), (valid & counted[sample]).astype(np.float32)
      return
    tokens, labels, valid = self._kept
    size = self._batch_size
    yield from token_batches(tokens, labels, valid & counted, batch_size=size, epoch=epoch)

  def _fill(self) -> None:
    n = len(self._source)
    tokens = np.zeros((n, *self._shape), TOKENS_DTYPE)
    labels, valid = np.zeros(n, np.int32), np.zeros(n, bool)
    for some, label, sample, good in self._read(None):
      there = sample >= 0
      tokens[sample[there]] = np.asarray(some)[there]
      labels[sample[there]], valid[sample[there]] = np.maximum(label, 0)[there], good[there]
    self._kept = tokens, labels, valid

  def _read(self, epoch: int | None) -> Iterator[tuple]:
    """Tokens, labels, indices in the source (-1 fills a batch), and which could be read."""
    loader = middle_clips(self._source, self._data, batch_size=self._batch_size, seed=epoch)
    with closing(loader):
      for batch in loader:
        names = ('label', 'sample', 'valid')
        yield self._encode(batch['video']), *(np.asarray(batch[name]) for name in names)
