"""Where paths are drawn, and what of them is borrowed from visible tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.motion.follow import Followed
from vmae_jax.motion.tracking import Tracks
from vmae_jax.targets.trajectory import trajectory
from vmae_jax.visualize.images import Shown
from vmae_jax.visualize.trajectories import (
  PREDICTED,
  TRUE,
  draw_paths,
  predicted_steps,
  trajectory_grid,
)

GRID, PATCH, STEPS = (2, 3, 4), (2, 32, 32), 3
WITHOUT_LEGEND = 4 * (4 * 96 + 4) + 20
HIDDEN = np.random.default_rng(0).random(24) < 0.7


def steps_of(seed=0):
  """The same motion in all tokens, so that what is borrowed from others is right."""
  one = np.random.default_rng(seed).normal(0, 4, (STEPS, 2, 2, 2)).astype(np.float32)
  return np.broadcast_to(np.tile(one, (1, 3, 4, 1)), (2, STEPS, 6, 8, 2))


def targets(steps, **options):
  steps = jnp.asarray(steps)
  tracks = Tracks(steps, jnp.zeros((2, STEPS + 1, 6, 8, 2)), jnp.ones((2, STEPS, 6, 8), bool))
  frames = jnp.zeros((1, 2, 1, 3, 4, 3))
  function = jax.jit(functools.partial(trajectory, patch=(1, 1, 1), **options))
  return np.array(function(frames[:, :, 0], Followed(frames, tracks)).values[0])


def plain(steps, **options):
  """Steps as pictures take them: 'n 2 L q'."""
  length = 1 if options.get('total') else STEPS
  return targets(steps, normalise='none', **options).reshape(24, 2, length, -1)


def pixels(picture, colour):
  return np.argwhere((picture == colour).all(-1))


OPTIONS = [
  dict(normalise='none'),
  dict(normalise='total_length'),
  dict(normalise='patch_std'),
  dict(normalise='patch_std', mean=True),
  dict(normalise='patch_std', mean=True, scale=2.0, eps=0.1),
  dict(normalise='none', average=True),
  dict(normalise='total_length', total=True),
]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_normalisation_is_undone(options):
  raw = {key: options[key] for key in ('scale', 'average', 'total') if key in options}
  true, predicted = plain(steps_of(), **raw), targets(steps_of(), **options)[HIDDEN]
  # Hidden tokens' own values make no difference.
  true[HIDDEN], expected = 1e3, true[HIDDEN]
  found = predicted_steps(predicted, true, HIDDEN, grid=GRID, options=options)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_predicted_mean_moves_the_paths():
  options = dict(normalise='patch_std', mean=True)
  true, predicted = plain(steps_of()), targets(steps_of(), **options)[HIDDEN]
  before = predicted_steps(predicted, true, HIDDEN, grid=GRID, options=options)
  predicted[:, -2 * STEPS : -STEPS] += 0.5
  moved = predicted_steps(predicted, true, HIDDEN, grid=GRID, options=options) - before
  np.testing.assert_allclose(moved[:, 0], 0.5, atol=1e-5)
  np.testing.assert_allclose(moved[:, 1], 0, atol=1e-5)


def test_a_path_is_drawn_from_its_start_over_all_steps():
  frame = np.zeros((64, 160, 3), np.uint8)
  steps = np.array([[[20.0, 0.0], [0.0, 30.0]], [[np.nan, 0], [0, 0]]])
  picture = draw_paths(frame, [(np.array([[10.0, 8.0], [80, 40]]), steps, TRUE)])
  assert picture.shape == (5 * 64, 5 * 160, 3)
  y, x = pixels(picture, TRUE).T
  assert abs(x.min() - 50) <= 1 and abs(x.max() - 150) <= 3
  assert abs(y.min() - 40) <= 2 and abs(y.max() - 190) <= 3
  along, down = y < 45, x > 145
  assert (along | down).all() and along.sum() > 90 and down.sum() > 140
  later = draw_paths(frame, [(np.array([[10.0, 8.0]]), steps[:1], c) for c in (TRUE, PREDICTED)])
  assert len(pixels(later, PREDICTED)) == len(y) and not len(pixels(later, TRUE))


def grid_of(hidden, *, valid=None, offset=0.0, **options):
  video = np.full((4, 96, 128, 3), 0.5, np.float32)
  true, predicted = plain(steps_of()), targets(steps_of(), **options)[hidden]
  weights = np.ones((24, 1)) if valid is None else valid[:, None] * 1.0
  shown = Shown(video, hidden, (true, weights, predicted + offset), PATCH, options, most=1)
  return trajectory_grid(shown)[:WITHOUT_LEGEND]


def test_the_grid_shows_true_paths_of_all_and_predicted_ones_of_hidden_tokens():
  picture = grid_of(HIDDEN, normalise='none')
  true, predicted = (pixels(picture, colour) for colour in (TRUE, PREDICTED))
  # Predictions that are right: in the row of both they lie over the true ones.
  share = HIDDEN[:12].mean()
  assert abs(len(predicted) / len(true) - 2 * share) < 0.15
  assert len(pixels(grid_of(HIDDEN, normalise='none', offset=0.1), TRUE)) > 1.2 * len(true)
  # The row of true paths, moved down by one row, covers that of predicted ones.
  side = 4 * 96 + 4
  moved = {(y + side, x) for y, x in true}
  first = [tuple(p) for p in predicted if p[0] < predicted[:, 0].min() + 4 * 96 - 20]
  assert len(first) > 100 and np.mean([p in moved for p in first]) > 0.99


def test_tokens_that_are_not_valid_are_left_out():
  assert not len(pixels(grid_of(HIDDEN, valid=np.zeros(24, bool)), TRUE))
  some = len(pixels(grid_of(HIDDEN, valid=np.arange(24) % 12 < 6), TRUE))
  assert 0.3 < some / len(pixels(grid_of(HIDDEN), TRUE)) < 0.7


def test_each_point_of_a_token_is_drawn_where_it_starts():
  steps = np.zeros((2, STEPS, 6, 8, 2), np.float32)
  steps[0, :, 0, 1, 0] = 5.0  # The upper right point of the first token; others are dots.
  values = plain(steps)
  shown = Shown(
    np.full((4, 96, 128, 3), 0.5, np.float32),
    HIDDEN,
    (values, np.ones((24, 1)), values[HIDDEN].reshape(-1, 2 * STEPS * 4)),
    PATCH,
    {'normalise': 'none'},
    most=1,
  )
  picture = trajectory_grid(shown)[:WITHOUT_LEGEND]
  y, x = pixels(picture, TRUE).T
  first = y < y.min() + 8  # The first row of points of the row of true paths.
  at = x[first] - x.min()  # From the first point on; points are 16 pixels apart, four times.
  assert np.isin(np.arange(66, 122), at).all()
  assert not ((at > 8) & (at < 56)).any()
