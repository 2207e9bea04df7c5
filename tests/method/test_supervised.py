"""The loss of fine-tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from tests import started
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.method import mixing
from vmae_jax.method.state import init_state
from vmae_jax.method.supervised import build_supervised
from vmae_jax.training.step import make_train_step

CLASSES = 12
# Compiles in a fraction of the time.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
jit = functools.partial(jax.jit, compiler_options=QUICK)


def config_of(**overrides):
  config = load_config(f'{started.ROOT}/configs/finetune.py:smoke')
  with config.unlocked():
    for key, value in overrides.items():
      block, name = key.split('__')
      config[block][name] = value
  return config


def batch(b=8, seed=0):
  rng = np.random.default_rng(seed)
  index = jnp.arange(b, dtype=jnp.int32)
  return {
    'video': jnp.asarray(rng.integers(0, 256, (b, 8, 32, 32, 3), np.uint8)),
    'label': jnp.asarray(rng.integers(0, CLASSES, b, np.int32)),
    'epoch': 0 * index,
    'sample': index,
    'repeat': 0 * index,
    'replaced': jnp.zeros(b, bool),
  }


PLAIN = dict(mixing__chance=0.0, data__erase=0.0, model__dropout=0.0, model__drop_path=0.0)


def wide_head(params):
  """A head that distinguishes classes: a fresh one gives almost 0."""
  kernel = params['classifier']['kernel']
  kernel = jnp.sin(jnp.arange(kernel.size)).reshape(kernel.shape)
  classifier = params['classifier'] | {'kernel': kernel}
  return params | {'classifier': classifier}


@pytest.fixture(scope='module')
def params():
  return wide_head(jit(build_supervised(config_of(), classes=CLASSES).init)(jax.random.key(0)))


def loss_of(config, params, part):
  return jit(build_supervised(config, classes=CLASSES).loss)(params, part, {})


def test_the_loss_is_cross_entropy_to_smoothed_labels(params):
  supervised = build_supervised(config_of(**PLAIN, mixing__smoothing=0.1), classes=CLASSES)
  part = batch()
  p = np.asarray(jit(supervised.probabilities)(params, part['video']), np.float64)
  np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
  targets = np.full((8, CLASSES), 0.1 / CLASSES)
  targets[np.arange(8), part['label']] += 0.9
  loss, parts = jit(supervised.loss)(params, part, {})
  np.testing.assert_allclose(loss, -(targets * np.log(p)).sum(1).mean(), rtol=1e-5)
  assert parts['accuracy'] == pytest.approx((p.argmax(1) == part['label']).mean())


def test_a_mixed_loss_lies_between_those_of_its_clips(params, monkeypatch):
  """With half of each, the loss is the mean of both labels' losses on the mean clip."""
  config = config_of(**PLAIN | dict(mixing__chance=1.0), mixing__smoothing=0.0)
  part = mixing.pair(batch(2))
  share = lambda keys, size, **_: jnp.full((len(keys), *size), 0.3)  # noqa: E731
  monkeypatch.setattr(mixing, 'own_share', share)
  supervised = build_supervised(config, classes=CLASSES)
  loss, parts = jit(supervised.loss)(params, part, {})
  clip = supervised.normalise(part['video'] / 255.0)
  mean = 0.3 * clip + 0.7 * clip[::-1]
  logits = jit(supervised.model.apply)({'params': params}, mean)
  logp = np.asarray(jax.nn.log_softmax(logits))
  own, other = (logp[np.arange(2), part['label'][::step]] for step in (1, -1))
  np.testing.assert_allclose(loss, -(0.3 * own + 0.7 * other).mean(), rtol=1e-4)
  right = logp.argmax(1) == np.asarray(part['label'][::-1])  # The larger share.
  assert parts['accuracy'] == pytest.approx(right.mean())


