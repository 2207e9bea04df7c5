"""Every config of the repository builds the method that it names."""

import functools
import operator

import jax
import numpy as np
import pytest

from configs import mam2, mgm, mgmae, mme, motionmae, mvd, salt, trackmae, videomae, vjepa
from vmae_jax import config as config_lib
from vmae_jax.config_file import drop_heads
from vmae_jax.errors import UserError
from vmae_jax.method.build import build_method

SIZES = [f'{size},k400' for size in ('tiny', 's', 'b', 'l', 'h', 'giant')]
OTHERS = ['b,ssv2', 'b,ucf101', 'b,few', 'demo', 'videos', 'smoke']
METHODS = [motionmae, mam2, mgm, mgmae, mme, mvd, salt, trackmae, vjepa]


@pytest.mark.parametrize(
  'method, arg',
  [(videomae, arg) for arg in SIZES + OTHERS]
  + [(method, arg) for method in METHODS for arg in ('s,k400', 'giant,k400', *OTHERS)]
  + [(salt, 'b,k400_teacher'), (mvd, 'b,k400_image')],
  ids=lambda x: getattr(x, '__name__', x),
)
def test_config(method, arg):
  config = method.get_config(arg)
  config.tokenizer.path = 'untrained'
  for teacher in config.teachers.values():  # Of an average there are shapes alone.
    teacher.path, config.optimizer.ema = 'average', 0.9
  config_lib.check(config, devices=1)
  method = build_method(config)
  assert set(method.heads) == set(config.heads)
  params = jax.eval_shape(method.init, jax.random.key(0))
  assert {head.decoder for head in config.heads.values()} < set(params)


def test_videomae_keeps_the_papers_numbers():
  config = videomae.get_config('b,ssv2')
  assert (config.masking.name, config.masking.ratio) == ('tube', 0.9)
  assert config.data.stride == 2 and config.epochs == 2400
  assert videomae.get_config('b,ucf101').masking.ratio == 0.75


def shapes(config):
  params = jax.eval_shape(build_method(config).init, jax.random.key(0))
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


def batch(config, b=4):
  data = config.data
  video = np.random.default_rng(0).integers(
    0, 256, (b, data.frames, data.size, data.size, 3), np.uint8
  )
  index = np.arange(b, dtype=np.int32)
  return {'video': video, 'epoch': 0 * index, 'sample': index, 'repeat': 0 * index}


def loss_of(config, params=None):
  """The parameters and the loss and its parts on one batch."""
  method = build_method(config)
  params = params or jax.jit(method.init)(jax.random.key(0))
  images = batch(config)
  for name in set(method.inputs) - set(images):
    values = np.random.default_rng(1).integers(0, 256, (4, *method.inputs[name].shape))
    images[name] = values.astype(method.inputs[name].dtype)
  return params, *jax.jit(method.loss)(params, images, method.frozen)


def test_motionmae_without_its_motion_is_videomae():
  """With a weight of 0 and the same masks, the loss is equal to the last bit."""
  config = motionmae.get_config('smoke')
  config.heads.motion.weight = 0.0
  params, loss, parts = loss_of(config)
  plain = videomae.get_config('smoke')
  plain.masking.name = 'per_slot'
  del params['decoder']['head_motion']
  _, expected, _ = loss_of(plain, params)
  assert loss == expected and parts['loss_motion'] > 0


def test_trackmae_has_a_smaller_decoder_for_its_tracks():
  found = jax.eval_shape(build_method(trackmae.get_config('b,k400')).init, jax.random.key(0))
  depths = {
    name: found[name]['blocks']['block']['norm1']['scale'].shape[0]
    for name in ('decoder', 'track_decoder')
  }
  assert depths == {'decoder': 4, 'track_decoder': 2}
  config = trackmae.get_config('b,k400_released')
  assert 'mean' not in config.heads.tracks.options and config.batch_size == 512


