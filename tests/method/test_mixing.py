"""Erased boxes, mixed clips and smoothed labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.method import mixing

B, T, H, W = 400, 3, 24, 32


def keys(b=B, seed=0):
  return jax.random.split(jax.random.key(seed), b)


# Compiles in a fraction of the time.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


@functools.cache
def erased(chance, first=0, b=B):
  clip = jnp.full((b, T, H, W, 3), 7.0)
  erase = jax.jit(lambda k, c: mixing.erase(k, c, chance=chance), compiler_options=QUICK)
  return np.asarray(erase(keys()[first : first + b], clip))


def test_an_erased_box_is_the_same_in_all_frames_and_its_noise_is_not():
  clip = erased(1.0)
  box = (clip != 7).any(-1)
  assert (box == box[:, :1]).all()
  box = box[:, 0]
  rows, columns = box.any(2).sum(1), box.any(1).sum(1)
  assert (box.sum((1, 2)) == rows * columns).all()  # A full rectangle.
  share = box.mean((1, 2))
  assert 0.015 < share.min() < 0.05 and 0.28 < share.max() < 0.37
  assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
  aspect = rows / columns
  assert aspect.min() < 0.45 and aspect.max() > 1.8
  # Everywhere, and with noise of mean 0 and deviation 1 that differs between frames.
  assert box.any(0).all()
  noise = clip[:, :2][np.broadcast_to(box[:, None], clip[:, :2].shape[:-1])]
  assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(1, abs=0.02)
  first, second = clip[0, 0][box[0]], clip[0, 1][box[0]]
  assert (first != second).all()


def test_a_share_of_clips_is_erased():
  touched = (erased(0.25) != 7).any((1, 2, 3, 4)).mean()
  assert touched == pytest.approx(0.25, abs=0.06)


def test_what_happens_to_a_clip_depends_on_its_key_alone():
  np.testing.assert_array_equal(erased(0.25, first=3, b=7), erased(0.25)[3:10])


@functools.cache
def shares(chance=1.0, mixup=0.8, cutmix=1.0, switch=0.5):
  options = dict(chance=chance, mixup=mixup, cutmix=cutmix, switch=switch)
  own_share = jax.jit(lambda k: mixing.own_share(k, (H, W), **options), compiler_options=QUICK)
  return np.asarray(own_share(keys(2000)))


def test_mixup_has_one_share_for_the_whole_picture():
  own = shares(cutmix=0.0)
  assert (own == own[:, :1, :1]).all()
  share = own[:, 0, 0]
  # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 * 0.8 + 1)).
  assert share.mean() == pytest.approx(0.5, abs=0.02)
  assert share.var() == pytest.approx(1 / 10.4, abs=0.01)


def test_cutmix_takes_a_box_from_the_other_clip():
  own = shares(mixup=0.0)
  assert set(np.unique(own)) == {0.0, 1.0}
  box = own == 0
  rows, columns = box.any(2).sum(1), box.any(1).sum(1)
  assert (box.sum((1, 2)) == rows * columns).all()
  inside = (rows < H) & (columns < W) & ~box[:, 0].any(1) & ~box[:, -1].any(1)
  inside &= ~box[:, :, 0].any(1) & ~box[:, :, -1].any(1) & (rows > 8)
  assert inside.sum() > 50
  aspect = rows[inside] / columns[inside]
  np.testing.assert_allclose(aspect.mean(), H / W, rtol=0.05)
  # Its middle is anywhere: no side of the picture is covered more often than the one across.
  for line in (box.mean((0, 1)), box.mean((0, 2))):
    assert np.abs(line - line[::-1]).max() < 0.05 and line.min() < 0.8 * line.max()
  # Some of a box lies outside, hence more than the half that Beta(1, 1) would leave.
  assert 0.55 < own.mean() < 0.75


def test_mixup_and_cutmix_in_turn_or_none():
  own = shares()
  mixed_up = ((own > 0) & (own < 1)).any((1, 2)).mean()
  assert mixed_up == pytest.approx(0.5, abs=0.05)
  untouched = (shares(chance=0.25, cutmix=0.0) == 1).all((1, 2)).mean()
  assert untouched == pytest.approx(0.75, abs=0.04)


def test_smoothed_labels():
  targets = mixing.smoothed(jnp.array([2, 0]), classes=4, smoothing=0.1)
  np.testing.assert_allclose(targets[0], [0.025, 0.025, 0.925, 0.025], rtol=1e-6)
  np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)


def test_the_last_clip_is_paired_with_the_first():
  batch = {name: jnp.arange(4) for name in ('label', 'epoch', 'sample', 'repeat')}
  batch['video'] = jnp.arange(8).reshape(4, 2)
  other = mixing.pair(batch)['other']
  np.testing.assert_array_equal(other['label'], [3, 2, 1, 0])
  np.testing.assert_array_equal(other['video'], [[6, 7], [4, 5], [2, 3], [0, 1]])
