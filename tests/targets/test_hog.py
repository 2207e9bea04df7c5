"""Histograms of oriented gradients: golden vectors, the definition, and along trajectories."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.stored import assert_close
from vmae_jax.errors import UserError
from vmae_jax.motion.follow import Followed
from vmae_jax.motion.tracking import track
from vmae_jax.targets.hog import (
  IMAGENET_STD,
  aligned_hog,
  bin_angles,
  hog,
  hog_target,
  step_weights,
)

pytestmark = pytest.mark.optimised

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'mme_targets.npz'
ONES = (1.0, 1.0, 1.0)
PATCH = (2, 16, 16)


@functools.lru_cache
def compiled(function, **options):
  return jax.jit(functools.partial(function, **options))


def cells(frames, *, std=ONES, **options):
  return np.asarray(compiled(hog, std=std, **options)(jnp.asarray(frames, jnp.float32)))


def target(clip, *, patch=PATCH, **options):
  clip = jnp.asarray(clip, jnp.float32)
  return np.asarray(compiled(hog_target, followed=None, patch=patch, **options)(clip))


def aligned(window, tracks, **options):
  function = compiled(aligned_hog, patch=PATCH, **options)
  return np.asarray(function(window[:, :, 0], Followed(window, tracks)).values)


def noise(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def grey(image):
  return np.repeat(np.asarray(image, np.float32)[..., None], 3, -1)


# Golden values.


@pytest.mark.stored
@pytest.mark.parametrize('norm, key', [('none', 'hog_none'), ('l2', 'hog_L2')])
def test_parity(norm, key):
  z = np.load(FIXTURE)
  middle = np.moveaxis(z['middle_frames'], 1, -1)
  clip = np.stack([noise(*middle.shape), middle], 2).reshape(1, 4, 64, 64, 3)
  assert_close(target(clip, norm=norm, std=ONES), z[key], share=1e-5)


def waves():
  i = np.arange(16)
  return np.stack([np.sin(0.3 * (i[:, None] + 1) + 0.2 * (c + 1) * i) for c in range(3)], -1)


GOLDEN = {
  'maskfeat': [
    (0, 0, 0, [0.09075, 0.99461, 0, 0, 0.05019, 0, 0, 0, 0]),
    (0, 0, 1, [0.06367, 0, 0.99234, 0, 0.10586, 0, 0, 0, 0]),
    (0, 0, 2, [0.05039, 0, 0, 0.99263, 0.11025, 0, 0, 0, 0]),
    (1, 1, 0, [0.13524, 0.98701, 0, 0, 0.08676, 0, 0, 0, 0]),
  ],
  'maskfeat, gaussian': [(0, 0, 0, [0.06206, 0.99755, 0, 0, 0.0323, 0, 0, 0, 0])],
  'mme, no norm': [
    (0, 0, 0, [0, 0.02539, 0.30245, 1.16726, 0.07532, 0.00069, 0.00063, 0, 0]),
    (0, 0, 1, [0.00525, 0.5204, 1.659, 0.10939, 0.00589, 0.00019, 0, 0, 0]),
    (0, 0, 2, [0.0943, 1.87934, 0.8486, 0.03965, 0.00637, 0, 0, 0, 0]),
    (1, 1, 0, [0, 0.01488, 0.41831, 1.34817, 0.1244, 0, 0, 0, 0]),
  ],
}
OPTIONS = {
  'maskfeat': dict(variant='maskfeat'),
  'maskfeat, gaussian': dict(variant='maskfeat', gaussian=16),
  'mme, no norm': dict(norm='none'),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_golden_vectors(name):
  found = cells(waves(), **OPTIONS[name])
  assert found.shape == (2, 2, 3, 9)
  for y, x, channel, expected in GOLDEN[name]:
    np.testing.assert_allclose(found[y, x, channel], expected, atol=2e-5)


def ramp(degrees, side=24):
  """One unit a pixel in a direction from right to down; its middle cell."""
  a = np.deg2rad(degrees)
  x, y = np.meshgrid(np.arange(side), np.arange(side))
  return grey(np.cos(a) * x + np.sin(a) * y)


@pytest.mark.parametrize(
  'degrees, bins',
  [
    (0, {0: 8}),
    (10, {0: 4, 1: 4}),
    (25, {1: 6, 2: 2}),
    (45, {2: 6, 3: 2}),
    (90, {4: 4, 5: 4}),
    (170, {8: 4, 0: 4}),
    (175, {0: 6, 8: 2}),
    (180, {0: 8}),
    (205, {1: 6, 2: 2}),
  ],
)
def test_ramps(degrees, bins):
  expected = np.zeros(9)
  for k, value in bins.items():
    expected[k] = value
  found = cells(ramp(degrees), norm='none')[1, 1]
  np.testing.assert_allclose(found, np.tile(expected, (3, 1)), atol=1e-4)


@pytest.mark.parametrize('degrees, k', [(0, 4), (180, 4), (90, 0), (270, 0), (60, 1), (-60, 7)])
def test_ramps_of_maskfeat(degrees, k):
  found = cells(ramp(degrees), norm='none', variant='maskfeat')[1, 1, 0]
  np.testing.assert_allclose(found, 64 * 8 * np.eye(9)[k], rtol=1e-5)


@pytest.mark.parametrize('variant', ['mme', 'maskfeat'])
def test_bin_angles_are_where_ramps_fall(variant):
  for k, angle in enumerate(bin_angles(variant)):
    found = cells(ramp(np.rad2deg(angle)), norm='none', variant=variant)[1, 1, 0]
    assert found.argmax() == k and found[k] > 0.999 * found.sum()


# The definition, with all bins of all pixels.


def simple(frames, *, variant='mme', cell=8, norm='l2'):
  released = variant == 'maskfeat'
  pad = dict(mode='reflect' if released else 'edge')
  p = np.pad(frames.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), **pad)
  kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
  h, w = frames.shape[1:3]
  window = [(i, j, p[:, i : i + h, j : j + w]) for i in range(3) for j in range(3)]
  gx = sum(kernel[i, j] * x for i, j, x in window)
  gy = sum(kernel.T[i, j] * x for i, j, x in window)
  size = np.hypot(gx, gy)
  if released:
    low = np.floor(np.arctan2(gx, gy) / np.pi * 9).astype(int)
    weights = np.eye(9)[low % 9]
  else:
    phase = np.arctan2(gy, gx) / np.pi * 9
    low = np.floor(phase).astype(int)
    part = (phase - low)[..., None]
    weights = (1 - part) * np.eye(9)[low % 9] + part * np.eye(9)[(low + 1) % 9]
  values = (size[..., None] * weights).reshape(-1, h // cell, cell, w // cell, cell, 3, 9)
  values = values.sum((2, 4)) if released else values.mean((2, 4))
  if norm == 'l2':
    values /= np.sqrt((values**2).sum(-1, keepdims=True) + 1e-10)
  return values


@pytest.mark.parametrize('variant', ['mme', 'maskfeat'])
def test_the_definition(variant):
  norm, cell = {'mme': ('l2', 4), 'maskfeat': ('none', 4)}[variant]
  frames = noise(2, 16, 24, 3)
  found = cells(frames, variant=variant, norm=norm, cell=cell)
  expected = simple(frames, variant=variant, norm=norm, cell=cell)
  assert found.shape == expected.shape == (2, 16 // cell, 24 // cell, 3, 9)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_flat_frames_are_zero():
  flat = np.full((16, 16, 3), 0.37)
  assert not cells(flat, norm='none').any()
  assert not cells(flat, variant='maskfeat').any()


def test_channels_are_scaled_as_in_the_models_input():
  frames = noise(24, 24, 3)
  mean = np.array([0.485, 0.456, 0.406])
  expected = cells((frames - mean) / np.array(IMAGENET_STD), norm='none')
  np.testing.assert_allclose(cells(frames, norm='none', std=IMAGENET_STD), expected, atol=1e-4)


# Tokens.


CLIPS = noise(2, 6, 32, 48, 3)


def test_order_of_tokens_and_values():
  per_frame = simple(CLIPS[:, :2].reshape(4, 32, 48, 3)).reshape(2, 2, 4, 6, 3, 9)
  for frame, place in (('middle', 1), ('first', 0)):
    found = target(CLIPS, frame=frame)
    assert found.shape == (2, 18, 108)
    found = found.reshape(2, 3, 2, 3, 3, 9, 2, 2)[:, 0]
    expected = per_frame[:, place].reshape(2, 2, 2, 3, 2, 3, 9).transpose(0, 1, 3, 5, 6, 2, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
  # A clip turned by one slot has its slots turned.
  turned = target(np.roll(CLIPS, 2, 1)).reshape(2, 3, -1)
  np.testing.assert_allclose(turned[:, 1:], target(CLIPS).reshape(2, 3, -1)[:, :-1], atol=1e-6)


def test_the_middle_of_longer_slots():
  clip = CLIPS[:1, :3, :8, :8]
  found = target(clip, patch=(3, 8, 8))
  changed = np.where(np.arange(3)[:, None, None, None] == 1, clip, 0)
  assert found.shape == (1, 1, 108)
  np.testing.assert_array_equal(target(changed, patch=(3, 8, 8)), found)


def test_a_mirrored_clip_has_angles_and_cells_mirrored():
  there = target(CLIPS).reshape(2, 3, 2, 3, 3, 9, 2, 2)
  back = target(CLIPS[:, :, :, ::-1]).reshape(there.shape)[:, :, :, ::-1, ..., ::-1]
  np.testing.assert_allclose(back[..., -np.arange(9) % 9, :, :], there, atol=1e-5)


def as_cells(target, h, w):
  """One clip's first slot: (rows, columns, values) of cells."""
  cells = target[0, : h * w].reshape(h, w, 27, 2, 2)
  return cells.transpose(0, 3, 1, 4, 2).reshape(2 * h, 2 * w, 27)