def test_vjepas_predictor_has_as_many_heads_as_its_encoder():
  found = [vjepa.get_config(f'{size},k400').model for size in ('b', 'l', 'giant')]
  assert [(m.decoder_heads, m.decoder_width) for m in found] == [(12, 384), (16, 384), (16, 384)]


@pytest.mark.parametrize(
  'sizes, told',
  [
    (dict(depht=1), "no 'depht'. Did you mean 'depth'"),
    (dict(width=100, heads=3), 'width 100 is no multiple'),
  ],
)
def test_sizes_of_a_decoder_that_cannot_be_are_named(sizes, told):
  config = trackmae.get_config('smoke')
  config.decoders.track_decoder = sizes
  with pytest.raises(UserError, match=told):
    build_method(config)


def test_sizes_of_a_decoder_that_no_head_uses_are_refused():
  config = trackmae.get_config('smoke')
  config.heads.tracks.decoder = 'decoder'
  with pytest.raises(UserError, match="decoders: there is no 'track_decoder'"):
    build_method(config)


def test_a_head_is_dropped_by_its_target():
  config = trackmae.get_config('smoke')
  config.heads.tracks.target = 'none'
  found = drop_heads(config)
  assert list(found.heads) == ['pixels'] and not found.decoders


def test_mam2s_regressor_and_decoders_have_their_own_widths():
  config = mam2.get_config('smoke')  # Encoder and decoders 128 wide.
  config.regressor.width, config.regressor.heads, config.regressor.depth = 64, 4, 3
  config.decoders.motion_decoder = dict(width=32, heads=2, depth=1)
  params, loss, parts = loss_of(config)
  assert np.isfinite(loss) and parts['loss_alignment'] > 0

  def shape(*path):
    return functools.reduce(operator.getitem, path, params)['kernel'].shape

  assert shape('from_encoder') == (128, 64)
  assert shape('regressor', 'block', 'attention', 'q') == (3, 64, 64)
  assert shape('regressor', 'block', 'mlp', 'fc1') == (3, 64, 256)
  assert shape('appearance_decoder', 'from_regressor') == (64, 128)
  assert shape('motion_decoder', 'from_regressor') == (64, 32)
  assert shape('motion_decoder', 'blocks', 'block', 'mlp', 'fc1') == (1, 32, 128)
  config.regressor.heads = 3
  with pytest.raises(UserError, match='regressor: the width 64 is no multiple of its 3 heads'):
    build_method(config)


def test_mam2_without_alignment_computes_none():
  config = mam2.get_config('smoke')
  whole = build_method(config).flops()
  params, _, _ = loss_of(config)
  config.regressor.alignment_weight = 0.0
  _, loss, parts = loss_of(config, params)
  assert 'loss_alignment' not in parts and np.isfinite(loss)
  tokens = np.prod(build_method(config).mask_shape().masked.shape)
  # The encoder's forward pass over the hidden tokens: patches, then width 128, 4 blocks, mlp 512.
  block = 2 * tokens * (4 * 128**2 + 2 * tokens * 128 + 2 * 128 * 512)
  assert whole - build_method(config).flops() == 2 * tokens * 384 * 128 + 4 * block


def test_mam2s_loss_is_the_weighted_sum_of_parts_that_are_logged():
  config = mam2.get_config('smoke')
  config.heads.motion.weight = 3.0
  _, loss, parts = loss_of(config)
  names = {'loss_appearance', 'loss_motion', 'loss_alignment', 'accuracy_appearance'}
  assert set(parts) == names and 0 <= parts['accuracy_appearance'] <= 1
  total = parts['loss_appearance'] + 3 * parts['loss_motion'] + 2 * parts['loss_alignment']
  np.testing.assert_allclose(loss, total, rtol=1e-6)


def per_slot_masks(c):
  c.masking.name = 'per_slot'


