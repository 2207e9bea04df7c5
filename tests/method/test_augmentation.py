"""Augmentation of clips against written-out formulae, and what it must not depend on."""

import colorsys
import functools
import subprocess
import sys

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import started
from vmae_jax import config as config_lib
from vmae_jax import config_finetuning
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.method import augmentation
from vmae_jax.method.augmentation import augment, build_augmentation, gaussian_blur
from vmae_jax.method.build import build_method
from vmae_jax.method.keys import clip_keys
from vmae_jax.method.mixing import pair
from vmae_jax.method.supervised import build_supervised
from vmae_jax.models.patches import unit_range

# Compiles in a fraction of the time.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
jit = functools.partial(jax.jit, compiler_options=QUICK)

OFF = config_lib.default().augment.to_dict()
STRENGTHS = augmentation.STRENGTHS
ALL = OFF | dict(jitter=1.0, grey=0.5, blur=0.5, solarise=0.5)


def keys_of(count, seed=3):
  return jax.random.split(jax.random.key(seed), count)


def clips(b=3, T=4, H=24, W=20, seed=0):
  return np.random.default_rng(seed).random((b, T, H, W, 3)).astype(np.float32)


@functools.cache
def compiled(options):
  return jit(functools.partial(augment, **dict(options)))


def look(keys, clip, **options):
  function = compiled(tuple(sorted((OFF | options).items())))
  return np.asarray(function(keys, {'video': clip})['video'])


def draws(key):
  """The numbers in [0, 1) that a clip's key gives: four chances, then five amounts."""
  return np.asarray(_draws(key))


@jit
def _draws(key):
  return jax.random.uniform(key, (9,))


def only(**options):
  """Options of a jitter with only the named changes."""
  return dict.fromkeys(STRENGTHS, 0.0) | dict(jitter=1.0) | options


def in_hsv(clip, change):
  def one(pixel):
    return colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))

  return np.apply_along_axis(one, -1, clip.astype(np.float64))


def blurred(clip, sigma, radius):
  """Two passes of a normalised Gaussian over a picture mirrored at its edges."""
  kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
  kernel /= kernel.sum()
  for axis in (1, 2):
    place = np.arange(clip.shape[axis])
    total = np.zeros(clip.shape)
    for k, weight in zip(range(-radius, radius + 1), kernel, strict=True):
      at = np.abs(place + k)  # Mirrored at the first row, and at the last one:
      at = np.where(at < len(place), at, 2 * (len(place) - 1) - at)
      total += weight * np.take(clip, at, axis)
    clip = total
  return clip


def expected(name, clip, amount):
  signed = 2 * amount - 1
  match name:
    case 'brightness':
      return np.clip(clip + 0.4 * signed[0], 0, 1)
    case 'contrast':
      mean = clip.mean(axis=(0, 1, 2))
      return np.clip(mean + (1 + 0.4 * signed[1]) * (clip - mean), 0, 1)
    case 'saturation':
      factor = 1 + 0.2 * signed[2]
      return in_hsv(clip, lambda h, s, v: (h, min(1, s * factor), v))
    case 'hue':
      return in_hsv(clip, lambda h, s, v: ((h + 0.1 * signed[3]) % 1, s, v))
    case 'grey':
      return np.repeat((clip @ [0.2989, 0.587, 0.114])[..., None], 3, -1)
    case 'blur':
      return blurred(clip, 0.1 + 1.9 * amount[4], 1)
    case 'solarise':
      return np.where(clip < 0.5, clip, 1 - clip)


@pytest.mark.parametrize('name', [*STRENGTHS, 'grey', 'blur', 'solarise'])
def test_formulae(name):
  options = only(**{name: OFF[name]}) if name in STRENGTHS else {name: 1.0}
  keys, clip = keys_of(3), clips(H=10, W=12)
  got = look(keys, clip, **options)
  for i in range(3):
    want = expected(name, clip[i].astype(np.float64), draws(keys[i])[4:])
    np.testing.assert_allclose(got[i], want, atol=3e-6)
  assert np.abs(got - clip).max() > 0.01


def test_all_changes_in_their_order():
  keys, clip = keys_of(2), clips(b=2, T=2, H=8, W=8)
  got = look(keys, clip, **OFF | dict(jitter=1.0, grey=1.0, blur=1.0, solarise=1.0))
  for i in range(2):
    want = clip[i].astype(np.float64)
    for name in (*STRENGTHS, 'grey', 'blur', 'solarise'):
      want = expected(name, want, draws(keys[i])[4:])
    away = np.abs(got[i] - want)
    assert np.median(away) < 1e-6 and (away < 1e-5).mean() > 0.99  # 0.5 itself may go both ways.


