"""One step: what it does with a loss or a gradient that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vmae_jax.method.state import init_state
from vmae_jax.training.step import make_train_step

START = {'kernel': jnp.array([1.0, -2.0])}


def loss(params, batch, frozen):
  """A loss whose gradient is the mean of the clips' values."""
  return (params['kernel'] * batch['video']).sum(-1).mean(), {}


def steps(*batches):
  """The states and metrics of steps with Adam, whose learning rate depends on the step."""
  optimizer = optax.adam(lambda count: 0.1 / (1 + count))
  step = jax.jit(make_train_step(loss, optimizer, accumulate=1, ema=0.5))
  states, metrics = [init_state(START, optimizer, ema=0.5)], []
  for batch in batches:
    state, told = step(states[-1], batch, {})
    states.append(state)
    metrics.append(told)
  return states, metrics


def batch(*rows, replaced=0):
  return {'video': jnp.array(rows, jnp.float32), 'replaced': jnp.arange(len(rows)) < replaced}


GOOD = [batch((3, 1), (1, 1)), batch((-1, 2), (0, 2))]
# A loss of no number; a finite one, the square of whose gradient no float32 holds.
NAN, HUGE = batch((np.nan, 0), (1, 1)), batch((2e38, 1e38), (1, 1))


@pytest.mark.parametrize('bad', [NAN, HUGE], ids=['loss', 'gradient'])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(bad):
  states, metrics = steps(GOOD[0], bad, bad, GOOD[1])
  assert np.isfinite(metrics[1]['loss']) == (bad is HUGE)
  assert not np.isfinite(metrics[1]['grad_norm'])
  for name in ('params', 'opt_state', 'ema'):
    first, *later = (getattr(state, name) for state in states[1:4])
    for other in later:
      jax.tree.map(np.testing.assert_array_equal, first, other)
  assert [int(state.step) for state in states] == [0, 1, 2, 3, 4]
  assert [int(state.skipped) for state in states] == [0, 0, 1, 2, 2]
  assert [int(state.skipped_in_a_row) for state in states] == [0, 0, 1, 2, 0]
  # Later steps are as if these had not happened.
  without, _ = steps(*GOOD)
  for name in ('params', 'opt_state', 'ema'):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(states[-1], name), getattr(without[-1], name)
    )


def test_a_step_by_hand():
  """Adam's first step is its rate times the gradient's sign; replaced clips are counted."""
  states, metrics = steps(batch((3, 1), (1, -5), replaced=1), batch((1, 1), (1, 1), replaced=2))
  np.testing.assert_allclose(states[1].params['kernel'], [1 - 0.1, -2 + 0.1], rtol=1e-5)
  np.testing.assert_allclose(states[1].ema['kernel'], [1 - 0.05, -2 + 0.05], rtol=1e-5)
  assert float(metrics[0]['loss']) == 2 * 1 + -2 * -2
  assert float(metrics[0]['grad_norm']) == pytest.approx(np.hypot(2, -2))
  assert [int(told['bad_clips']) for told in metrics] == [1, 3]
