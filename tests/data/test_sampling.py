"""Frame indices against VideoMAE's released loop, written out, and values of its released code."""

import numpy as np
import pytest

from vmae_jax.data.sampling import dense_indices, linspace_indices, segment_indices


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
    got = dense_indices(length, frames=16, stride=stride, rng=rng, released_end=True)
    assert got.tolist() == _released(length, got[0], 16, stride)
    assert got.min() >= 0 and got.max() < length
    starts.add(int(got[0]))
  assert max(starts) <= max(0, length - 16 * stride)
  if length == 65:
    assert starts == set(range(65 - 16 * stride + 1))


def test_dense_golden():
  assert dense_indices(10, frames=5, stride=4, rng=None).tolist() == [0, 4, 8, 8, 8]
  assert dense_indices(9, frames=5, stride=4, rng=None).tolist() == [0, 4, 8, 8, 8]
  assert dense_indices(1, frames=3, stride=2, rng=None).tolist() == [0, 0, 0]
  middle = dense_indices(100, frames=16, stride=4, rng=None)
  assert middle.tolist() == list(range(18, 82, 4))


@pytest.mark.parametrize('length', [16, 17, 40])
def test_a_clip_may_end_with_the_last_frame(length):
  """No frame comes twice where there are enough; all starts and frames are drawn."""
  rng = np.random.default_rng(0)
  draws = [dense_indices(length, frames=16, stride=1, rng=rng) for _ in range(300)]
  assert all((np.diff(got) == 1).all() for got in draws)
  assert {int(got[-1]) for got in draws} == set(range(15, length))


@pytest.mark.parametrize(
  'length, frames, stride, expected',
  [
    (3, 16, 4, [2] * 16),
    (10, 16, 4, [0] + [9] * 15),
    (63, 16, 4, [0, 4, 9, 13, 18, 22, 27, 31, 36, 40, 45, 49, 54, 58, 62, 62]),
    (64, 16, 4, [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]),
    (40, 8, 8, [0, 10, 20, 30, 39, 39, 39, 39]),
  ],
)
def test_linspace_of_short_videos_is_the_released_one(length, frames, stride, expected):
  """Values of VideoClsDataset.loadvideo_decord (kinetics.py), given a reader of that length."""
  for rng in (None, np.random.default_rng(0)):
    got = linspace_indices(length, frames=frames, stride=stride, rng=rng)
    assert got.tolist() == expected


def test_linspace_of_long_videos_is_the_released_one():
  rng = np.random.default_rng(0)
  draws = [linspace_indices(70, frames=16, stride=4, rng=rng) for _ in range(200)]
  # Of the same code for 300 frames, from 106 on.
  steps = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
  assert all((got - got[0]).tolist() == steps for got in draws)
  assert {int(got[0]) for got in draws} == set(range(6))  # randint(64, 70) - 64.
  assert linspace_indices(70, frames=16, stride=4, rng=None)[0] == 2


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
