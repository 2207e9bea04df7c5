"""The step is compiled once, on any mesh."""

import subprocess
import sys

import pytest

from tests import started

STEPS = """
import sys
import jax, jax.numpy as jnp, numpy as np
from vmae_jax import sharding
from vmae_jax.config_file import load_config
from vmae_jax.method.build import build_method
from vmae_jax.planning.program import read_collectives
from vmae_jax.training import loop
from vmae_jax.method.state import init_state
from vmae_jax.training.optimizer import make_optimizer
from vmae_jax.training.step import jit_step, make_train_step

config = load_config('configs/videomae.py:smoke')
method = build_method(config)
optimizer = make_optimizer(config.optimizer, loop.make_schedule(config, steps=9, videos=9))
encoder, decoder = method.model.encoder, method.model.decoder
width, layers = encoder['width'], encoder['depth'] + decoder['depth']
tokens = {4 * n * width * 4 for n in (32, 64)}  # Bytes of float32, in encoder and decoder.
mesh = sharding.make_mesh(data=1, **{sys.argv[1]: 4})
with jax.set_mesh(mesh):
  init = lambda key: init_state(method.init(key), optimizer, ema=0.9)
  places = sharding.tree_shardings(jax.eval_shape(init, jax.random.key(0)), mesh)
  state = jax.jit(init, out_shardings=places)(jax.random.key(0))
  step = make_train_step(method.loss, optimizer, accumulate=1, ema=0.9)
  step = jit_step(step, state, mesh)
  number = jnp.arange(4)
  size = config.data.size
  batch = dict(video=jnp.zeros((4, config.data.frames, size, size, 3), jnp.uint8))
  batch |= dict(epoch=number, sample=number, repeat=number, replaced=number < 0)
  batch = jax.device_put(batch, sharding.batch_sharding(mesh))
  if sys.argv[1] == 'tensor':
    moved = read_collectives(step.lower(state, batch, {}).compile().as_text(), devices=4)
    # Activations are summed twice in each layer and pass; gathered arrays are no larger than qkv.
    assert {c.kind for c in moved} == {'all-reduce', 'all-gather'}, moved
    activations = [c.times for c in moved if c.bytes in tokens]
    assert sum(activations) == 4 * layers, (activations, moved)
    assert max(c.bytes for c in moved if c.kind == 'all-gather') == 3 * width**2 * 4, moved
  for _ in range(3):
    state, metrics = step(state, batch, {})
  assert step._cache_size() == 1, step._cache_size()
  assert jax.tree.map(lambda x: x.sharding, state) == places
  split = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
  assert split > 20, split
"""


@pytest.mark.parametrize('axis', ['tensor', 'fsdp'])
def test_the_state_keeps_its_shardings_and_nothing_is_compiled_twice(axis):

  done = subprocess.run(
    [sys.executable, '-c', STEPS, axis],
    env=started.environment(4),
    cwd=started.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
