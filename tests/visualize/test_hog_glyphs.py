"""Glyphs run along edges, and the grid shows which tokens are whose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.targets.hog import hog, hog_target
from vmae_jax.visualize.hog import glyphs, hog_grid
from vmae_jax.visualize.images import HIDDEN as GREY
from vmae_jax.visualize.images import Shown, to_uint8

PATCH = (2, 32, 32)
HIDDEN = np.random.default_rng(1).random(24) < 0.6


@pytest.mark.parametrize('variant', ['mme', 'maskfeat'])
def test_strokes_run_along_the_edge(variant):
  x, y = np.meshgrid(np.arange(24), np.arange(24))
  angles = np.deg2rad([0, 30, 65, 100, 140])
  ramps = np.stack([np.cos(a) * x + np.sin(a) * y for a in angles])[..., None]
  run = jax.jit(functools.partial(hog, std=(1.0,), variant=variant))
  cells = np.asarray(run(jnp.asarray(ramps, jnp.float32)))[:, 1:2, 1:2, 0]
  for angle, picture in zip(angles, glyphs(cells, variant=variant, side=33), strict=True):
    at = np.argwhere(picture > 0.5 * picture.max())[:, ::-1] - 16
    across = at @ [np.cos(angle), np.sin(angle)]
    along = at @ [-np.sin(angle), np.cos(angle)]
    assert np.abs(along).max() > 13 and np.square(across).mean() < 0.1 * np.square(along).mean()


def test_brightness_is_the_bins_and_cells_lie_in_their_places():
  cells = np.zeros((2, 3, 9))
  cells[0, 2, 4], cells[1, 0, 4] = 0.5, 2.0
  picture = glyphs(cells, side=16)
  assert picture.shape == (32, 48)
  assert picture[:16, 32:].max() == 0.5 and picture[16:, :16].max() == 2
  assert picture[:16, :32].max() == 0 and picture[16:, 16:].max() == 0


def grid_of(target, predicted, options):
  video = np.random.default_rng(0).random((4, 96, 128, 3), np.float32)
  return video, hog_grid(Shown(video, HIDDEN, (target, predicted), PATCH, options))


def shows(picture, tile):
  tile = tile.repeat(2, 0).repeat(2, 1)  # To the least size of a frame.
  h, w = tile.shape[:2]
  rows = picture[..., 0] == tile[0, 0, 0]
  return [
    (y, x)
    for y, x in np.argwhere(rows[: len(picture) - h + 1, : picture.shape[1] - w + 1])
    if (picture[y : y + h, x : x + w] == tile).all()
  ]


@pytest.mark.parametrize('steps', [1, 3])
def test_the_grid(steps):
  rng = np.random.default_rng(2)
  target = rng.random((24, 27, steps, 4)).astype(np.float32)
  flat = target.reshape(24, -1)
  video, picture = grid_of(flat, flat[HIDDEN], {})
  # Of one slot: the mean over colours of the first step, cells in rows and columns.
  place = 1 if steps == 1 else 0  # The middle frame; along trajectories, the first.
  assert len(shows(picture, to_uint8(video[2 + place]))) == 1
  cells = target.reshape(2, 3, 4, 3, 9, steps, 2, 2)[:, :, :, :, :, 0].mean(3)
  cells = cells.transpose(0, 1, 4, 2, 5, 3).reshape(2, 6, 8, 9)
  peak = np.quantile(cells.max(-1), 0.99)
  true = to_uint8(glyphs(cells[1], side=16) / peak)[..., None].repeat(3, -1)
  found = shows(picture, true)
  # The truth, and right predictions beside what is visible.
  assert len(found) == 2 and found[1][0] - found[0][0] == 3 * (192 + 4)
  _, wrong = grid_of(flat, 0 * flat[HIDDEN], {})
  assert len(shows(wrong, true)) == 1
  hidden = HIDDEN[12:].reshape(3, 4).repeat(32, 0).repeat(32, 1)[..., None]
  grey = np.uint8(round(255 * GREY))
  assert len(shows(wrong, np.where(hidden, grey, true))) == 1
  assert len(shows(wrong, np.where(hidden, 0, true))) == 1  # With nothing added.
  assert len(shows(picture, np.where(hidden, true, grey))) == 1


def test_a_real_target_fits():
  video = np.random.default_rng(3).random((1, 4, 96, 128, 3), np.float32)
  target = np.asarray(hog_target(jnp.asarray(video), None, patch=PATCH, frame='first'))[0]
  shown = Shown(video[0], HIDDEN, (target, target[HIDDEN]), PATCH, {'frame': 'first'})
  picture = hog_grid(shown)
  assert len(shows(picture, to_uint8(video[0, 2]))) == 1
