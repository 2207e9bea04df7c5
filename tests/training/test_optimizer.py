"""Learning rate and weight decay."""

import jax.numpy as jnp
import numpy as np
import optax

from vmae_jax.models.blocks import decays
from vmae_jax.training.optimizer import make_optimizer, warmup_cosine


def test_schedule_is_the_papers():
  """Ten warm-up steps of a hundred: linspace(0, peak, 10), then half a cosine over 90."""
  schedule = warmup_cosine(peak=1.2e-3, end=1e-5, warmup_steps=10, steps=100)
  rise = np.linspace(0, 1.2e-3, 10)
  fall = 1e-5 + 0.5 * (1.2e-3 - 1e-5) * (1 + np.cos(np.pi * np.arange(90) / 90))
  found = [float(schedule(i)) for i in range(100)]
  np.testing.assert_allclose(found, np.concatenate([rise, fall]), rtol=1e-5, atol=1e-9)
  assert found[0] == 0 and np.isclose(found[9], 1.2e-3)


def test_no_warmup_starts_at_the_peak():
  assert np.isclose(float(warmup_cosine(peak=1.0, end=0.0, warmup_steps=0, steps=10)(0)), 1)


def test_only_kernels_decay():
  params = {
    'mask_token': jnp.ones(3),
    'blocks': {'norm1': {'scale': jnp.ones((2, 3)), 'bias': jnp.ones((2, 3))},
               'qkv': {'kernel': jnp.ones((2, 3, 9))}, 'q_bias': jnp.ones((2, 3))},
  }  # fmt: skip
  mask = decays(params)
  assert mask['blocks']['qkv']['kernel'] and not mask['mask_token']
  assert not any([mask['blocks']['q_bias'], *mask['blocks']['norm1'].values()])
  optimizer = make_optimizer(
    schedule=optax.constant_schedule(0.1),
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.5,
    clip_norm=0.0,
  )
  zeros = optax.tree.zeros_like(params)
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  np.testing.assert_allclose(updates['blocks']['qkv']['kernel'], -0.05, rtol=1e-6)
  assert not np.any(updates['mask_token']) and not np.any(updates['blocks']['q_bias'])


def test_clipping_is_by_the_global_norm():
  def first_moment(clip_norm):
    optimizer = make_optimizer(
      schedule=optax.constant_schedule(0.1), b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0,
      clip_norm=clip_norm,
    )  # fmt: skip
    params = {'kernel': jnp.zeros(4)}
    _, state = optimizer.update({'kernel': jnp.full(4, 3.0)}, optimizer.init(params), params)
    return optax.tree.get(state, 'mu')['kernel']

  np.testing.assert_allclose(first_moment(0.0), 0.3, rtol=1e-6)
  np.testing.assert_allclose(first_moment(2.0), 0.1, rtol=1e-6)
