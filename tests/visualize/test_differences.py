"""Pictures of frame differences: what a perfect model would draw."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.targets.frame_difference import frame_difference
from vmae_jax.visualize import differences

PATCH = (2, 8, 8)
HIDDEN = np.arange(8) % 2 == 0


def draw(options):
  """The rows of frames as they are handed to be drawn, and the texts."""
  caught = {}

  def catch(rows, **texts):
    caught.update(rows, **texts)
    return np.zeros((4, 4, 3), np.uint8)

  video = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
  target = frame_difference(jnp.asarray(video)[None], None, patch=PATCH, **options)[0]
  predicted = np.asarray(target)[HIDDEN]
  differences.difference_grid(video, HIDDEN, predicted, patch=PATCH, options=options, layout=catch)
  return caught


OPTIONS = [
  dict(normalise='none'),
  dict(normalise='global', scale=0.2),
  dict(normalise='global', scope='slot', grey=True),
]


@pytest.mark.parametrize('options', OPTIONS)
def test_a_perfect_model_draws_the_truth(options):
  rows = draw(options)
  both = rows['predicted\n+ visible']
  assert len(both) == (2 if 'scope' in options else 4) == len(rows['columns'])
  np.testing.assert_allclose(np.float32(both), rows['true\ndifference'], atol=1)
  assert 'Nothing is borrowed' in rows['caption']


def test_visible_patches_alone_are_shown_as_visible():
  rows = draw(dict(normalise='none'))
  first = np.asarray(rows['visible\n50% hidden'][0])
  assert (first[:, :8] == 128).all() and (first[:, 8:] != 128).any()


def test_normalised_patches_borrow_from_visible_ones_and_say_so():
  rows = draw(dict(normalise='patch', eps=0.03))
  assert 'interpolated from the visible patches' in rows['caption']
  error = np.abs(np.float32(rows['predicted\n+ visible']) - rows['true\ndifference'])
  assert 0 < error.mean() < 40
