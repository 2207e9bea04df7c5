"""Curves are drawn from what was logged, without a display."""

import numpy as np
import pytest
from PIL import Image

from vmae_jax.errors import UserError
from vmae_jax.visualize.curves import COLOURS, loss_curve, loss_panels, smoothed

METRICS = [
  {'step': i, 'time': 0.0, 'loss': 1 / i if i != 5 else float('nan'), 'learning_rate': 1e-3}
  for i in range(1, 50)
]


def has_colour(path, colour):
  rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return (np.abs(np.asarray(Image.open(path).convert('RGB'), int) - rgb).max(-1) < 8).any()


def test_one_run(tmp_path):
  path = tmp_path / 'a b.png'
  loss_curve(METRICS, path)
  assert has_colour(path, COLOURS[0]) and not has_colour(path, COLOURS[1])


def test_heads_have_colours_of_their_own(tmp_path):
  path = tmp_path / 'curve.png'
  records = [record | {'loss_pixels': record['loss'] + 1} for record in METRICS]
  loss_curve(records, path, keys=('loss', 'loss_pixels'), title='Run')
  assert has_colour(path, COLOURS[0]) and has_colour(path, COLOURS[1])


def test_a_run_that_logged_once_is_seen(tmp_path):
  path = tmp_path / 'once.png'
  loss_curve(METRICS[:1], path)
  image = Image.open(path)
  middle = 68 * image.height // 100  # The loss above, the learning rate below.
  for top, bottom in ((0, middle), (middle, image.height)):
    image.crop((0, top, image.width, bottom)).save(tmp_path / 'part.png')
    assert has_colour(tmp_path / 'part.png', COLOURS[0])


def test_smoothing_is_a_centred_mean():
  values = np.array([0.0, 3.0, 6.0, np.nan, 0.0])
  np.testing.assert_allclose(smoothed(values, window=3), [1.5, 3.0, 4.5, 3.0, 0.0])
  np.testing.assert_array_equal(smoothed(values, window=1), values)


def metrics(*keys, steps=30):
  return [{'step': i, 'loss': 1.0} | {k: 1 / (1 + i) for k in keys} for i in range(steps)]


def count(picture, colour):
  rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return (np.abs(picture.astype(int) - rgb).sum(-1) < 12).sum()


def test_a_panel_for_each_run():
  one = loss_panels({'a': metrics('loss_pixels')})
  four = loss_panels({n: metrics('loss_pixels', 'loss_motion') for n in 'abcd'})
  assert one.dtype == np.uint8 and one.shape[2] == 3
  assert four.shape[1] == 3 * one.shape[1] and four.shape[0] > 1.7 * one.shape[0]
  assert four.shape[1] <= 1100  # A page.
  assert count(one, COLOURS[0]) > 50 and count(one, COLOURS[1]) == 0
  assert count(four, COLOURS[0]) > 200 and count(four, COLOURS[1]) > 100


def test_nothing_to_draw():
  with pytest.raises(UserError, match='no run'):
    loss_panels({})
  with pytest.raises(UserError, match="'a' has no loss"):
    loss_panels({'a': [{'step': 1, 'learning_rate': 0.1}]})
