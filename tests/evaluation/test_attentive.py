"""The attentive probe."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vmae_jax.evaluation.attentive import AttentiveClassifier, _start, _step, attentive_probe
from vmae_jax.models.blocks import Mlp

N, D, CLASSES = 6, 64, 3


def made_up(count, seed):
  """One token, anywhere, tells the class; the mean of all tokens is the same for all classes."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES, count)
  signs = np.random.default_rng(9).choice([-1.0, 1.0], (CLASSES, D))
  tokens = 0.3 * rng.normal(size=(count, N, D))
  places = rng.permuted(np.tile(np.arange(N), (count, 1)), axis=1)
  rows = np.arange(count)
  marked = np.concatenate([np.full(D // 2, 3.0), np.zeros(D // 2)])
  tokens[rows, places[:, 0]] += signs[labels] + marked
  tokens[rows, places[:, 1]] -= signs[labels]
  return tokens.astype(np.float16), labels.astype(np.int32)


def passes(tokens, labels, size=32, counted=None):
  counted = np.ones(len(labels), np.float32) if counted is None else counted

  def batches(epoch=None):
    order = np.arange(len(labels))
    if epoch is not None:
      order = np.random.default_rng(epoch).permutation(order)
    for i in range(0, len(order), size):
      some = order[i : i + size]
      yield jnp.asarray(tokens[some]), jnp.asarray(labels[some]), jnp.asarray(counted[some])

  return batches


def probe(train, test, held_out=None, **options):
  options = dict(classes=CLASSES, width=D, steps=8, epochs=8, rates=(3e-3, 1e-7)) | options
  options.setdefault('weight_decays', (0.01,))
  held_out = held_out or passes(*made_up(64, 5))
  return attentive_probe(train, held_out, {'test': test}, **options)['test']


def test_it_is_cross_attention_of_one_query():
  """Flax's attention of the same parameters, a key and a value for each token, is the same."""
  rng = np.random.default_rng(0)
  model, tokens = AttentiveClassifier(2, CLASSES), jnp.asarray(rng.normal(2, 3, (4, N, D)))
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), shapes)

  def normed(x, scale, bias):
    return nn.LayerNorm(1e-6).apply({'params': {'scale': scale, 'bias': bias}}, x)

  p, split = params, (2, D // 2)
  given = {
    'query': {'kernel': p['q']['kernel'].reshape(D, *split), 'bias': p['q']['bias'].reshape(split)},
    'key': {'kernel': p['k']['kernel'], 'bias': jnp.asarray(rng.normal(size=split))},
    'value': {'kernel': p['v']['kernel'], 'bias': p['v_bias'].reshape(split)},
    'out': {'kernel': p['proj']['kernel'].reshape(*split, D), 'bias': p['proj']['bias']},
  }
  x = normed(tokens, p['norm1_scale'], p['norm1_bias'])
  query = jnp.broadcast_to(p['query'], (4, 1, D))
  attention = nn.MultiHeadDotProductAttention(2, deterministic=True)
  y = query + attention.apply({'params': given}, query, x, x)
  y = y + Mlp(4 * D).apply({'params': p['mlp']}, normed(y, **p['norm2']))
  expected = y[:, 0] @ p['classifier']['kernel'] + p['classifier']['bias']
  found = model.apply({'params': params}, tokens)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope='module')
def found():
  return probe(passes(*made_up(256, 0)), passes(*made_up(200, 1)))


def test_it_finds_the_token_that_tells_the_class(found):
  assert found['top1'] > 0.8 and found['top5'] == 1.0
  assert found['learning_rate'] == 3e-3 and found['held_out_top1'] > 0.8


def test_pairs_do_not_mix(found):
  """Alone or beside others, a pair learns the same."""
  alone = probe(passes(*made_up(256, 0)), passes(*made_up(200, 1)), rates=(3e-3,))
  assert alone['top1'] == pytest.approx(found['top1'], abs=0.02)


def test_the_test_set_chooses_nothing():
  """Held-out labels are shifted, so that what learns is wrong there and the other is chosen."""
  tokens, labels = made_up(64, 5)
  wrong = passes(tokens, (labels + 1) % CLASSES)
  found = probe(passes(*made_up(256, 0)), passes(*made_up(200, 1)), held_out=wrong)
  assert found['learning_rate'] == 1e-7 and found['top1'] < 0.6 < found['best_top1']


def test_a_pair_takes_the_steps_of_optaxs_adamw():
  """Twenty steps: two to warm up, then half a cosine to nothing; only kernels decay."""
  rng = np.random.default_rng(0)
  tokens, labels = jnp.asarray(rng.normal(size=(4, N, 8))), jnp.array([0, 2, 1, 1])
  weights = jnp.array([1.0, 1.0, 0.0, 1.0])
  model = AttentiveClassifier(2, CLASSES)
  state = _start(model, 8, jax.random.key(0), 2)
  params = jax.tree.map(lambda x: x[1] + 0, state[0])
  rates, decays = jnp.array([1e-3, 2e-2]), jnp.array([0.0, 0.5])
  factors = [0.5, 1.0, *(0.5 + 0.5 * np.cos(np.pi * np.arange(18) / 18))]
  mask = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
  schedule = lambda count: 2e-2 * jnp.array(factors)[count]  # noqa: E731
  adamw = optax.adamw(schedule, 0.9, 0.999, 1e-8, weight_decay=0.5, mask=mask)

  def loss(params):
    chances = jax.nn.softmax(model.apply({'params': params}, tokens))
    return -(jnp.log(chances[np.arange(4), labels]) * weights).sum() / 3

  @jax.jit
  def expected(params, moments):
    updates, moments = adamw.update(jax.grad(loss)(params), moments, params)
    return optax.apply_updates(params, updates), moments

  moments = adamw.init(params)
  for _ in range(20):
    state = _step(model, state, (tokens, labels, weights), rates, decays, jnp.int32(20))
    params, moments = expected(params, moments)
  jax.tree.map(
    lambda found, x: np.testing.assert_allclose(found[1], x, atol=2e-4), state[0], params
  )


def test_what_does_not_count_is_not_learnt_and_not_tested():
  tokens, labels = made_up(256, 0)
  counted = (np.arange(256) % 2).astype(np.float32)
  half = np.where(counted > 0, labels, (labels + 1) % CLASSES).astype(np.int32)
  found = probe(passes(tokens, half, counted=counted), passes(tokens, half, counted=counted))
  assert found['top1'] > 0.8
