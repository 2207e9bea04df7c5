"""Points followed through the clip's frames, the video's frames, or from slot to slot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.motion.flow import Flow
from vmae_jax.motion.follow import clip_pairs, follow_clip, follow_slots, follow_window

OPTIONS = dict(pitch=8, smooth=False, camera=False, integer=False)
SPEED = np.array([2.0, -1.0], np.float32)


def moving(clip, *, pairs):
  """An estimator that returns SPEED everywhere, on a grid of half the size, in its pixels."""
  b, _, H, W, _ = clip.shape
  return jnp.broadcast_to(SPEED / 2, (b, len(pairs), H // 2, W // 2, 2))


def test_windows_are_followed_slot_by_slot():
  window = jax.random.uniform(jax.random.key(0), (2, 3, 5, 32, 48, 3))
  followed = jax.jit(lambda w: follow_window(w, estimator=moving, **OPTIONS))(window)
  tracks = followed.tracks
  assert tracks.displacements.shape == (6, 4, 4, 6, 2)
  np.testing.assert_allclose(tracks.displacements, np.broadcast_to(SPEED, (6, 4, 4, 6, 2)), 1e-5)
  np.testing.assert_allclose(tracks.positions[4, 4, 2, 1], [12 + 4 * 2, 20 - 4], atol=1e-4)
  np.testing.assert_array_equal(followed.frames, window)


def clip_and_flow(frames=6):
  clip = jax.random.uniform(jax.random.key(0), (2, frames, 32, 32, 3))
  pairs = tuple(clip_pairs(frames))
  values = np.zeros((2, len(pairs), 16, 16, 2), np.float32)
  values[..., 0] = np.arange(len(pairs))[:, None, None] / 2  # Step i moves by i pixels.
  return clip, Flow(jnp.asarray(values), pairs)


def test_in_a_clip_each_slot_takes_the_flow_from_its_first_frame_on():
  clip, flow = clip_and_flow()
  followed = jax.jit(lambda c, f: follow_clip(c, f, slot=2, steps=3, **OPTIONS))(clip, flow)
  steps = followed.tracks.displacements.reshape(2, 3, 3, 4, 4, 2)[1, :, :, 2, 2, 0]
  np.testing.assert_allclose(steps[:2], [[0, 1, 2], [2, 3, 4]], atol=1e-5)
  np.testing.assert_array_equal(followed.frames[0, 1], clip[0, 2:6])


def test_points_whose_steps_lead_out_of_the_clip_are_not_valid():
  clip, flow = clip_and_flow()
  for steps, whole in ((1, 3), (2, 2), (3, 2), (4, 1)):
    follow = functools.partial(follow_clip, slot=2, steps=steps, **OPTIONS)
    valid = jax.jit(follow)(clip, flow).tracks.valid
    valid = np.asarray(valid).reshape(2, 3, 4, 4)
    assert valid[:, :whole, 1, 0].all() and not valid[:, whole:].any()


def test_the_cameras_motion_is_not_recorded_but_followed():
  window = jnp.zeros((1, 1, 4, 32, 32, 3))
  options = OPTIONS | dict(camera=True)
  tracks = jax.jit(lambda w: follow_window(w, estimator=moving, **options))(window).tracks
  np.testing.assert_allclose(tracks.displacements, 0, atol=1e-3)
  np.testing.assert_allclose(tracks.positions[0, 3, 2, 1], [12 + 3 * 2, 20 - 3], atol=1e-4)


def test_a_median_removes_single_wrong_values():
  def noisy(clip, *, pairs):
    return moving(clip, pairs=pairs).at[:, :, 6, 6].set(100.0)

  window = jnp.zeros((1, 1, 2, 32, 32, 3))
  for smooth in (False, True):
    options = OPTIONS | dict(smooth=smooth)
    follow = functools.partial(follow_window, estimator=noisy, **options)
    steps = jax.jit(follow)(window).tracks.displacements
    wrong = float(jnp.abs(steps - SPEED).max())
    assert (wrong < 1e-4) == smooth


def test_no_gradient_reaches_the_frames():
  def total(window):
    return follow_window(
      window, estimator=lambda c, pairs: moving(c, pairs=pairs) * c.mean(), **OPTIONS
    ).tracks.positions.sum()

  window = jax.random.uniform(jax.random.key(0), (1, 1, 3, 16, 16, 3))
  np.testing.assert_array_equal(jax.jit(jax.grad(total))(window), 0)


@pytest.mark.parametrize('frames', [2, 5])
def test_pairs_are_neighbours(frames):
  assert clip_pairs(frames) == [(i, i + 1) for i in range(frames - 1)]


def test_slots_have_the_steps_of_points_that_started_in_the_first_frame():
  clip = jax.random.uniform(jax.random.key(0), (2, 8, 32, 32, 3))
  pairs = tuple(clip_pairs(8, gap=2))
  assert pairs == ((0, 2), (2, 4), (4, 6))
  values = np.zeros((2, 3, 4, 4, 2), np.float32)
  values[..., 0] = np.array([1, 2, 4])[:, None, None] / 8 * [1, 1, 2, 4]  # Faster on the right.
  flow = Flow(jnp.asarray(values), pairs)
  followed = jax.jit(lambda c, f: follow_slots(c, f, slot=2, **OPTIONS))(clip, flow)
  steps = np.asarray(followed.tracks.displacements).reshape(2, 4, 4, 4, 2)
  # One is at 4 pixels, 5 and 7; one at 20, 22 and 28, where flow is 4 times as fast, and leaves.
  np.testing.assert_allclose(steps[0, :, 1, 0, 0], [1, 2, 4, 4], atol=1e-5)
  place, found = 20.0, []
  for speed in (1, 2, 4):
    found.append(speed * np.interp(place, [4, 12, 20, 28], [1, 1, 2, 4]))
    place += found[-1]
  np.testing.assert_allclose(steps[1, :, 2, 2, 0], [*found, found[-1]], atol=1e-4)
  inside = np.asarray(followed.tracks.valid).reshape(2, 4, 4, 4)
  assert inside[0, :, 1, 0].all()
  np.testing.assert_array_equal(inside[0, :, 0, 3], [True, True, False, False])  # At 28, 32 and 40.
  np.testing.assert_array_equal(followed.frames[1, :, 0], clip[1, ::2])
  positions = np.asarray(followed.tracks.positions).reshape(2, 4, 2, 4, 4, 2)
  np.testing.assert_allclose(positions[0, 2, :, 1, 0, 0], [7, 11], atol=1e-5)
