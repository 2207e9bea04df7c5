"""J and F, against values of DAVIS's own code."""

import pathlib

import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.evaluation.segmentation_scores import (
  boundary,
  boundary_accuracy,
  dilate,
  evaluate,
  region_similarity,
  statistics,
)

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'davis_jf.npz'


def test_equal_to_the_official_code():
  known = np.load(FIXTURE)
  truth, found = known['ground_truth'], known['prediction']
  np.testing.assert_allclose(region_similarity(truth, found), known['J'], atol=1e-6)
  np.testing.assert_allclose(boundary_accuracy(truth, found), known['F'], atol=1e-6)


def disc(*, x=400, radius=100):
  rows, columns = np.mgrid[:480, :854]
  return ((rows - 240) ** 2 + (columns - x) ** 2 <= radius**2)[None]


@pytest.mark.parametrize(
  'found, j, f',
  [
    (disc(x=410), 0.880751, 0.649254),
    (disc(x=404), 0.950458, 1.0),
    (disc(radius=112), 0.797770, 0.0),
  ],
)
def test_discs(found, j, f):
  np.testing.assert_allclose(region_similarity(disc(), found), j, atol=1e-6)
  np.testing.assert_allclose(boundary_accuracy(disc(), found), f, atol=1e-6)


def test_empty():
  none, some = np.zeros((1, 30, 40), bool), np.zeros((1, 30, 40), bool)
  some[0, 5:9, 5:9] = True
  for measure in (region_similarity, boundary_accuracy):
    assert measure(none, none) == 1 and measure(none, some) == 0 and measure(some, none) == 0
  # A mask that fills the frame has no boundary.
  assert boundary_accuracy(~none, ~none) == 1 and boundary_accuracy(~none, some) == 0


def test_boundary():
  mask = np.zeros((5, 6), bool)
  mask[2, 3] = True
  expected = np.zeros((5, 6), bool)
  expected[1:3, 2:4] = True
  np.testing.assert_array_equal(boundary(mask), expected)
  mask = np.zeros((3, 3), bool)
  mask[2, 2] = True  # The corner looks nowhere, its neighbours to it.
  np.testing.assert_array_equal(boundary(mask), [[0, 0, 0], [0, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize('radius', [0, 1, 2, 3, 5, 8, 40])
def test_dilate(radius):
  mask = np.random.default_rng(radius).random((17, 23)) < 0.02
  mask[0, 0] = True
  rows, columns = np.nonzero(mask)
  y, x = np.mgrid[:17, :23]
  far = (y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2
  before = mask.copy()
  np.testing.assert_array_equal(dilate(mask, radius), (far <= radius**2).any(-1))
  np.testing.assert_array_equal(mask, before)


def test_statistics():
  np.testing.assert_allclose(
    statistics(np.linspace(1, 0, 67)), (0.5, 0.492537, 0.75), rtol=0, atol=1e-6
  )
  assert statistics(np.array([0.5])) == (0.5, 0, 0)


def test_evaluate():
  truth = np.zeros((5, 20, 20), np.uint8)
  truth[:, 2:8, 2:8], truth[:, 12:18, 12:18] = 1, 2
  truth[2, 2:8, 5:8] = 255  # Nobody knows: background.
  found = truth.copy()
  found[2, 2:8, 2:8] = 1
  found[[0, -1]] = 0  # The first and the last frame do not count.
  found[3, 12:18, 12:18] = 0
  (one, two) = evaluate(truth, found, name='clip')
  np.testing.assert_allclose(one[0].mean, (1 + 0.5 + 1) / 3)
  np.testing.assert_allclose(two[0].mean, (1 + 1 + 0) / 3)
  np.testing.assert_allclose(two[1][:2], (2 / 3, 2 / 3))
  np.testing.assert_allclose(two[0].decay, 1)


def test_an_object_that_was_not_found_counts():
  truth = np.zeros((3, 9, 9), np.uint8)
  truth[:, 1:4, 1:4], truth[:, 5:8, 5:8] = 1, 2
  found = np.where(truth == 1, truth, 0)
  scores = evaluate(truth, found, name='clip')
  assert [j.mean for j, _ in scores] == [1, 0]


def test_what_cannot_be_scored():
  truth = np.ones((3, 4, 4), np.uint8)
  with pytest.raises(UserError, match='clip: the masks have an object 2, .* has 1'):
    evaluate(truth, truth + 1, name='clip')
  with pytest.raises(UserError, match='clip has 2 frames'):
    evaluate(truth[:2], truth[:2], name='clip')
  with pytest.raises(UserError, match='clip: masks are'):
    evaluate(truth, truth[:, :3], name='clip')
  with pytest.raises(UserError, match='no object'):
    evaluate(truth * 255, truth, name='clip')