def pixels_as_appearance(c):
  pixels = videomae.get_config('smoke').heads.pixels
  with c.heads.unlocked():
    del c.heads['appearance']
    c.heads.pixels = pixels
  c.heads.pixels.decoder = 'appearance_decoder'


def motion_alone(c):
  with c.heads.unlocked():
    del c.heads['appearance']


def one_decoder(c):
  c.heads.motion.decoder = 'appearance_decoder'


def no_regressor(c):
  c.regressor.name = 'none'


def both_frames(c):
  c.heads.appearance.options.frames = 'both'
  c.heads.motion.options = dict(normalise='patch', scope='slot', grey=True)


def narrow(c):
  c.model.decoder_width = 64


def a_teacher_beside(c):
  """Features under masks of their own, and trajectories: nobody has tried these."""
  features, motion = vjepa.get_config('smoke').heads.latents, mme.get_config('smoke').heads.motion
  c.teachers.average = dict(path='untrained', weights='', digest='')
  with c.heads.unlocked():
    c.heads.latents, c.heads.tracks = features, motion
  c.masking.name = 'motion_guided'
  c.regressor.name = 'none'


CROSSOVERS = [
  a_teacher_beside,
  per_slot_masks,
  motion_alone,
  no_regressor,
  both_frames,
  *(
    pytest.param(change, marks=pytest.mark.slow)
    for change in (pixels_as_appearance, one_decoder, narrow)
  ),
]


@pytest.mark.parametrize('change', CROSSOVERS, ids=lambda change: change.__name__)
def test_mam2_in_parts_and_with_others(change):
  config = mam2.get_config('smoke')
  change(config)
  _, loss, parts = loss_of(config)
  assert np.isfinite(loss)
  assert ('loss_alignment' in parts) == (config.regressor.name != 'none')
  for name in config.heads:
    assert f'loss_{name}' in parts


@pytest.mark.parametrize(
  'method', [mam2, *(pytest.param(m, marks=pytest.mark.slow) for m in (videomae, motionmae))]
)
def test_masks_that_follow_motion_go_with_any_method(method):
  config = method.get_config('smoke')
  config.masking.name = 'motion_guided'
  _, loss, _ = loss_of(config)
  assert np.isfinite(loss)


def test_mgmaes_own_recipe():
  own, fair = mgmae.get_config('b,ssv2_own'), mgmae.get_config('b,ssv2')
  assert own.optimizer.base_lr * own.batch_size / 256 == pytest.approx(1.5e-3)
  assert own.data.repeats == 4 and own.data.stride == fair.data.stride == 2
  assert fair.optimizer.base_lr == videomae.get_config('b,ssv2').optimizer.base_lr


def test_raft_without_weights_says_where_they_come_from():
  config = mgmae.get_config('smoke')
  config.motion.name = 'raft'
  with pytest.raises(UserError, match='vmae_jax.convert'):
    build_method(config)


def test_mam2_without_a_tokenizer_says_how_to_get_one():
  with pytest.raises(UserError, match='train_tokenizer --videos.*vmae_jax.convert'):
    build_method(mam2.get_config('demo'))


def test_codes_need_cross_entropy():
  config = mam2.get_config('smoke')
  config.heads.appearance.loss = 'mse'
  with pytest.raises(UserError, match='heads.appearance has target codes and loss mse'):
    build_method(config)


def test_a_regressor_is_not_shown_visible_tokens():
  config = mam2.get_config('smoke')
  config.decoder_masking.name = 'running_cell'
  with pytest.raises(UserError, match='decoder_masking.name=random'):
    build_method(config)


@pytest.mark.parametrize('block', ['regressor', 'motion'])
def test_a_part_that_does_not_exist_is_named(block):
  config = mgmae.get_config('smoke')
  config[block].name = 'hugo'
  with pytest.raises(UserError, match=f"{block}.name: there is no 'hugo'.*There is: "):
    build_method(config)
