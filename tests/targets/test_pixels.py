"""The pixel target."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax import sharding
from vmae_jax.errors import UserError
from vmae_jax.targets.pixels import pixels


@pytest.fixture(params=['cpu', 'tpu'], autouse=True)
def platform(request, monkeypatch):
  """On TPUs, sums are products."""
  monkeypatch.setattr(sharding, 'platform', lambda: request.param)


def clip(seed=0):
  return jnp.asarray(np.random.default_rng(seed).random((2, 4, 16, 16, 3), np.float32))


def test_each_patch_and_channel_has_mean_zero_and_unbiased_deviation_one():
  target = np.asarray(pixels(clip(), None, patch=(2, 8, 8))).reshape(2, 8, 128, 3)
  np.testing.assert_allclose(target.mean(2), 0, atol=1e-5)
  np.testing.assert_allclose(target.std(2, ddof=1), 1, atol=1e-4)


def test_raw_pixels_in_the_order_time_row_column_channel():
  video = clip()
  target = pixels(video, None, patch=(2, 8, 8), normalise='none')
  np.testing.assert_array_equal(target[1, 6].reshape(2, 8, 8, 3), video[1, 2:4, 8:16, 0:8])


def test_a_flat_patch_is_zero_and_a_large_eps_keeps_its_noise_small():
  flat = jnp.full((1, 2, 8, 8, 3), 0.4)
  np.testing.assert_allclose(pixels(flat, None, patch=(2, 8, 8)), 0, atol=1e-3)
  noisy = flat + 1e-4 * clip()[:1, :2, :8, :8]
  assert np.abs(pixels(noisy, None, patch=(2, 8, 8), eps=0.05)).max() < 0.01
  assert np.abs(pixels(noisy, None, patch=(2, 8, 8))).max() > 1


def test_flat_patches_of_every_brightness_are_finite():
  """Rounding must not make a variance negative."""
  flat = jnp.broadcast_to(
    jnp.arange(256, dtype=jnp.uint8)[:, None, None, None, None], (256, 2, 8, 8, 3)
  )
  np.testing.assert_allclose(pixels(flat, None, patch=(2, 8, 8)), 0, atol=2e-3)


def test_an_unknown_normalisation_is_named():
  with pytest.raises(UserError, match=r"'batch'.*none, patch"):
    pixels(clip(), None, patch=(2, 8, 8), normalise='batch')
