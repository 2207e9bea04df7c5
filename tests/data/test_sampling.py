"""Frame indices against VideoMAE's released loop, written out."""

import numpy as np
import pytest

from vmae_jax.data.sampling import dense_indices, segment_indices


def _released(length, start, frames, stride):
  """kinetics.py, with its offset that counts from 1."""
  offset, indices = start + 1, []
  for _ in range(frames):
    indices.append(offset - 1)
    if offset + stride < length:
      offset += stride
  return indices


@pytest.mark.parametrize('length', [1, 2, 5, 9, 10, 16, 63, 64, 65, 300])
@pytest.mark.parametrize('stride', [1, 2, 4])
def test_dense_is_the_released_loop(length, stride):
  rng = np.random.default_rng(0)
  starts = set()
  for _ in range(300):
    got = dense_indices(length, frames=16, stride=stride, rng=rng)
    assert got.tolist() == _released(length, got[0], 16, stride)
    assert got.min() >= 0 and got.max() < length
    starts.add(int(got[0]))
  assert max(starts) <= max(0, length - 16 * stride)
  if length == 65:
    assert starts == set(range(65 - 16 * stride + 1))


def test_dense_golden():
  assert dense_indices(10, frames=5, stride=4, rng=None).tolist() == [0, 4, 8, 8, 8]
  assert dense_indices(9, frames=5, stride=4, rng=None).tolist() == [0, 4, 4, 4, 4]
  assert dense_indices(1, frames=3, stride=2, rng=None).tolist() == [0, 0, 0]
  middle = dense_indices(100, frames=16, stride=4, rng=None)
  assert middle.tolist() == list(range(18, 82, 4))


@pytest.mark.parametrize('length', [1, 5, 16, 17, 40, 300])
def test_segments(length):
  rng = np.random.default_rng(0)
  draws = np.stack([segment_indices(length, frames=16, rng=rng) for _ in range(500)])
  assert draws.min() == 0 and draws.max() == length - 1
  assert (np.diff(draws, axis=1) >= 0).all()
  if length >= 16:
    assert (np.diff(draws, axis=1) > 0).all()
    assert len(np.unique(draws)) == length  # Every frame is drawn now and then.
  middle = segment_indices(length, frames=16, rng=None)
  assert (draws.min(0) <= middle).all() and (middle <= draws.max(0)).all()


def test_segments_golden():
  assert segment_indices(40, frames=4, rng=None).tolist() == [4, 14, 24, 34]
  assert segment_indices(3, frames=6, rng=None).tolist() == [0, 0, 1, 1, 2, 2]