def test_blur_is_that_of_dm_pix_inside():
  frames, sigma = clips(b=1, H=60, W=50)[0], jnp.float32(1.3)
  assert augmentation.blur_radius((60, 50)) == 2 and augmentation.blur_radius((224, 224)) == 11
  got = np.asarray(jit(gaussian_blur)(frames, sigma))
  want = np.asarray(dm_pix.gaussian_blur(frames, sigma, 5, padding='VALID'))
  np.testing.assert_allclose(got[:, 2:-2, 2:-2], want, atol=1e-6)
  # Unlike its padding with zeros, mirroring leaves even pictures even up to their edges.
  np.testing.assert_allclose(
    jit(gaussian_blur)(jnp.full((1, 60, 50, 3), 0.7), sigma), 0.7, rtol=1e-6
  )


def test_values_stay_in_range():
  wild = dict(jitter=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
  clip = clips(b=16, T=2, H=8, W=8)
  clip[:, 0, :4], clip[:, 1, :4] = 0.0, 1.0
  got = look(keys_of(16), clip, **wild | dict(grey=0.3, blur=0.3, solarise=0.3))
  assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 1
  white = np.ones((64, 1, 40, 40, 3), np.float32)  # Weights that are rounded may make more of it.
  assert look(keys_of(64), white, blur=1.0).max() == 1


@pytest.mark.parametrize('name', augmentation.CHANCES)
def test_chances(name):
  keys, clip = keys_of(400), np.tile(clips(b=1, T=1, H=6, W=6), (400, 1, 1, 1, 1))
  changed = look(keys, clip, **{name: 0.3}) != clip
  changed = changed.any(axis=(1, 2, 3, 4))
  assert 0.22 < changed.mean() < 0.38  # Others are left alone to the last bit.


def test_chances_and_amounts_are_independent():
  drawn = np.stack([draws(key) for key in keys_of(300)])
  correlation = np.corrcoef(drawn.T) - np.eye(9)
  assert np.abs(correlation).max() < 0.25


def test_all_frames_of_a_clip_are_augmented_alike():
  """A still place keeps one colour while the rest of the picture gets brighter."""
  clip = clips(b=8, T=6, H=8, W=16)
  clip[:, :, :, :8] = clip[:, :1, :, :8]
  clip[:, :, :, 8:] *= np.linspace(0, 1, 6, dtype=np.float32)[:, None, None, None]
  got = look(keys_of(8), clip, **ALL)
  still = got[:, :, :, :6]  # The blur reaches one pixel further here.
  np.testing.assert_array_equal(still, np.broadcast_to(still[:, :1], still.shape))
  assert (np.ptp(got[:, :, :, 10:], axis=1) > 0.1).mean() > 0.5


def test_a_window_is_augmented_like_its_clip():
  clip = clips(b=6, T=4, H=8, W=8)
  window = np.stack([clip[:, ::2], clip[:, 1::2], 1 - clip[:, ::2]], axis=2)  # b t w H W C
  got = jit(functools.partial(augment, **ALL))(keys_of(6), {'video': clip, 'window': window})
  assert got['window'].shape == window.shape and list(got) == ['video', 'window']
  np.testing.assert_array_equal(got['window'][:, :, 0], got['video'][:, ::2])
  np.testing.assert_array_equal(got['window'][:, :, 1], got['video'][:, 1::2])


def test_augmentation_does_not_depend_on_other_clips():
  keys, clip = keys_of(4), clips(b=4)
  whole = look(keys, clip, **ALL)
  assert len({x.tobytes() for x in look(keys, np.repeat(clip[:1], 4, 0), **ALL)}) == 4
  for order in ([3, 1, 0, 2], [2], [1, 1, 1, 3]):
    order = np.array(order)
    np.testing.assert_allclose(look(keys[order], clip[order], **ALL), whole[order], atol=1e-6)


DEVICES = """
import sys, jax, numpy as np
from vmae_jax.sharding import batch_sharding, make_mesh
from vmae_jax.method.augmentation import augment
from tests.method.test_augmentation import ALL, clips, keys_of
mesh = make_mesh(data=len(jax.devices()), fsdp=1, tensor=1)
place = batch_sharding(mesh)
clip, keys = jax.device_put(clips(b=8), place), jax.device_put(keys_of(8), place)
function = jax.jit(lambda k, x: augment(k, {'video': x}, **ALL)['video'], out_shardings=place)
text = function.lower(keys, clip).compile().as_text()
assert 'all-' not in text and 'collective' not in text
np.save(sys.argv[1], np.asarray(function(keys, clip)))
"""


def test_augmentation_does_not_depend_on_devices(tmp_path):
  env = started.environment(8)
  command = [sys.executable, '-c', DEVICES, str(tmp_path / 'many.npy')]
  subprocess.run(command, env=env, cwd=started.ROOT, check=True, timeout=300)
  got = np.load(tmp_path / 'many.npy')
  np.testing.assert_allclose(got, look(keys_of(8), clips(b=8), **ALL), atol=1e-6)


def batch_for(config, window=0, b=2):
  rng = np.random.default_rng(1)
  data, index = config.data, jnp.arange(b, dtype=jnp.int32)
  shape = (b, data.frames, data.size, data.size, 3)
  batch = dict(video=jnp.asarray(rng.integers(0, 256, shape, np.uint8)))
  if window:
    slots = data.frames // config.model.patch[0]
    shape = (b, slots, window, *shape[2:])
    batch['window'] = jnp.asarray(rng.integers(0, 256, shape, np.uint8))
    batch['window'] = batch['window'].at[:, :, 0].set(batch['video'][:, :: config.model.patch[0]])
  numbers = dict(epoch=index + 1, sample=index + 5, repeat=0 * index)
  return batch | numbers | dict(label=index, replaced=index > b)


def test_nothing_is_computed_by_default():
  images = {'video': jnp.zeros((1, 2, 8, 8, 3))}
  for default in (config_lib.default(), config_finetuning.default()):
    assert build_augmentation(default.augment)(None, images) is images
    assert not any(default.augment[name] for name in augmentation.CHANCES)
  assert build_augmentation(None)(None, images) is images  # A run that is older than the block.
  for name in augmentation.CHANCES:
    config = config_lib.default()
    config.augment[name] = 0.1
    keys = jax.vmap(jax.random.key)(np.arange(1))
    assert build_augmentation(config.augment)(keys, images) is not images


def test_pretraining_uses_augmented_clips():
  """MME: augmentation changes clip, targets and the window of points, but not the masks."""
  config = load_config(f'{started.ROOT}/configs/mme.py:smoke')
  plain = build_method(config)
  config.augment.update(ALL)
  method = build_method(config)
  assert method.flops() == pytest.approx(plain.flops(), rel=1e-3)
  batch = batch_for(config, method.window)
  keys = clip_keys(config.seed, batch, 'look')
  images = {name: unit_range(batch[name]) for name in ('video', 'window')}
  wanted = jit(functools.partial(augment, **ALL))(keys, images)
  params = jax.jit(method.init)(jax.random.key(0))

  def seen(method, batch, looks):
    if looks is not None:  # Is given what should come out.
      method = method._replace(augment=lambda keys, images: looks)
    out = method.forward(params, batch, {})
    return out.clip, out.followed.frames, out.mask.visible, out.targets

  got = jit(functools.partial(seen, method, looks=None))(batch)
  want = jit(functools.partial(seen, plain))(batch, looks=wanted)
  np.testing.assert_allclose(got[0], want[0], atol=1e-6)
  np.testing.assert_allclose(got[1], want[1], atol=1e-6)
  np.testing.assert_array_equal(got[2], want[2])
  assert got[3].keys() == want[3].keys()
  for name, target in want[3].items():  # Motion in noise magnifies what is rounded.
    away = np.abs(got[3][name].values - target.values)
    assert (away < 1e-3).mean() > 0.97, name


def test_finetuning_trains_on_augmented_clips_and_tests_without():
  config = load_config(f'{started.ROOT}/configs/finetune.py:smoke')
  config.data.erase = config.mixing.chance = 0.0
  plain = build_supervised(config, classes=3)
  config.augment.update(ALL)
  supervised = build_supervised(config, classes=3)
  batch = batch_for(config, b=4)
  keys = clip_keys(config.seed, batch, 'look')
  got = jit(supervised._input)(batch)
  images = {'video': unit_range(batch['video'])}
  clip = jit(functools.partial(augment, **ALL))(keys, images)['video']
  np.testing.assert_allclose(got, plain.normalise(clip), atol=1e-5)
  assert np.abs(got - jit(plain._input)(batch)).max() > 0.1
  # The partner of a mixed clip has the look that its own key says.
  other = pair(batch)['other']
  got = jit(supervised._input)(other)
  np.testing.assert_allclose(got, plain.normalise(clip)[::-1], atol=1e-5)
  params = jax.eval_shape(supervised.init, jax.random.key(0))
  video = batch['video']
  programs = [str(jax.make_jaxpr(s.probabilities)(params, video)) for s in (supervised, plain)]
  assert programs[0] == programs[1]


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('jitter', 1.5, 'augment.jitter is 1.5: it must be at most 1'),
    ('blur', -0.1, 'augment.blur is -0.1: it must be at least 0'),
    ('hue', 0.7, 'augment.hue is 0.7: it must be at most 0.5'),
    ('sigma', (2.0, 0.1), 'augment.sigma is .2.0, 0.1.: it takes two widths'),
    ('sigma', (0.0, 0.1), 'augment.sigma is .0.0, 0.1.: it takes two widths'),
  ],
)
def test_mistakes(key, value, message):
  config = config_lib.default()
  config.augment[key] = value
  with pytest.raises(UserError, match=message):
    config_lib.check(config, devices=1)
