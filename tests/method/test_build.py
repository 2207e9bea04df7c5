"""What a user's own masking and target get, without being named anywhere else."""

import jax.numpy as jnp

from configs import videomae
from vmae_jax.masking import MASKINGS
from vmae_jax.method.build import build_method
from vmae_jax.motion.flow import needs_flow
from vmae_jax.targets import TARGETS
from vmae_jax.targets.target import needs


def test_a_masking_gets_its_flow_and_targets_their_points_and_codes(monkeypatch):
  given = {}

  @needs_flow(lambda frames, *, first=0: ((first, frames - 1),))
  def mine(key, clip, flow, *, grid, ratio, first=0):
    given['pairs'] = flow.pairs
    return MASKINGS['tube'](key, clip, flow, grid=grid, ratio=ratio)

  @needs('points')
  def steps(clip, followed, *, patch):
    given['steps'] = followed.tracks.displacements.shape[1]
    return jnp.zeros((len(clip), 64, 1))

  @needs('tokenizer')
  def places(clip, followed, *, patch, encode, factor):
    return encode(clip[:, 0]).reshape(len(clip), -1, 1).repeat(4, axis=1)

  for table, function in ((MASKINGS, mine), (TARGETS, steps), (TARGETS, places)):
    monkeypatch.setitem(table, function.__name__, function)
  config = videomae.get_config('smoke')
  config.masking.name, config.masking.options = 'mine', {'first': 2}
  config.tracking.steps, config.tokenizer.path = 3, 'untrained'
  head = dict(options={}, weight=1.0, decoder='decoder')
  with config.heads.unlocked():
    config.heads.steps = head | dict(target='steps', loss='mse')
    config.heads.places = head | dict(target='places', loss='cross_entropy')
  method = build_method(config)
  assert given == {'pairs': ((2, config.data.frames - 1),), 'steps': 3}
  assert method.window == 4 and list(method.frozen) == ['tokenizer']
  assert method.heads.keys() == {'pixels', 'steps', 'places'}
