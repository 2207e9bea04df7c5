"""Attention's implementations agree, keep no scores, and stay on their devices."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import started
from vmae_jax import sharding
from vmae_jax.models import attention as attention_lib
from vmae_jax.models.attention import RECOMPUTE_FROM_TOKENS, attention, choose
from vmae_jax.models.blocks import Blocks


def inputs(dtype=jnp.float32, n=9, m=9):
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = [(2, count, 6, 8) for count in (n, m, m, n)]
  return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def by_hand(q, k, v):
  scores = np.einsum('bnge,bmge->bgnm', q, k) / np.sqrt(8)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  return np.einsum('bgnm,bmge->bnge', weights / weights.sum(-1, keepdims=True), v)


# One head at a time, as on CPU, some, or all of a clip's.
@pytest.fixture(params=[1, 3, 6])
def at_once(request, monkeypatch):
  monkeypatch.setattr(attention_lib, '_heads_at_once', lambda q, k: min(request.param, q.shape[2]))


@pytest.mark.parametrize('m', [9, 5])
@pytest.mark.parametrize('implementation', ['xla', 'mapped'])
def test_implementations_agree(implementation, m, at_once):
  q, k, v, d_out = inputs(m=m)
  out, back = jax.vjp(lambda *x: attention(*x, implementation=implementation), q, k, v)
  np.testing.assert_allclose(out, by_hand(q, k, v), atol=1e-5)
  _, back_by_hand = jax.vjp(lambda *x: jax.nn.dot_product_attention(*x), q, k, v)
  for ours, expected in zip(back(d_out), back_by_hand(d_out), strict=True):
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_half_precision(at_once):
  *half, d_out = inputs(jnp.bfloat16)
  out, back = jax.vjp(lambda *x: attention(*x, implementation='mapped'), *half)
  whole = [x.astype(jnp.float32) for x in half]
  expected, expected_back = jax.vjp(lambda *x: jax.nn.dot_product_attention(*x), *whole)
  pairs = zip(
    (out, *back(d_out)), (expected, *expected_back(d_out.astype(jnp.float32))), strict=True
  )
  for ours, right in pairs:
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours, right, atol=0.03)


def test_scores_of_half_precision_are_not_rounded_before_the_softmax():
  *half, d_out = inputs(jnp.bfloat16, n=64, m=64)
  half[0] *= 8
  out, back = jax.vjp(lambda *x: attention(*x, implementation='mapped'), *half)
  whole = [x.astype(jnp.float32) for x in half]
  expected, expected_back = jax.vjp(lambda *x: jax.nn.dot_product_attention(*x), *whole)
  dv, expected_dv = back(d_out)[2], expected_back(d_out.astype(jnp.float32))[2]
  for ours, right in ((out, expected), (dv, expected_dv)):
    # Rounded to 8 bits, scores near 10 would be off by up to 0.03, and these by 1 %.
    off = np.linalg.norm(ours.astype(jnp.float32) - right) / np.linalg.norm(right)
    assert off < 0.006


@pytest.mark.parametrize('implementation', ['xla', 'mapped'])
def test_keeps_no_scores_of_many_tokens(implementation, at_once):
  x = jnp.ones((1, RECOMPUTE_FROM_TOKENS, 1, 4))
  _, back = jax.vjp(lambda *x: attention(*x, implementation=implementation), x, x, x)
  assert (
    max(kept.size for kept in jax.tree.leaves(back)) <= 4 * RECOMPUTE_FROM_TOKENS
  )  # And not RECOMPUTE_FROM_TOKENS * RECOMPUTE_FROM_TOKENS.


@pytest.mark.parametrize(
  'name, dtype, n, m, taken',
  [
    ('cpu', jnp.float32, 383, 383, 'xla'),
    ('cpu', jnp.float32, 384, 384, 'mapped'),
    ('tpu', jnp.bfloat16, 160, 160, 'xla'),
    ('tpu', jnp.bfloat16, 1408, 160, 'xla'),  # Heads of these inputs do not fill lanes.
    ('tpu', jnp.bfloat16, 1568, 1568, 'mapped'),
    ('gpu', jnp.bfloat16, 160, 160, 'cudnn'),
    ('gpu', jnp.float32, 1568, 1568, 'xla'),
  ],
)
def test_auto(name, dtype, n, m, taken, monkeypatch):
  monkeypatch.setattr(sharding, 'platform', lambda: name)
  q, k, *_ = inputs(dtype, n, m)
  assert choose(q, k) == taken


@pytest.mark.parametrize(
  'name, dtype, n, g, expected',
  [
    ('cpu', jnp.float32, 1568, 6, 1),
    ('tpu', jnp.bfloat16, 784, 12, 12),
    ('tpu', jnp.bfloat16, 1568, 6, 3),
    ('tpu', jnp.bfloat16, 1568, 16, 4),
    ('tpu', jnp.bfloat16, 2048, 16, 2),
    ('tpu', jnp.float32, 4096, 6, 1),
  ],
)
def test_heads_at_once_fit_into_fast_memory(name, dtype, n, g, expected, monkeypatch):
  monkeypatch.setattr(sharding, 'platform', lambda: name)
  x = jnp.zeros((1, n, g, 1), dtype)
  assert attention_lib._heads_at_once(x, x) == expected


def test_remat_of_dots_computes_cudnns_attention_once(monkeypatch):
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  # It is traced only: no GPU is asked for.
  monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91000)
  x = jnp.ones((1, 64, 64), jnp.bfloat16)

  def forward_passes(remat):
    blocks = Blocks(1, 1, 64, scan=True, dtype=x.dtype, implementation='cudnn', remat=remat)
    plain = Blocks(1, 1, 64, scan=True, dtype=x.dtype, implementation='xla')
    params = jax.eval_shape(plain.init, jax.random.key(0), x)
    gradient = jax.grad(lambda p: blocks.apply(p, x).astype(jnp.float32).sum())
    return str(jax.make_jaxpr(gradient)(params)).count('dot_product_attention_fwd_wrapper')

  assert [forward_passes(remat) for remat in ('none', 'dots', 'full')] == [1, 1, 2]


@pytest.mark.parametrize(
  'capability, chosen', [('7.5', 'xla'), ('8.0', 'cudnn'), ('10.0', 'cudnn'), ('gfx90a', 'xla')]
)
def test_cudnn_is_chosen_if_the_gpu_has_its_kernels(capability, chosen, monkeypatch):
  device = SimpleNamespace(compute_capability=capability)
  monkeypatch.setattr(sharding, 'platform', lambda: 'gpu')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  x = jnp.zeros((1, 8, 2, 64), jnp.bfloat16)
  assert choose(x, x) == chosen


def test_remat_of_dots_computes_attention_once():
  x = jnp.ones((1, 5, 16))

  def exponentials(remat):
    blocks = Blocks(2, 2, 32, scan=True, remat=remat, implementation='mapped')
    params = jax.eval_shape(blocks.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p: blocks.apply(p, x).sum()))
    return str(gradient.trace(params).jaxpr).count(' exp ')

  assert exponentials('none') == exponentials('dots') == exponentials('full') - 1


def test_remat_recomputes_if_the_loop_is_unrolled():
  def products(remat):
    blocks = Blocks(4, 1, 512, scan=False, remat=remat)
    x = jnp.ones((2, 16, 128))
    params = jax.eval_shape(blocks.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p, x: blocks.apply(p, x).sum()))
    return gradient.lower(params, x).compile().as_text().count(' dot(')

  none = products('none')
  # Scores and weighted sum of each layer; qkv, proj and fc1, too, of all layers but the last.
  assert products('dots') == none + 4 * 2 and products('full') >= none + 4 * 3


ON_EIGHT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from tests.models.test_attention import inputs
from vmae_jax.models.attention import attention
from vmae_jax.sharding import make_mesh

def step(*qkv):
  return jax.vjp(lambda *x: attention(*x, implementation='mapped'), *qkv[:3])[1](qkv[3])

inputs = [jax.numpy.tile(x, (2, 1, 1, 1)) for x in inputs()]
alone = jax.jit(step)(*inputs)
for heads in (2, 4):  # Six heads over four devices stay whole.
  mesh = make_mesh(data=8 // heads, tensor=heads)
  with jax.set_mesh(mesh):
    place = NamedSharding(mesh, P(('data', 'fsdp'), None, 'tensor' if heads == 2 else None))
    compiled = jax.jit(step).lower(*jax.device_put(inputs, place)).compile()
    for x, y in zip(alone, compiled(*jax.device_put(inputs, place))):
      np.testing.assert_allclose(x, y, atol=1e-6)
  text = compiled.as_text()
  assert not any(kind in text for kind in ('all-gather', 'all-reduce', 'all-to-all')), text
"""


