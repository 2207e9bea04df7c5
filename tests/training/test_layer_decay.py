"""Layer-wise decay: the factors that VideoMAE's rule gives, and what they act on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vmae_jax.models.classifier import Classifier
from vmae_jax.training.layer_decay import layer_scales, scale_by_layer
from vmae_jax.training.optimizer import make_optimizer


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
  adamw = make_optimizer(
    schedule=optax.constant_schedule(0.1), b1=0.9, b2=0.999, eps=0.0, weight_decay=0.5,
    clip_norm=0.0,
  )  # fmt: skip
  optimizer = optax.chain(adamw, scale_by_layer(decay=0.5, depth=2))
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