def test_the_other_clip_is_erased_by_its_own_key(params, monkeypatch):
  """With a share of 0, the loss is that of the partner clips."""
  config = config_of(**PLAIN | dict(mixing__chance=1.0, data__erase=1.0))
  losses = []
  for share, order in ((0.0, 1), (1.0, -1)):
    monkeypatch.setattr(
      mixing, 'own_share', lambda keys, size, share=share, **_: jnp.full((len(keys), *size), share)
    )
    part = jax.tree.map(lambda x, order=order: x[::order], batch(4))
    losses.append(float(loss_of(config, params, mixing.pair(part))[0]))
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize('key', ['model__dropout', 'model__drop_path', 'data__erase'])
def test_each_regulariser_changes_the_loss_and_no_test(key, params):
  plain, changed = config_of(**PLAIN), config_of(**PLAIN | {key: 0.5})
  assert loss_of(plain, params, batch())[0] != loss_of(changed, params, batch())[0]
  both = [
    jit(build_supervised(c, classes=CLASSES).probabilities)(params, batch()['video'])
    for c in (plain, changed)
  ]
  np.testing.assert_array_equal(*both)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(params):
  """Mixing, erasing and dropping do not depend on how a batch is split."""
  supervised = build_supervised(config_of(), classes=CLASSES)
  optimizer = optax.sgd(1.0)
  results = []
  for accumulate in (1, 4):
    step = make_train_step(supervised.loss, optimizer, accumulate=accumulate, ema=0.0)
    state = init_state(params, optimizer, ema=0.0)
    results.append(jit(lambda s, b, step=step: step(s, mixing.pair(b), {}))(state, batch()))
  (one, metrics), (four, others) = results
  np.testing.assert_allclose(metrics['loss'], others['loss'], rtol=1e-5)
  np.testing.assert_allclose(metrics['grad_norm'], others['grad_norm'], rtol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one.params, four.params)


def test_flops_are_three_forward_passes():
  # ViT-B of 16 x 224 x 224: 1,568 tokens; VideoMAE's table says 180 GFLOPs (multiply-adds).
  config = load_config(f'{started.ROOT}/configs/finetune.py:b,k400')
  flops = build_supervised(config, classes=400).flops()
  assert flops / 3 / 2 / 1e9 == pytest.approx(180, rel=0.01)


def test_a_clip_that_is_no_whole_number_of_patches():
  with pytest.raises(UserError, match='frames 7 is no multiple'):
    build_supervised(config_of(data__frames=7), classes=3)


def test_fresh_values_are_those_of_videomae():
  """modeling_finetune.py: each Linear from N(0, 0.02), biases 0; its patches are a Conv3d."""
  config = config_of()
  fresh = build_supervised(config, classes=CLASSES).init(jax.random.key(1))
  again = build_supervised(config, classes=CLASSES).init(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, fresh, again)
  flat = flatten_dict(fresh, sep='/')
  kernels = {k: np.asarray(x) for k, x in flat.items() if 'blocks' in k and k.endswith('kernel')}
  assert {k.split('/')[-2] for k in kernels} == {'qkv', 'proj', 'fc1', 'fc2'}
  for x in kernels.values():
    assert abs(x.std() / 0.02 - 1) < 0.05 and abs(x.mean()) < 0.002
    # The tails are those of a normal distribution: 0.27 % beyond three deviations.
    assert 0.0015 < (np.abs(x) > 0.06).mean() < 0.004 and np.abs(x).max() < 0.13
  first, *others = (x.ravel()[:100] for x in kernels.values())
  assert all(abs(np.corrcoef(first, other)[0, 1]) < 0.4 for other in others)
  embed = np.asarray(flat['encoder/embed/kernel'])
  assert np.abs(embed).max() <= embed.shape[0] ** -0.5
  head = np.asarray(flat['classifier/kernel'])
  assert abs(head.std() / (0.02 * config.model.head_scale) - 1) < 0.1
  assert all(not x.any() for k, x in flat.items() if k.endswith('bias') and 'embed' not in k)