def test_a_crop_has_the_targets_of_what_it_shows():
  clip = noise(2, 6, 48, 64, 3, seed=1)
  whole = as_cells(target(clip), 3, 4)
  part = as_cells(target(clip[:, :, 16:48, 16:64]), 2, 3)
  # Cells at the crop's edge see other pixels beyond it.
  np.testing.assert_allclose(part[1:-1, 1:-1], whole[3:-1, 3:-1], atol=1e-6)


def test_a_resized_clip_has_the_same_shapes():
  def waves(side):
    at = 2 * np.pi * (np.arange(side) + 0.5) / side
    image = np.sin(at + 2 * at[:, None]) + 0.5 * np.sin(2 * at - at[:, None] + 1)
    return np.broadcast_to(grey(image), (1, 2, side, side, 3))

  small = as_cells(target(waves(32), patch=(2, 8, 8)), 4, 4)[1:-1, 1:-1]
  large = as_cells(target(waves(64)), 4, 4)[1:-1, 1:-1]
  assert np.abs(small - large).max() < 0.1 and np.abs(small - large).mean() < 0.02
  assert np.abs(small - large[::-1]).max() > 0.3


# Along trajectories.


follow = jax.jit(functools.partial(track, size=(64, 64)))


def tracks_of(*motions):
  """One slot for each motion, (x, y) a frame; three steps."""
  flow = np.broadcast_to(np.reshape(motions, (-1, 1, 1, 1, 2)), (len(motions), 3, 16, 16, 2))
  return follow(jnp.asarray(flow / 4, jnp.float32))


