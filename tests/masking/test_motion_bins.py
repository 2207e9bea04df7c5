"""TrackMAE's masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.masking.motion_bins import flow_pairs, motion_bins
from vmae_jax.motion.flow import Flow

GRID = (8, 14, 14)
CLIP = jnp.zeros((16, 224, 224, 3))


def flow_of(values):
  """Flow from slot to slot in the clip's pixels, on a grid with one value for each place."""
  values = np.asarray(values, np.float32) / 16
  return Flow(jnp.asarray(np.broadcast_to(values, (7, 14, 14, 2))), flow_pairs(16))


def draw(flow, clips=400, **options):
  def one(key, flow):
    return motion_bins(key, CLIP, flow, grid=GRID, ratio=0.8, **options)

  masks = jax.jit(jax.vmap(one, (0, None)))(jax.random.split(jax.random.key(0), clips), flow)
  shown = np.zeros((clips, 8, 196))
  np.put_along_axis(shown.reshape(clips, -1), np.asarray(masks.visible), 1, axis=1)
  assert (shown == shown[:, :1]).all() and masks.visible.shape == (clips, 8 * 40)
  assert (np.diff(masks.visible) > 0).all() and (np.diff(masks.masked) > 0).all()
  return shown[:, 0]


def test_half_of_the_visible_places_move_much():
  """As TrackMAE's released function at the same size: of 196 places 156 are hidden, 20 of the 98
  that move most are shown, and each of these in 17 to 27 % of 400 masks."""
  fast = np.random.default_rng(0).permutation(196) < 98
  values = np.zeros((14, 14, 2))
  values[..., 0] = np.where(fast, 0.1, 0.01).reshape(14, 14)  # Pixels: points stay in their places.
  shown = draw(flow_of(values))
  assert (shown[:, fast].sum(1) == 20).all() and (shown.sum(1) == 40).all()
  assert 0.13 < shown.mean(0).min() and shown.mean(0).max() < 0.28


def test_a_point_is_followed_from_the_first_frame():
  """Content that enters a place, still in the first frame, does not make it a moving place."""
  values = np.zeros((7, 14, 14, 2))
  values[:, :7, :, 0] = 16.0  # The upper half moves by a place in each step,
  values[3:, 7:, :, 1] = 0.5  # the lower one a little, later on.
  shown = draw(flow_of(values), moving=1.0)
  assert shown[:, :98].sum() == shown.sum()


def test_points_that_go_to_and_fro_count_as_moving():
  """The upper half drifts away, the lower one takes longer steps and ends where it began."""
  values = np.zeros((7, 14, 14, 2))
  values[:, :7, :, 0] = 0.05
  values[:, 7:, :, 0] = 0.1 * np.array([1, -1, 1, -1, 1, -1, 0])[:, None, None]
  assert not draw(flow_of(values), moving=1.0)[:, :98].any()


def test_other_shares():
  values = np.zeros((14, 14, 2))
  values[:7] = 3.0
  assert (draw(flow_of(values), moving=0.15)[:, :98].sum(1) == 6).all()
  with pytest.raises(UserError, match='118 moving and 39 other places'):
    motion_bins(jax.random.key(0), CLIP, flow_of(values), grid=GRID, ratio=0.2, moving=0.755)
