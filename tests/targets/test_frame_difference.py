"""The frame difference target."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.models.patches import unpatchify
from vmae_jax.targets.frame_difference import frame_difference

PATCH = (2, 8, 8)


def clip(seed=0):
  return jnp.asarray(np.random.default_rng(seed).random((2, 4, 16, 16, 3), np.float32))


def frames(**options):
  target = frame_difference(clip(), None, patch=PATCH, normalise='none', **options)
  return np.asarray(unpatchify(target, patch=PATCH, grid=(2, 2, 2)))


def test_signed_difference_to_the_frame_before_the_first_one_repeated():
  video, found = np.asarray(clip()), frames()
  np.testing.assert_array_equal(found[:, 1:], video[:, 1:] - video[:, :-1])
  np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_options():
  video = np.asarray(clip())
  np.testing.assert_array_equal(frames(gap=2)[:, 2:], video[:, 2:] - video[:, :-2])
  assert not frames(pad='zero')[:, 0].any()
  np.testing.assert_array_equal(frames(absolute=True), np.abs(frames()))


def test_a_still_clip_is_zero_and_reversal_changes_the_sign():
  still = jnp.tile(clip()[:, :1], (1, 4, 1, 1, 1))
  assert not np.any(frame_difference(still, None, patch=PATCH))
  backwards = frame_difference(clip()[:, ::-1], None, patch=PATCH, normalise='none')
  backwards = unpatchify(backwards, patch=PATCH, grid=(2, 2, 2))
  np.testing.assert_allclose(backwards[:, 1:], -frames()[:, :0:-1], atol=1e-7)


def test_noise_of_still_patches_is_not_amplified():
  still = 0.5 + 1e-3 * clip()
  assert np.abs(frame_difference(still, None, patch=PATCH)).max() < 0.1


def test_wrong_options_are_named():
  with pytest.raises(UserError, match='gap is 4, of 4 frames'):
    frame_difference(clip(), None, patch=PATCH, gap=4)
  with pytest.raises(UserError, match="'mirror'.*repeat, zero"):
    frame_difference(clip(), None, patch=PATCH, pad='mirror')


def test_forward_differences_belong_to_the_frame_before():
  forward, backward = frames(direction='forward'), frames()
  np.testing.assert_array_equal(forward[:, :-1], backward[:, 1:])
  np.testing.assert_array_equal(forward[:, -1], forward[:, -2])


def test_a_slots_own_difference_needs_no_padding():
  target = frame_difference(clip(), None, patch=PATCH, scope='slot', normalise='none')
  assert target.shape == (2, 8, 8 * 8 * 3)
  own = unpatchify(target, patch=(1, 8, 8), grid=(2, 2, 2))
  np.testing.assert_array_equal(own, frames()[:, 1::2])


def test_grey_and_global():
  grey = frame_difference(clip(), None, patch=PATCH, grey=True, normalise='none')
  assert grey.shape == (2, 8, 2 * 8 * 8)
  video = unpatchify(grey, patch=PATCH, grid=(2, 2, 2))
  np.testing.assert_allclose(video[..., 0], frames().mean(-1), atol=1e-6)
  scaled = frame_difference(clip(), None, patch=PATCH, normalise='global', scale=0.5)
  scaled = unpatchify(scaled, patch=PATCH, grid=(2, 2, 2))
  np.testing.assert_allclose(scaled, 2 * frames(), rtol=1e-6)


def test_unknown_directions_and_scopes_are_named():
  with pytest.raises(UserError, match="'up'.*backward, forward"):
    frame_difference(clip(), None, patch=PATCH, direction='up')
  with pytest.raises(UserError, match='one frame has no differences'):
    frame_difference(clip(), None, patch=(1, 8, 8), scope='slot')
