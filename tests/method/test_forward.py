"""From a batch to the loss, outside the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from vmae_jax.config_file import load_config
from vmae_jax.masking import Mask
from vmae_jax.method.build import build_method
from vmae_jax.method.forward import Forward, Head, Method
from vmae_jax.method.losses import l1, mse
from vmae_jax.models.patches import patchify
from vmae_jax.targets.target import Target


def transposed(jaxpr):
  """Types and sizes of all transposed arrays in a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'transpose':
      yield equation.invars[0].aval.dtype, equation.invars[0].aval.size
    for inner in jaxprs_in_params(equation.params):
      yield from transposed(inner)


@pytest.mark.parametrize('look', [False, True])
def test_the_clip_is_cut_into_patches_as_bytes(look):
  config = load_config('configs/videomae.py:smoke')
  if look:  # Of changed colours there are no bytes.
    config.augment.grey = 0.5
  method = build_method(config)
  batch = method.example()
  params = jax.eval_shape(method.init, jax.random.key(0))
  traced = jax.make_jaxpr(lambda *x: method.forward(*x).predictions)(params, batch, {})
  video = batch['video'].size
  whole = {str(dtype) for dtype, size in transposed(traced.jaxpr) if size == video}
  assert whole == ({'float32'} if look else {'uint8'})


def test_bytes_give_the_numbers_of_floats():
  method = build_method(load_config('configs/videomae.py:smoke'))
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
  number = np.arange(2)
  batch = dict(video=video, epoch=number, sample=number, repeat=number)
  params = jax.jit(method.init)(jax.random.key(0))
  out = jax.jit(method.forward)(params, batch, {})
  model = method.model.clone(encoder=method.model.encoder | {'mean': None, 'std': None})
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  given = (((video / 255 - mean) / std).astype(np.float32), out.mask.visible, out.mask.masked)
  expected = jax.jit(model.apply)({'params': params}, *given)
  np.testing.assert_allclose(out.predictions['pixels'], expected['pixels'], atol=1e-5)
  patches = patchify(jnp.asarray(video / 255, jnp.float32), patch=(2, 8, 8))
  patches = np.asarray(patches).reshape(2, 64, 128, 3)
  deviation = patches.std(axis=2, ddof=1, keepdims=True) + 0.05
  normalised = (patches - patches.mean(axis=2, keepdims=True)) / deviation
  np.testing.assert_allclose(out.targets['pixels'].values, normalised.reshape(2, 64, -1), atol=1e-5)


def test_flops_of_targets_are_the_same_everywhere(monkeypatch):
  """A TPU's products with zeros do not count."""
  method = build_method(load_config('configs/mgmae.py:smoke'))
  expected = method.target_flops()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert method.target_flops() == expected > 0


def test_the_loss_is_the_mean_over_all_tokens_that_count(monkeypatch):
  """By hand: of two clips of four tokens two each are predicted, of which one does not count."""
  values = jnp.array([[10, 20, 30, 40], [50, 60, 70, 80]], jnp.float32)[..., None]
  seen = jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], jnp.float32)[..., None]
  mask = Mask(
    jnp.array([[1, 3], [0, 2]]), jnp.array([[0, 2], [3, 1]]), jnp.array([[1.0, 0.0], [1.0, 1.0]])
  )
  predicted = jnp.array([[11, 130], [82, 63]], jnp.float32)[..., None]  # Away by 1, 100, 2, 3.
  out = Forward(
    *(None, None, None, mask),
    targets={'plain': Target(values), 'weighed': Target(values, seen)},
    predictions={'plain': predicted, 'weighed': predicted},
    own_losses={'alignment': jnp.array([[3.0, 100.0], [5.0, 1.0]])},
  )
  method = build_method(load_config('configs/videomae.py:smoke'))._replace(
    heads={'plain': Head(None, mse, 0.5), 'weighed': Head(None, l1, 10.0)},
    own_losses={'alignment': 2.0},
  )
  monkeypatch.setattr(Method, 'forward', lambda *_: out)
  loss, parts = jax.jit(lambda: method.loss({}, {}, {}))()
  # A token that its target gives no weight still counts in the mean.
  expected = {'loss_plain': 14 / 3, 'loss_weighed': 4 / 3, 'loss_alignment': 9 / 3}
  assert {name: float(x) for name, x in parts.items()} == pytest.approx(expected)
  assert float(loss) == pytest.approx(0.5 * 14 / 3 + 10 * 4 / 3 + 2 * 9 / 3)
