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
WITHOUT_RATE = [{'step': r['step'], 'loss': r['loss'] + 1} for r in METRICS]


def has_colour(path, colour):
  rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return (np.abs(np.asarray(Image.open(path).convert('RGB'), int) - rgb).max(-1) < 8).any()


def test_one_run(tmp_path):
  path = tmp_path / 'a b.png'
  loss_curve({'': METRICS}, path)
  assert has_colour(path, COLOURS[0]) and not has_colour(path, COLOURS[1])


def test_several_runs_have_colours_of_their_own(tmp_path):
  path = tmp_path / 'curve.png'
  loss_curve({'one': METRICS, 'two': WITHOUT_RATE}, path, title='Runs')
  assert has_colour(path, COLOURS[0]) and has_colour(path, COLOURS[1])


def test_learning_rate_needs_room_only_if_logged(tmp_path):
  loss_curve({'': METRICS}, tmp_path / 'with.png')
  loss_curve({'': WITHOUT_RATE}, tmp_path / 'without.png')
  heights = [Image.open(tmp_path / f'{name}.png').height for name in ('with', 'without')]
  assert heights[0] > heights[1]


def test_a_run_that_logged_once_is_seen(tmp_path):
  path = tmp_path / 'once.png'
  loss_curve({'': METRICS[:1]}, path)
  image = Image.open(path)
  middle = 68 * image.height // 100  # The loss above, the learning rate below.
  for top, bottom in ((0, middle), (middle, image.height)):
    image.crop((0, top, image.width, bottom)).save(tmp_path / 'part.png')
    assert has_colour(tmp_path / 'part.png', COLOURS[0])


def test_missing_key_is_told(tmp_path):
  with pytest.raises(UserError, match="run 'one' has no acc .* there is: learning_rate, loss"):
    loss_curve({'one': METRICS}, tmp_path / 'curve.png', keys=('acc',))


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
  one = loss_panels({'a': metrics('loss_pixels')}, title='x')
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
