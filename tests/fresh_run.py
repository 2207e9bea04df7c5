"""A pre-training run before its first step, for tests that need a checkpoint."""

import jax
import optax

from tests import started
from vmae_jax.config_file import load_config
from vmae_jax.method.build import build_method
from vmae_jax.method.state import init_state
from vmae_jax.runs.checkpointer import Checkpointer


def save_fresh_run(workdir, method='videomae'):
  """Saves a checkpoint with fresh weights in WORKDIR."""
  config = load_config(started.SMOKE.replace('videomae', method))
  config.seed = 1
  method = build_method(config)
  params = jax.jit(method.init)(jax.random.key(1))
  saver = Checkpointer(str(workdir), keep=1, keep_every_steps=0, config=config.to_dict())
  saver.save_last(0, init_state(params, optax.sgd(0.1), ema=0.0), {})
  saver.close()
