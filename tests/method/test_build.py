"""What maskings and targets get, including a user's own, and errors of configs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mme, videomae
from tests.started import ROOT
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.masking import MASKINGS
from vmae_jax.method.build import build_method
from vmae_jax.method.keys import clip_keys
from vmae_jax.models.patches import unit_range
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
    return encode(unit_range(clip[:, 0])).reshape(len(clip), -1, 1).repeat(4, axis=1)

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


def test_cosine_cannot_have_a_weight_for_each_value():
  config = mme.get_config('smoke')
  config.heads.shape.update(target='aligned_hog', options={}, loss='cosine')
  build_method(config)
  config.heads.shape.options.later = 0.1
  with pytest.raises(UserError, match='aligned_hog has a weight for each value'):
    build_method(config)


def codec_images(method, b=2):
  """Per frame of the video 1/4 of a cell to the right and 1/2 upwards, with stride 3."""
  images = {name: np.zeros((b, *x.shape), x.dtype) for name, x in method.inputs.items()}
  images['vectors'][:] = 0.25, -0.5
  T = images['video'].shape[1]
  images['times'][:, :T] = 3 * np.arange(T)
  if method.window:
    starts = 3 * np.arange(0, T, method.patch[0])
    images['times'][:, T:] = (starts[:, None] + np.arange(method.window)).ravel()
  return images


@pytest.mark.parametrize('name', ['mgmae', 'mme', 'trackmae'])
def test_the_codecs_motion_stands_in_for_estimated_flow(name):
  """Cells are 4 pixels wide: (1, -2) pixels a frame, over 3 frames, or 6 in a time slot."""
  config = load_config(f'{ROOT}/configs/{name}.py:smoke')
  config.motion.name = 'codec'
  method = build_method(config)
  images = {name: jnp.asarray(x) for name, x in codec_images(method).items()}
  images |= {name: unit_range(x) for name, x in images.items() if x.dtype == jnp.uint8}
  flow = method.flow(images, {})
  for (i, j), values in zip(flow.pairs, flow.values[0], strict=True) if flow else ():
    np.testing.assert_allclose(values * 4, np.full((8, 8, 2), [3.0, -6.0]) * (j - i))
  followed = method.follow(images, flow, {})
  if name == 'mgmae':
    assert followed is None and flow is not None
  else:
    step = {'mme': [1, -2], 'trackmae': [6, -12]}[name]
    found = followed.tracks.displacements
    np.testing.assert_allclose(found, np.broadcast_to(np.float32(step), found.shape))


def test_clips_and_cells_with_vectors_are_counted():
  method = build_method(load_config(f'{ROOT}/configs/mgm.py:smoke'))
  batch = codec_images(method, b=4) | dict.fromkeys(('epoch', 'sample', 'repeat'), np.arange(4))
  batch['vectors'][1] = np.nan
  batch['vectors'][2, :4] = np.nan
  params = jax.jit(method.init)(jax.random.key(0))
  parts = jax.jit(method.loss)(params, batch, {})[1]
  assert float(parts['codec_clips']) == 0.75 and float(parts['codec_cells']) == 2.5 / 4
  assert method.target_flops() == 0


def test_shuffled_frames_are_seen_and_targets_keep_their_order():
  config = load_config(f'{ROOT}/configs/videomae.py:smoke')
  plain = build_method(config)
  config.data.shuffled = True
  method = build_method(config)
  rng = np.random.default_rng(0)
  batch = dict.fromkeys(('epoch', 'sample', 'repeat'), jnp.arange(2))
  video = rng.integers(0, 256, (2, *plain.inputs['video'].shape), np.uint8)
  batch['video'] = jnp.asarray(video)
  params = jax.jit(plain.init)(jax.random.key(0))
  out, first = (jax.jit(x.forward)(params, batch, {}) for x in (method, plain))
  np.testing.assert_array_equal(out.targets['pixels'].values, first.targets['pixels'].values)
  assert np.abs(out.predictions['pixels'] - first.predictions['pixels']).max() > 1e-3
  keys = clip_keys(config.seed, batch, 'order of frames')
  orders = [jax.random.permutation(key, batch['video'].shape[1]) for key in keys]
  assert orders[0].tolist() != orders[1].tolist()
  moved = batch | {'video': jnp.stack([x[i] for x, i in zip(video, orders, strict=True)])}
  wanted = jax.jit(plain.forward)(params, moved, {}).predictions['pixels']
  np.testing.assert_allclose(out.predictions['pixels'], wanted, atol=1e-5)
