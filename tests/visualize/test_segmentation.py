"""Masks over frames."""

import numpy as np

from vmae_jax.visualize.segmentation import WIDTH, overlay, safe_colours, strip


def test_overlay():
  frame = np.full((5, 6, 3), 100, np.uint8)
  mask = np.zeros((5, 6), np.uint8)
  mask[1:5, 1:5] = 2  # It touches the lower edge, where nothing ends it.
  picture = overlay(frame, mask)
  assert (picture[mask == 0] == 100).all()
  assert picture[1, 1].tolist() == [0, 128, 0] and picture[4, 1].tolist() == [0, 128, 0]
  assert picture[2, 2].tolist() == [50, 114, 50] and picture[4, 2].tolist() == [50, 114, 50]


def test_strip():
  frames = [np.full((20, 40, 3), 90 + 50 * i, np.uint8) for i in range(3)]
  masks = [np.ones((20, 40), np.uint8) * (i > 0) for i in range(3)]
  picture = strip(
    frames,
    {'found': masks, 'truth': masks[::-1]},
    names=['0', '1', '2'],
    title='title',
    caption='caption',
  )
  assert picture.shape[1] >= 3 * WIDTH and picture.shape[0] >= 2 * WIDTH * 20 // 40
  found = {tuple(x) for x in picture.reshape(-1, 3).tolist()}
  # Bare frames, and frames under the first object's colour.
  assert {(90,) * 3, (190,) * 3, (134, 70, 70), (109, 45, 45), (159, 95, 95)} <= found


def test_colours_that_all_eyes_tell_apart():
  colours = safe_colours()
  assert colours.shape == (256, 3) and not colours[0].any()
  seven = colours[1:8].astype(int)
  away = np.abs(seven[:, None] - seven).sum(-1) + 1000 * np.eye(7, dtype=int)
  assert away.min() > 75 and (colours[8] == colours[1]).all()
  # In red-green blindness what is left is lightness and yellow against blue.
  left = np.stack([seven @ [0.5, 0.5, 0], seven[:, 2]], -1)
  away = np.abs(left[:, None] - left).sum(-1) + 1000 * np.eye(7)
  assert away.min() > 25
  frame, mask = np.full((4, 4, 3), 100, np.uint8), np.ones((4, 4), np.uint8)
  assert (overlay(frame, mask, colours=colours) == (100 + colours[1].astype(int)) // 2).all()
