"""MME's three modes, its loss, and its targets with other methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mam2, mme
from vmae_jax.errors import UserError
from vmae_jax.method.build import build_method, window
from vmae_jax.models.encoder import gather
from vmae_jax.training.pretraining import clip_sampler


def batch(config, b=4):
  """Noise that moves to the right by a pixel a frame of the video."""
  data, rng = config.data, np.random.default_rng(0)
  still = rng.integers(0, 256, (b, data.size, data.size, 3), np.uint8)
  video = np.stack([np.roll(still, i, axis=2) for i in range(data.frames + 8)], axis=1)
  index = np.arange(b, dtype=np.int32)
  out = {'video': video[:, : data.frames], 'epoch': 0 * index, 'sample': index, 'repeat': 0 * index}
  if w := window(config):
    slots = range(0, data.frames, config.model.patch[0])
    out['window'] = np.stack([video[:, i : i + w] for i in slots], axis=1)
  return out


def small(name):
  """A published variant on small clips."""
  config = mme.get_config(f'tiny,{name}')
  config.data.frames, config.data.size, config.model.patch = 8, 32, (2, 8, 8)
  config.model.size, config.model.scan = 'demo', True
  return config


@pytest.mark.parametrize(
  ('name', 'shape', 'motion', 'decoders'),
  [
    ('k400', 108, 8 * 6 + 2 * 6, {'decoder'}),
    ('k400_paper', 108 * 6, 8 * 6, {'shape_decoder', 'motion_decoder'}),
    ('k400_released', 108, 8 * 4, {'decoder'}),
  ],
)
def test_modes(name, shape, motion, decoders):
  config = mme.get_config(f'b,{name}')
  assert config.masking.ratio == 0.7 and config.masking.name == 'tube'
  method = build_method(config)
  assert method.mask_shape().visible.shape == (1, 472)  # The notes' count.
  params = jax.eval_shape(method.init, jax.random.key(0))
  assert set(params) - {'encoder'} == decoders
  for head, width in (('shape', shape), ('motion', motion)):
    decoder = params[config.heads[head].decoder]
    assert decoder[f'hidden_{head}']['kernel'].shape[1] == 512
    assert decoder[f'head_{head}']['kernel'].shape == (512, width)
  count = sum(x.size for x in jax.tree.leaves(params))
  if name.endswith('released'):
    assert count == 87_089_356


def test_points_of_a_token():
  config = mme.get_config('b,k400')
  config.tracking.points = 4
  targets = jax.eval_shape(build_method(config).init, jax.random.key(0))['decoder']
  # 16 points and their mean, 6 steps of 2 components each.
  assert targets['head_motion']['kernel'].shape == (512, 16 * 6 * 2 + 6 * 2)
  config.heads.motion.options.average = True
  config.heads.motion.options.normalise = 'none'
  targets = jax.eval_shape(build_method(config).init, jax.random.key(0))['decoder']
  assert targets['head_motion']['kernel'].shape == (512, 2 * 6 * 2)
  config.tracking.points = 3
  with pytest.raises(UserError, match='do not divide into 3 x 3 square cells'):
    build_method(config)
  config = mme.get_config('b,k400_paper')
  config.tracking.points = 4
  with pytest.raises(UserError, match='aligned_hog needs 2 x 2 points'):
    build_method(config)


def targets_of(method, data):
  params = jax.jit(method.init)(jax.random.key(0))
  return jax.jit(lambda *given: method.forward(*given).targets)(params, data, {})


def test_the_released_loss():
  """(L_traj + L_hog) / 2: sums over values, means over masked tokens, also those not valid."""
  config = small('k400_released')
  method = build_method(config)
  data = batch(config)
  # Points leave a frame that moves by half its width.
  data['window'][0] = np.stack([np.roll(data['window'][0, 0, 0], 3 * i, 1) for i in range(5)])
  params = jax.jit(method.init)(jax.random.key(0))
  both = jax.jit(lambda *given: (method.forward(*given), method.loss(*given)))
  out, (loss, _) = both(params, data, {})
  predictions = out.predictions
  targets = jax.tree.map(lambda x: gather(x, out.mask.masked), out.targets)
  valid = np.asarray(targets['motion'].weights[..., 0])
  assert 0 < valid.mean() < 1 and set(np.unique(valid)) == {0, 1}
  error = {
    name: np.square(np.asarray(predictions[name]) - np.asarray(targets[name].values)).sum(-1)
    for name in predictions
  }
  d = predictions['motion'].shape[-1]
  expected = (32 / d * (valid * error['motion']).mean() + error['shape'].mean()) / 2
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert np.abs(predictions['motion']).max() < 1 and predictions['shape'].min() > 0


def test_later_steps_of_shapes_count_as_told():
  config = small('k400_paper')
  config.heads.shape.options.later = 0.1
  method = build_method(config)
  targets = targets_of(method, batch(config))
  weights = np.asarray(targets['shape'].weights)[0, 0].reshape(27, 6, 4)
  assert (weights[:, 0] == 1).all()
  np.testing.assert_allclose(weights[:, 1:], 0.1)


def test_the_sampler_brings_what_the_targets_follow():
  config = mme.get_config('b,k400')
  sampler = clip_sampler(config)
  assert (sampler.window, sampler.slot) == (7, 2)
  config.tracking.rate = 'clip'
  assert clip_sampler(config).window == 0
  config.tracking.rate = 'frame'
  with pytest.raises(UserError, match="tracking.rate: there is no 'frame'"):
    build_method(config)


@pytest.mark.parametrize('rate', ['video', 'clip'])
def test_the_mean_step_of_moving_content_is_found(rate):
  config = mme.get_config('smoke')
  config.tracking.rate, config.data.size = rate, 64
  method = build_method(config)
  data = batch(config, b=2)
  for name in ('video', 'window')[: 1 + (rate == 'video')]:  # Smooth enough to be followed.
    soft = sum(np.roll(data[name].astype(float), i, axis=-2) for i in range(8)) / 8
    soft = sum(np.roll(soft, i, axis=-3) for i in range(8)) / 8
    data[name] = np.clip(4 * (soft - 128) + 128, 0, 255).astype(np.uint8)

  target = targets_of(method, data)['motion']
  mean = np.asarray(target.values)[..., -6:].reshape(2, *method.grid, 2, 3)
  assert np.abs(mean[:, :2, 2:6, 2:6, 0] * 2 - 1).mean() < 0.2  # The scale is 2 pixels.
  assert np.abs(mean[:, :2, 2:6, 2:6, 1]).mean() < 0.1
  valid = np.asarray(target.weights).reshape(2, *method.grid)
  assert valid[:, :3].all() and valid[:, 3].all() == (rate == 'video')


def loss_of(config):
  method = build_method(config)
  params = jax.jit(method.init)(jax.random.key(0))
  loss, parts = jax.jit(method.loss)(params, batch(config), method.frozen)
  return float(loss), parts


@pytest.mark.parametrize('rate', [pytest.param('video', marks=pytest.mark.slow), 'clip'])
def test_masks_that_follow_motion(rate):
  config = mme.get_config('smoke')
  config.masking.name, config.tracking.rate = 'motion_guided', rate
  loss, parts = loss_of(config)
  assert np.isfinite(loss) and set(parts) == {'loss_shape', 'loss_motion'}


def test_trajectories_as_the_motion_of_mam2():
  config = mam2.get_config('smoke')
  motion = mme.get_config('smoke').heads.motion
  motion.decoder = 'motion_decoder'
  config.heads.motion = motion
  loss, parts = loss_of(config)
  assert np.isfinite(loss) and 'loss_alignment' in parts and parts['loss_motion'] > 0


def test_a_head_is_told_what_it_may_end_with():
  config = mme.get_config('smoke')
  config.heads.shape.activation = 'relu'
  with pytest.raises(UserError, match="heads.shape.activation: there is no 'relu'"):
    build_method(config)


def test_odd_patches_have_no_cells():
  config = mme.get_config('smoke')
  config.model.patch = (2, 16, 8)
  with pytest.raises(UserError, match='square, with a side that is a multiple of 2'):
    build_method(config)


def test_a_clip_without_motion_is_all_zeros():
  config = mme.get_config('smoke')
  method = build_method(config)
  data = batch(config)
  data['video'] = np.repeat(data['video'][:, :1], 8, axis=1)
  data['window'] = jnp.repeat(data['window'][:, :1, :1], 4, axis=1).repeat(4, axis=2)
  targets = targets_of(method, data)
  np.testing.assert_allclose(targets['motion'].values, 0, atol=1e-5)
  assert targets['shape'].values.max() > 0.5
