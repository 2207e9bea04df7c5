"""Tokens as colours: what differs most is red, and equal tokens are of one colour."""

import numpy as np

from vmae_jax.visualize.features import features_grid, main_colours
from vmae_jax.visualize.images import Shown


def tokens_along(directions, seed=0):
  """Tokens (4, 6, 5, 16) whose places along three orthogonal directions have std 9, 3 and 1."""
  places = np.random.default_rng(seed).normal(size=(4, 6, 5, 3)) * (9, 3, 1)
  return (places @ directions).astype(np.float32), places


def test_red_green_and_blue_are_the_places_along_the_main_directions():
  directions = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 3)))[0].T
  tokens, places = tokens_along(directions)
  colours = main_colours(tokens + 5).astype(float)
  assert colours.shape == (4, 6, 5, 3)
  inside = (np.abs(places - places.mean((0, 1, 2))) < 1.8 * places.std((0, 1, 2))).all(-1)
  for i in range(3):
    expected = 127.5 + 127.5 * (places[..., i] - places[..., i].mean()) / (2 * places[..., i].std())
    error = np.abs(colours[..., i] - expected), np.abs(255 - colours[..., i] - expected)
    assert min(e[inside].max() for e in error) < 25  # Of either sign; other axes differ a little.
  assert colours.min() == 0 and colours.max() == 255  # Beyond two standard deviations.
  same = tokens.copy()
  same[0, 0, 1] = same[0, 0, 0]
  assert (main_colours(same)[0, 0, 1] == main_colours(same)[0, 0, 0]).all()


def test_predictions_that_are_right_have_the_colours_of_the_truth():
  tokens, _ = tokens_along(np.eye(3, 16))
  true = tokens.reshape(120, 16)
  hidden = np.random.default_rng(2).random(120) < 0.5
  rows = {}
  catch = lambda found, **_: rows.update(found) or np.zeros((1, 1, 3), np.uint8)  # noqa: E731
  clip = np.zeros((8, 24, 20, 3), np.float32)
  options = {'teacher': 'video'}
  features_grid(Shown(clip, hidden, (true, true[hidden]), (2, 4, 4), options, layout=catch))
  np.testing.assert_array_equal(rows['predicted\n+ visible'], rows['teacher'])
  colours = main_colours(true).reshape(4, 6, 5, 3)
  np.testing.assert_array_equal(np.stack(rows['teacher'])[:, ::4, ::4], colours)
