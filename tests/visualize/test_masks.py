"""Masks painted with words, and masks over frames."""

import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.visualize.masks import WIDTH, overlay, paint, ruled, safe_colours, strip


def test_box():
  mask = paint('box 2,1 6,4', height=8, width=10)
  expected = np.zeros((8, 10), np.uint8)
  expected[1:4, 2:6] = 1
  np.testing.assert_array_equal(mask, expected)
  np.testing.assert_array_equal(paint('box 6,1 2,4', height=8, width=10), mask)  # Any corners.
  assert paint('box 0,0 10,8', height=8, width=10).all()


def test_polygon():
  mask = paint('polygon 0,0 20,0 0,20', height=20, width=20)
  assert mask[2, 2] == 1 and mask[15, 15] == 0
  assert 0.45 < mask.mean() < 0.6


def test_objects_and_their_shapes():
  mask = paint(' box 0,0 2,2 + box 6,6 8,8; polygon 1,1 5,1 5,5 1,5 ;', height=10, width=10)
  assert mask[0, 0] == 1 and mask[7, 7] == 1
  assert mask[1, 1] == 2 and mask[4, 4] == 2  # The later one is on top.
  assert set(np.unique(mask)) == {0, 1, 2}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'no object'),
    (' ; ', 'no object'),
    ('circle 1,2 3,4', "'circle 1,2 3,4' is not a shape"),
    ('box 1 2 3 4', "'box 1 2 3 4' is not a shape"),
    ('box 1,1 5,5 +', 'is not a shape'),
    ('box 1,1', 'a box has two corners'),
    ('box 1,1 1,5', 'at least a pixel apart'),
    ('polygon 1,1 5,5', 'at least three points'),
    ('box 1,1 50,5', 'the point 50,5 of .* outside the frame, which is 20 x 10'),
    ('polygon 1,1 -2,5 3,3', 'the point -2,5'),
    ('box 1,1 5,5; box 0,0 9,9', r"object 1 \('box 1,1 5,5'\) has no pixel of its own"),
    (';'.join(['box 1,1 5,5'] * 40), 'has 40 objects: at most 32'),
  ],
)
def test_mistakes(text, message):
  with pytest.raises(UserError, match=message):
    paint(text, height=10, width=20)


def test_rulers_count_the_frames_own_pixels():
  frame = np.zeros((45, 90, 3), np.uint8)
  frame[20:, 40:] = 200
  picture = ruled(frame, width=360)
  edge = 34  # Of paper, on each side.
  assert picture.shape == (180 + 2 * edge, 360 + 2 * edge, 3)
  assert (picture[:10, -10:] == 255).all()
  # Lines stand at multiples of 20 (90 / 8, rounded up): brighter than the black beside them.
  row = picture[edge + 10, edge : edge + 160, 0]
  assert np.flatnonzero(row > 40).tolist() == [0, 80]
  column = picture[edge : edge + 180, edge + 10, 0]
  assert np.flatnonzero(column > 40).tolist() == [0, 80, 160]
  assert picture[edge + 90, edge + 170, 0] == 200 and picture[edge + 70, edge + 170, 0] == 0


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


def test_safe_colours_differ_for_any_colour_vision():
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