def test_a_device_computes_its_own_clips_and_heads():
  env = started.environment(8)
  done = subprocess.run(
    [sys.executable, '-c', ON_EIGHT], cwd=started.ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-3000:]


FOR_TPU = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from vmae_jax.planning.slices import slice_devices
from vmae_jax.models.attention import attention
from vmae_jax.models.blocks import Blocks
from vmae_jax.sharding import make_mesh

jax.config.update('jax_platforms', 'cpu')
mesh = make_mesh(devices=slice_devices('v5e:2x2'))
place = NamedSharding(mesh, P(('data', 'fsdp')))

def temporaries(function, *shapes):
  with jax.set_mesh(mesh):
    compiled = jax.jit(function).lower(*shapes).compile()
  print(compiled.memory_analysis().temp_size_in_bytes)

x = jax.ShapeDtypeStruct((32, 1568, 6, 64), jnp.bfloat16, sharding=place)
loss = lambda *x: attention(*x).astype(jnp.float32).sum()
temporaries(jax.grad(loss, argnums=(0, 1, 2)), x, x, x)
x = jax.ShapeDtypeStruct((256, 196, 128), jnp.bfloat16, sharding=place)
for remat in ('none', 'full'):
  blocks = Blocks(3, 2, 512, dtype=jnp.bfloat16, remat=remat)
  params = jax.eval_shape(blocks.init, jax.random.key(0), x)
  temporaries(jax.grad(lambda p, x: blocks.apply(p, x).astype(jnp.float32).sum()), params, x)
"""


@pytest.mark.slow
@started.NEEDS_LIBTPU
def test_what_a_tpu_keeps_for_the_backward_pass():
  """Main memory holds no scores, and only what remat keeps, with unrolled layers."""
  printed = started.compile_for_tpus(FOR_TPU)
  attention_alone, none, full = map(int, printed.split())
  scores = 8 * 6 * 1568**2 * 2  # Of the clips of a chip, in half precision.
  assert attention_alone < scores / 2
  assert full < none / 3
