"""A checkpoint as pre-training writes it, without training."""

import functools

import jax
import orbax.checkpoint as ocp

from tests.started import SMOKE
from vmae_jax.config_file import load_config
from vmae_jax.evaluation.encoder import build_encoder, init_encoder


def write_checkpoint(workdir, *, classifier=False, average=False):
  """Random weights of the smoke config's encoder (8 frames of 32 x 32, patches 2 x 8 x 8).

  Args:
    workdir: Of the run.
    classifier: Write them as fine-tuning does: without the last LayerNorm.
    average: Write a moving average beside them, which is twice as large.

  Returns:
    The config and the encoder's parameters.
  """
  config = load_config(SMOKE)
  encoder, _ = build_encoder(config, pool='mean')
  encoder = encoder.clone(final_norm=not classifier)
  params = jax.jit(functools.partial(init_encoder, config, encoder))()
  state = {'params': {'encoder': params}}
  if average:
    state['ema'] = jax.tree.map(lambda x: 2 * x, state['params'])
  folder = workdir / 'checkpoints' / '6'
  with ocp.CheckpointManager(folder.parent, item_names=('state', 'data', 'config')) as manager:
    manager.save(
      6,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave({'next_step': 6}),
        config=ocp.args.JsonSave(config.to_dict()),
      ),
    )
  return config, params
