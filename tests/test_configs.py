"""Every config of the repository builds the method that it names."""

import jax
import pytest

from configs import motionmae, videomae
from vmae_jax import config as config_lib
from vmae_jax.errors import UserError
from vmae_jax.training.objective import build_objective

ARGUMENTS = [
  *(f'{size},{data}' for size in ('tiny', 's', 'b', 'l', 'h', 'giant') for data in ('k400',)),
  *('b,ssv2', 'b,ucf101', 'demo', 'videos', 'smoke'),
]


@pytest.mark.parametrize('method', [videomae, motionmae])
@pytest.mark.parametrize('arg', ARGUMENTS)
def test_config(method, arg):
  config = method.get_config(arg)
  config_lib.check(config, devices=1)
  objective = build_objective(config)
  assert set(objective.heads) == set(config.heads)
  params = jax.eval_shape(objective.init, jax.random.key(0))
  assert 'decoder' in params


def test_videomae_keeps_the_papers_numbers():
  config = videomae.get_config('b,ssv2')
  assert (config.masking.name, config.masking.ratio) == ('tube', 0.9)
  assert config.data.stride == 2 and config.epochs == 2400
  assert videomae.get_config('b,ucf101').masking.ratio == 0.75


def shapes(config):
  params = jax.eval_shape(build_objective(config).init, jax.random.key(0))
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves}


def test_motionmaes_shared_decoder_has_one_dense_more_than_videomae():
  more = shapes(motionmae.get_config('b,k400')) - shapes(videomae.get_config('b,k400'))
  assert more == {'decoder/head_motion/kernel', 'decoder/head_motion/bias'}


def test_motionmaes_independent_decoder_shares_nothing():
  config = motionmae.get_config('b,k400')
  config.heads.motion.decoder = 'motion_decoder'
  own = {x for x in shapes(config) if x.startswith('motion_decoder/')}
  assert {'motion_decoder/mask_token', 'motion_decoder/from_encoder/kernel'} < own
  assert 'decoder/head_motion/kernel' not in shapes(config)


@pytest.mark.parametrize('block', ['regressor', 'motion'])
def test_a_part_that_does_not_exist_is_named(block):
  config = videomae.get_config('smoke')
  config[block].name = 'raft'
  with pytest.raises(UserError, match=f"{block}.name: there is no 'raft'.*There is: none"):
    build_objective(config)
