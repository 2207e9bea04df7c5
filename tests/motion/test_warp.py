"""Warping in pixel coordinates: exact values, edges, far-away targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax import sharding
from vmae_jax.errors import UserError
from vmae_jax.motion.warp import HOLE_FILLINGS, chain, splat_forward, warp_backward

backward = jax.jit(warp_backward, static_argnames='released_scale')
forward = jax.jit(splat_forward)


def constant(shape, x, y):
  return jnp.broadcast_to(jnp.array([x, y], jnp.float32), (*shape, 2))


def noise(*shape, seed=0):
  return np.random.default_rng(seed).uniform(0.1, 1, shape).astype(np.float32)


def bilinear(image, y, x):
  """The definition, pixel by pixel."""
  total = 0.0
  for row in (int(np.floor(y)), int(np.floor(y)) + 1):
    for column in (int(np.floor(x)), int(np.floor(x)) + 1):
      if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
        total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
  return total


def test_backward_warp_is_bilinear_and_zero_outside():
  image = noise(7, 9)
  flow = np.random.default_rng(1).normal(0, 4, (7, 9, 2)).astype(np.float32)
  expected = [
    [bilinear(image, y + flow[y, x, 1], x + flow[y, x, 0]) for x in range(9)] for y in range(7)
  ]
  np.testing.assert_allclose(backward(image, flow), expected, atol=1e-5)
  assert (np.array(expected) == 0).any()


def test_a_tpu_warps_the_same_without_a_gather(monkeypatch):
  image = noise(7, 9)
  flow = np.random.default_rng(1).normal(0, 4, (7, 9, 2)).astype(np.float32)
  expected = backward(image, flow)
  monkeypatch.setattr(sharding, 'platform', lambda: 'tpu')
  warped = jax.jit(lambda *given: warp_backward(*given))(image, flow)
  np.testing.assert_allclose(warped, expected, atol=1e-6)
  np.testing.assert_array_equal(warped == 0, expected == 0)  # What counts as a hole.
  assert 'gather' not in str(jax.make_jaxpr(lambda *given: warp_backward(*given))(image, flow))


def test_whole_pixels_and_no_motion_are_exact():
  image = noise(8, 10)
  np.testing.assert_array_equal(backward(image, constant((8, 10), 0, 0)), image)
  moved = np.zeros_like(image)
  moved[:-2, 3:] = image[2:, :-3]
  np.testing.assert_array_equal(backward(image, constant((8, 10), -3, 2)), moved)


def test_values_fall_to_zero_beyond_the_edge():
  image = np.ones((4, 4), np.float32)
  warped = backward(image, constant((4, 4), 0.25, 0))
  np.testing.assert_allclose(warped[:, :3], 1)
  np.testing.assert_allclose(warped[:, 3], 0.75)


@pytest.mark.parametrize('far', [1e4, -1e9, 1e20])
def test_far_targets_are_zero(far):
  image = noise(5, 6)
  assert (np.asarray(backward(image, constant((5, 6), far, 0))) == 0).all()
  assert (np.asarray(forward(image, constant((5, 6), 0, far))) == 0).all()


def test_released_scale():
  ramp = jnp.broadcast_to(jnp.arange(224.0), (224, 224))
  flow = constant((224, 224), 4, 4)
  shift = backward(ramp, flow, released_scale=True) - ramp
  np.testing.assert_allclose(shift[100, 10:200], 3.98215, atol=5e-5)
  np.testing.assert_allclose((backward(ramp, flow) - ramp)[100, 10:200], 4, atol=1e-5)
  down = backward(ramp.T, flow, released_scale=True) - ramp.T
  np.testing.assert_allclose(down[10:200, 100], 3.98215, atol=5e-5)
  with pytest.raises(UserError, match='backward'):
    splat_forward(ramp, flow, released_scale=True)


def test_splat_is_the_mean_of_what_arrives():
  image = noise(6, 8)
  np.testing.assert_allclose(forward(image, constant((6, 8), 0, 0)), image, rtol=1e-6)
  moved = np.zeros_like(image)
  moved[1:, :-2] = image[:-1, 2:]
  np.testing.assert_allclose(forward(image, constant((6, 8), -2, 1)), moved, rtol=1e-6)
  # All pixels of a row arrive at one place.
  at = np.zeros((6, 8, 2), np.float32)
  at[..., 0] = 3 - np.arange(8)
  out = np.asarray(forward(image, at))
  np.testing.assert_allclose(out[:, 3], image.mean(1), rtol=1e-5)
  assert (np.delete(out, 3, 1) == 0).all()


def test_chain_waits_until_it_is_started():
  base = noise(6, 6)
  flows = jnp.stack([constant((6, 6), -1, 0)] * 4)
  run = jax.jit(
    lambda started: chain(
      jnp.asarray(base), flows, started, warp=warp_backward, fill=HOLE_FILLINGS['none']
    )
  )
  maps = np.asarray(run(jnp.array([False, False, True, True])))
  np.testing.assert_array_equal(maps[:2], [base, base])
  np.testing.assert_array_equal(maps[2][:, 1:], base[:, :-1])
  np.testing.assert_array_equal(maps[3][:, 2:], base[:, :-2])
  assert (maps[3][:, :2] == 0).all()
