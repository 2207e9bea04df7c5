"""Learning rate, weight decay, and the factors of layer-wise decay by VideoMAE's rule."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from tests.started import ROOT
from vmae_jax.config import default
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.method.supervised import build_supervised
from vmae_jax.models.blocks import decays
from vmae_jax.models.classifier import Classifier
from vmae_jax.training import finetuning, loop
from vmae_jax.training.optimizer import layer_scales, make_optimizer, scale_by_layer, warmup_cosine


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


def test_an_average_without_a_first_decay_is_refused():
  config = default()
  config.optimizer.ema_end = 0.9999
  with pytest.raises(UserError, match='ema_end is 0.9999, but optimizer.ema,'):
    loop.make_step(config, lambda *_: None, optax.identity(), steps=10)


def adamw(**options):
  options = dict(b1=0.9, b2=0.95, eps=1e-8, clip_norm=0.0) | options
  return make_optimizer(ml_collections.ConfigDict(options), optax.constant_schedule(0.1))


def test_only_kernels_decay():
  params = {
    'mask_token': jnp.ones(3),
    'blocks': {'norm1': {'scale': jnp.ones((2, 3)), 'bias': jnp.ones((2, 3))},
               'qkv': {'kernel': jnp.ones((2, 3, 9))}, 'q_bias': jnp.ones((2, 3))},
  }  # fmt: skip
  mask = decays(params)
  assert mask['blocks']['qkv']['kernel'] and not mask['mask_token']
  assert not any([mask['blocks']['q_bias'], *mask['blocks']['norm1'].values()])
  optimizer = adamw(weight_decay=0.5)
  zeros = optax.tree.zeros_like(params)
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  np.testing.assert_allclose(updates['blocks']['qkv']['kernel'], -0.05, rtol=1e-6)
  assert not np.any(updates['mask_token']) and not np.any(updates['blocks']['q_bias'])


def test_clipping_is_by_the_global_norm():
  def first_moment(clip_norm):
    optimizer = adamw(weight_decay=0.0, clip_norm=clip_norm)
    params = {'kernel': jnp.zeros(4)}
    _, state = optimizer.update({'kernel': jnp.full(4, 3.0)}, optimizer.init(params), params)
    return optax.tree.get(state, 'mu')['kernel']

  np.testing.assert_allclose(first_moment(0.0), 0.3, rtol=1e-6)
  np.testing.assert_allclose(first_moment(2.0), 0.1, rtol=1e-6)


def parameters(depth=12):
  encoder = dict(width=16, depth=depth, heads=2, mlp=32, patch=(2, 8, 8))
  model = Classifier(encoder | {'scan': True}, 5)
  init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 4, 16, 16, 3)))['params'])
  return init(jax.random.key(0))


def test_factors_of_twelve_blocks():
  scales = layer_scales(parameters(), decay=0.75, depth=12)
  embed, blocks = scales['encoder']['embed'], scales['encoder']['blocks']['block']
  for leaf in jax.tree.leaves(embed):
    assert leaf == pytest.approx(0.0237572, rel=1e-5)  # 0.75^13
  for leaf in jax.tree.leaves(blocks):
    assert leaf.shape[0] == 12 and leaf.size == 12
    # Block 0 is layer 1 of 13: 0.75^12; the last block is layer 12: 0.75.
    some = np.asarray(leaf).ravel()[[0, 1, 6, 11]]
    np.testing.assert_allclose(some, [0.0316764, 0.0422351, 0.1779785, 0.75], rtol=1e-5)
  assert set(jax.tree.leaves([scales['fc_norm'], scales['classifier']])) == {1.0}


def test_the_optimizer_scales_steps_and_weight_decay():
  params = parameters(depth=2)
  ones = jax.tree.map(jnp.ones_like, params)
  steps = adamw(b2=0.999, eps=0.0, weight_decay=0.5)
  optimizer = optax.chain(steps, scale_by_layer(decay=0.5, depth=2))
  updates, _ = jax.jit(lambda: optimizer.update(ones, optimizer.init(ones), ones))()
  # Adam's first step is 1 for each value; kernels also decay by 0.5 of their 1.
  expected = {
    ('encoder', 'embed', 'bias'): 0.125 * -0.1,
    ('encoder', 'embed', 'kernel'): 0.125 * -0.15,
    ('fc_norm', 'scale'): -0.1,
    ('classifier', 'kernel'): -0.15,
  }
  for path, value in expected.items():
    leaf = updates
    for name in path:
      leaf = leaf[name]
    np.testing.assert_allclose(leaf, value, rtol=1e-5, err_msg=str(path))
  kernel = updates['encoder']['blocks']['block']['mlp']['fc1']['kernel']
  np.testing.assert_allclose(kernel[0], 0.25 * -0.15, rtol=1e-5)
  np.testing.assert_allclose(kernel[1], 0.5 * -0.15, rtol=1e-5)
  bias = updates['encoder']['blocks']['block']['attention']['q_bias']
  np.testing.assert_allclose(bias[:, 0], [0.25 * -0.1, 0.5 * -0.1], rtol=1e-5)


def test_fine_tuning_decays_the_rate_by_layer():
  """Without gradients there is only weight decay, in which kernels of ones show their rate."""
  config = load_config(f'{ROOT}/configs/finetune.py:smoke')
  config.optimizer.update(layer_decay=0.5, weight_decay=0.2)
  supervised = build_supervised(config, classes=5)
  depth = supervised.model.encoder['depth']
  rate = optax.constant_schedule(0.1)
  optimizer, _ = finetuning.make_step(config, supervised, rate, steps=9)
  shapes = jax.eval_shape(supervised.init, jax.random.key(0))

  @jax.jit
  def update():
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    ones = jax.tree.map(jnp.ones_like, zeros)
    return optimizer.update(zeros, optimizer.init(ones), ones)[0]

  updates = update()
  np.testing.assert_allclose(updates['classifier']['kernel'], -0.02, rtol=1e-5)
  embed = updates['encoder']['embed']['kernel']
  np.testing.assert_allclose(embed, -0.02 * 0.5 ** (depth + 1), rtol=1e-5)
  blocks = updates['encoder']['blocks']['block']['mlp']['fc1']['kernel']
  np.testing.assert_allclose(blocks[:, 0, 0], -0.02 * 0.5 ** np.arange(depth, 0, -1), rtol=1e-5)
