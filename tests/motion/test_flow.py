"""`Flow` as a pytree, selection by pairs, and `estimate` with any estimator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.motion.flow import estimate


def differences(clip, *, pairs):
  """An estimator whose flow tells which frames it was asked for."""
  values = jnp.stack([clip[:, j, ..., :2] - 10 * clip[:, i, ..., :2] for i, j in pairs], 1)
  return values


def numbered(clips=2, frames=4):
  return jnp.broadcast_to(jnp.arange(float(frames))[:, None, None, None], (clips, frames, 4, 6, 3))


def test_estimate_and_take():
  pairs = ((0, 1), (3, 2), (2, 3))
  flow = estimate(numbered(), pairs=pairs, estimator=differences)
  assert flow.pairs == pairs and flow.values.shape == (2, 3, 4, 6, 2)
  np.testing.assert_array_equal(flow.values[0, :, 0, 0, 0], [1, -28, -17])
  np.testing.assert_array_equal(flow.take([(2, 3), (0, 1)])[1, :, 0, 0, 0], [-17, 1])
  with pytest.raises(UserError, match='from frame 1 to 2'):
    flow.take([(0, 1), (1, 2)])


def test_mapped_over_clips():
  flow = estimate(numbered(), pairs=((0, 1), (1, 2)), estimator=differences)
  taken = jax.jit(jax.vmap(lambda f: f.take([(1, 2)])))(flow)
  assert taken.shape == (2, 1, 4, 6, 2)
  np.testing.assert_array_equal(taken[:, 0, 0, 0, 0], [-8, -8])


def test_no_gradient():
  def total(clip):
    return estimate(clip, pairs=((0, 1),), estimator=differences).values.sum()

  assert not np.asarray(jax.jit(jax.grad(total))(numbered())).any()


@pytest.mark.parametrize('pair', [(3, 4), (-1, 0)])
def test_frames_that_do_not_exist(pair):
  with pytest.raises(UserError, match='frames 0 to 3'):
    estimate(numbered(), pairs=((0, 1), pair), estimator=differences)