def test_a_still_clip_repeats_the_plain_target():
  frame = noise(64, 64, 3)
  clip = np.broadcast_to(frame, (1, 4, 64, 64, 3))
  window = np.broadcast_to(frame, (1, 2, 4, 64, 64, 3))
  found = aligned(window, tracks_of((0, 0), (0, 0))).reshape(1, 32, 27, 3, 4)
  plain = target(clip).reshape(1, 32, 27, 1, 4)
  np.testing.assert_allclose(found, np.repeat(plain, 3, axis=3), atol=1e-6)


def test_moving_content_is_followed():
  wide = noise(2, 64, 128, 3)  # Two slots, each with other content.
  window = np.stack([wide[:, :, 8 * i : 8 * i + 64] for i in range(4)], 1)[None]
  found = aligned(jnp.asarray(window), tracks_of((-8, 0), (-8, 0)))
  found = found.reshape(2, 4, 4, 3, 9, 3, 2, 2)
  inner = found[:, :, 2]  # On their way these points see neither edge.
  start = simple(window[0, :, 0])
  start = start.reshape(2, 4, 2, 4, 2, 3, 9).transpose(0, 1, 3, 5, 6, 2, 4)[:, :, 2]
  for step in range(3):
    np.testing.assert_allclose(inner[:, :, :, :, step], start, atol=1e-5)
  # Where points start there is other content in later frames.
  still = aligned(jnp.asarray(window), tracks_of((0, 0), (0, 0)))
  still = still.reshape(2, 4, 4, 3, 9, 3, 2, 2)[:, :, 2]
  assert np.abs(still[:, :, :, :, 1] - start).max() > 0.3


def test_the_cell_is_the_one_that_a_point_is_in():
  frame = noise(64, 64, 3)
  window = jnp.broadcast_to(frame, (1, 2, 4, 64, 64, 3))
  plain = as_cells(target(np.broadcast_to(frame, (1, 4, 64, 64, 3))), 4, 4)
  motions = (3.9, 0), (4.1, 0), (0, -4.1), (99, 0)
  places = (2, 2), (2, 3), (1, 2), (2, 7)
  for i in (0, 2):
    found = aligned(window, tracks_of(*motions[i : i + 2])).reshape(2, 4, 4, 27, 3, 2, 2)
    for slot in (0, 1):
      np.testing.assert_allclose(found[slot, 1, 1, :, 1, 0, 0], plain[places[i + slot]], atol=1e-6)


def test_step_weights_are_those_of_the_target():
  weights = step_weights(4, later=0.1)
  assert weights.shape == (108 * 4,)
  shaped = weights.reshape(27, 4, 4)
  np.testing.assert_allclose(shaped, np.tile([[0.25], [0.025], [0.025], [0.025]], (27, 1, 4)))
  # An error of 1 everywhere: the sum over 108 values of the mean over steps.
  np.testing.assert_allclose(weights.sum(), 108 * (1 + 3 * 0.1) / 4, rtol=1e-5)
  np.testing.assert_allclose(step_weights(6, later=1.0), 1 / 6)


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(variant='hog'), "'hog'.*maskfeat, mme"),
    (dict(norm='l1'), "'l1'.*l2, none"),
    (dict(frame='last'), "'last'.*first, middle"),
    (dict(gaussian=12), '32 x 32 pixels do not divide into squares of 12'),
    (dict(patch=(2, 16, 8)), '16 x 8 pixels.*square, with a side that is a multiple of 2'),
    (dict(patch=(2, 7, 7)), '7 x 7 pixels'),
    (dict(patch=(2, 24, 24)), 'squares of 12'),
  ],
)
def test_mistakes_are_named(options, message):
  with pytest.raises(UserError, match=message):
    target(noise(1, 2, 32, 32, 3), **options)
