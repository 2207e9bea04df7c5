"""The motion that counts as true is that of the clips, and shares tell rules apart."""

import numpy as np
import pytest

from tests.benchmark.flow import look_up
from tests.benchmark.followed import _stays, benchmark_followed, table, true_flow
from vmae_jax.data import synthetic


@pytest.mark.parametrize('index', range(len(synthetic.MOTIONS)))
def test_true_flow_explains_the_clip(index):
  frames, _ = synthetic.render_with_opacity(0, index, frames=8, size=96)
  frames = frames.astype(np.float32)
  for pair in ((2, 3), (5, 3)):
    flow, known = true_flow(index, pair, frames=8, size=96)
    assert known.mean() > 0.5
    first, second = frames[pair[0]], frames[pair[1]]
    left = np.abs(look_up(second, flow, order=1) - first)[known]
    assert np.median(left) < 2 and left.mean() < 4, synthetic.MOTIONS[index]


def test_stays():
  # The background stands still in half of all clips.
  still = next(i for i in range(99) if not true_flow(i, (0, 2), frames=4, size=64)[0][0, 0].any())
  flow, known = true_flow(still, (0, 2), frames=4, size=64)
  shown = np.zeros((2, 8, 8), bool)
  shown[:, ::3, ::3] = True
  stays, moves = _stays(shown, still, 4, 64)
  assert 0 < len(stays) <= 9 and stays[~moves].all() and (~moves).sum() > 2
  other = shown.copy()
  other[1] = np.roll(shown[0], (1, 1), (0, 1))
  other[1, :, 0] = other[1, 0] = False
  stays, moves = _stays(other, still, 4, 64)
  assert not stays[~moves].any()


def test_run():
  result = benchmark_followed(clips=4, size=64, batch=4)
  assert set(result['masks']) == {'inverse_search', 'true flow', 'tube'}
  assert all(0 <= v <= 1 for row in result['masks'].values() for v in row.values())
  assert result['masks']['true flow']['all'] > result['masks']['tube']['all']
  assert '| 16 x 64 x 64 | 8 px | true flow |' in table([result])
