"""The kernel for TPUs, interpreted: it agrees with plain attention and stays on its device."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import started
from vmae_jax import sharding
from vmae_jax.models import attention_kernel as kernel_lib
from vmae_jax.models.attention import attention, choose
from vmae_jax.models.attention_kernel import supports


def inputs(*, n, m, g, e, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 4)
  return [
    jax.random.normal(key, (4, count, g, e), dtype)
    for key, count in zip(keys, (n, m, m, n), strict=True)
  ]


@functools.partial(jax.jit, static_argnums=0)
def both_ways(implementation, q, k, v, d_out):
  """The result and the three gradients."""
  out, back = jax.vjp(lambda *x: attention(*x, implementation=implementation), q, k, v)
  return out, *back(d_out)


# As many queries as are computed at once; two turns of a loop, and some left over.
@pytest.mark.parametrize('n, m, g, e', [(128, 24, 1, 128), (300, 33, 2, 64)])
def test_agrees_with_the_plain_computation(n, m, g, e, monkeypatch):
  monkeypatch.setattr(kernel_lib, '_queries_at_once', lambda keys: 128)
  given = inputs(n=n, m=m, g=g, e=e)
  for ours, plain in zip(both_ways('pallas', *given), both_ways('xla', *given), strict=True):
    np.testing.assert_allclose(ours, plain, atol=1e-5)


def test_half_precision():
  half = inputs(n=24, m=40, g=2, e=64, dtype=jnp.bfloat16)
  whole = [x.astype(jnp.float32) for x in half]
  for ours, plain in zip(both_ways('pallas', *half), both_ways('xla', *whole), strict=True):
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), plain, atol=0.03)


@pytest.mark.parametrize(
  'g, e, keys, taken',
  [
    (6, 64, 1568, True),
    (16, 64, 160, True),
    (3, 64, 160, False),  # Half of some lanes would be empty.
    (16, 80, 160, False),
    (4, 128, 6272, True),
    (6, 64, 6400, True),
    (6, 64, 6401, False),  # The scores of 128 queries are too many.
  ],
)
def test_supported_sizes(g, e, keys, taken):
  assert supports(heads=g, head=e, keys=keys) == taken


def test_tpus_use_the_kernel_if_it_supports_the_sizes(monkeypatch):
  monkeypatch.setattr(sharding, 'platform', lambda: 'tpu')
  half, whole = ([jnp.zeros((1, 1568, 6, 64), x)] * 2 for x in (jnp.bfloat16, jnp.float32))
  assert (choose(*half), choose(*whole)) == ('pallas', 'mapped')


ON_FOUR = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from tests.models.test_attention_kernel import both_ways, inputs
from vmae_jax.sharding import make_mesh

given = inputs(n=40, m=40, g=4, e=64)
alone = both_ways('pallas', *given)
mesh = make_mesh(data=2, tensor=2)
with jax.set_mesh(mesh):
  place = NamedSharding(mesh, P(('data', 'fsdp'), None, 'tensor'))
  given = jax.device_put(given, place)
  compiled = jax.jit(lambda *x: both_ways('pallas', *x)).lower(*given).compile()
  for x, y in zip(alone, compiled(*given)):
    np.testing.assert_allclose(x, y, atol=1e-6)
text = compiled.as_text()
assert not any(kind in text for kind in ('all-gather', 'all-reduce', 'all-to-all')), text
"""


def test_a_device_computes_its_own_clips_and_heads():
  env = started.environment(4)
  done = subprocess.run(
    [sys.executable, '-c', ON_FOUR], cwd=started.ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-3000:]


FOR_TPUS = """
import re
import jax, jax.numpy as jnp
from vmae_jax import sharding
from vmae_jax.models.attention import choose
from vmae_jax.models.blocks import Blocks
from vmae_jax.planning.slices import slice_devices
from tests.models.test_attention_kernel import both_ways

jax.config.update('jax_platforms', 'cpu')
for name in ('v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'):
  mesh = sharding.make_mesh(devices=slice_devices(name))
  for n, g in ((1568, 2), (160, 4)):
    x = jax.ShapeDtypeStruct((4, n, g, 64), jnp.bfloat16, sharding=sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
      assert choose(x, x) == 'pallas', name
      jax.jit(lambda *x: both_ways('auto', *x)).lower(x, x, x, x).compile()
  # What remat keeps of attention is not computed again, though dead code says so in the jaxpr.
  x = jax.ShapeDtypeStruct((4, 160, 128), jnp.bfloat16, sharding=sharding.batch_sharding(mesh))
  blocks = Blocks(1, 2, 256, remat='dots', dtype=jnp.bfloat16)
  with jax.set_mesh(mesh):
    params = jax.eval_shape(lambda: blocks.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype)))
    step = jax.jit(jax.grad(lambda p, x: blocks.apply(p, x).astype(jnp.float32).sum()))
    text = step.lower(params, x).compile().as_text()
  assert len(re.findall(r'%\\S*forward_kernel\\S* = .*custom-call', text)) == 1, name
"""


@pytest.mark.slow
@started.NEEDS_LIBTPU
def test_compiles_for_every_tpu():
  started.compile_for_tpus(FOR_TPUS)
