"""The colour wheel's known colours, and what the picture of a mask shows."""

import numpy as np

from vmae_jax.visualize.flow import SHADE, colour_wheel, flow_colours, flow_of_frames, motion_grid
from vmae_jax.visualize.images import Shown, to_uint8


def test_wheel():
  wheel = colour_wheel()
  assert wheel.shape == (55, 3)
  for place, colour in ((0, (1, 0, 0)), (15, (1, 1, 0)), (25, (0, 1, 1)), (36, (0, 0, 1))):
    np.testing.assert_allclose(wheel[place], colour)


def colour(x, y, **options):
  return flow_colours(np.array([[[x, y]]], np.float32), **options)[0, 0].tolist()


def test_colours():
  assert colour(0.0, 0.0) == [255, 255, 255]
  assert colour(2.0, 0.0) == [255, 0, 0]  # Full colour for the longest one.
  assert colour(1.0, 0.0, longest=2.0) == [255, 128, 128]
  assert colour(3.0, 0.0, longest=2.0) == [191, 0, 0]
  left, down, up = colour(-1.0, 0.0), colour(0.0, 1.0), colour(0.0, -1.0)
  assert left[2] > 200 > 30 > left[0]  # Cyan to blue.
  assert down[0] > 200 and down[1] > 200 and down[2] < 30  # Yellow.
  assert up[0] > 100 and up[2] > 200 and up[1] < 30  # Between blue and magenta.


def test_flow_of_frames_runs_forward_in_time():
  flow = np.ones((3, 2, 2, 2), np.float32) * np.array([1, 2, 3])[:, None, None, None]
  out = flow_of_frames(flow.astype(np.float32), ((0, 1), (2, 1), (3, 2)), 5)
  np.testing.assert_array_equal(out[:, 0, 0, 0], [1, np.nan, -2, -3, np.nan])


def test_flow_of_frames_prefers_forward_pairs():
  flow = np.ones((2, 1, 1, 2), np.float32) * np.array([5, 7], np.float32)[:, None, None, None]
  for order in (1, -1):
    out = flow_of_frames(flow[::order], ((1, 0), (1, 2))[::order], 3)
    assert out[1, 0, 0, 0] == 7


def test_grid_shows_visible_tokens_only():
  rng = np.random.default_rng(0)
  video = rng.uniform(0.5, 1, (4, 128, 128, 3)).astype(np.float32)
  hidden = np.ones(2 * 16, bool)
  hidden[5] = False  # In the first slot.
  flow = rng.normal(size=(4, 32, 32, 2)).astype(np.float32)
  flow[2] = np.nan
  maps = rng.uniform(size=(4, 32, 32)).astype(np.float32)
  picture = motion_grid(Shown(video, hidden, None, (2, 32, 32)), flow, maps, {'one token': hidden})
  shades = to_uint8(video * SHADE)
  expected = shades[0].copy()
  expected[32:64, 32:64] = to_uint8(video[0, 32:64, 32:64])

  def shows(tile):
    windows = np.lib.stride_tricks.sliding_window_view(picture, (128, 128, 3))[:, :, 0]
    first = (windows[:, :, 0, 0] == tile[0, 0]).all(-1)
    return any((windows[y, x] == tile).all() for y, x in np.argwhere(first))

  assert shows(expected) and shows(shades[3]) and shows(to_uint8(video[0]))
  assert not shows(shades[0])
  assert shows(np.full((128, 128, 3), 225, np.uint8))  # Where there is no flow.
