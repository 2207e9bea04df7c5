"""Pictures of frame differences: what a perfect model would draw."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.targets.frame_difference import frame_difference
from vmae_jax.visualize import differences
from vmae_jax.visualize.images import HIDDEN as GREY
from vmae_jax.visualize.images import Shown

PATCH = (2, 8, 8)
HIDDEN = np.arange(8) % 2 == 0


def draw(options, change=lambda x: x, **how):
  """The rows of frames as they are handed to be drawn, and the texts."""
  caught = {}

  def catch(rows, **texts):
    caught.update(rows, **texts)
    return np.zeros((4, 4, 3), np.uint8)

  video = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
  target = frame_difference(jnp.asarray(video)[None], None, patch=PATCH, **options)[0]
  predicted = change(np.asarray(target)[HIDDEN])
  shown = Shown(video, HIDDEN, predicted, PATCH, options, layout=catch, **how)
  differences.difference_grid(shown)
  return caught


OPTIONS = [
  dict(normalise='none'),
  dict(normalise='global', scale=0.2),
  dict(normalise='global', scope='slot', grey=True),
]


@pytest.mark.parametrize('options', OPTIONS)
def test_a_perfect_model_draws_the_truth(options):
  rows = draw(options, most=None)
  both = rows['predicted\n+ visible']
  assert len(both) == (2 if 'scope' in options else 4) == len(rows['columns'])
  np.testing.assert_allclose(np.float32(both), rows['true\ndifference'], atol=1)
  assert 'Nothing is borrowed' in rows['caption'] and ': 1.00 (0: none)' in rows['caption']
  assert draw(options)['columns'] == ['frame 2', 'frame 4']  # One of each slot.


def test_faint_predictions_are_drawn_with_a_gain_that_is_told():
  plain, faint = (draw(dict(normalise='none'), change=lambda x, f=f: f * x) for f in (1, -0.25))
  assert 'predicted' in plain and 'predicted\n× 4.0' in faint
  assert 'patches: -1.00' in faint['caption'] and '4.0 times as strong' in faint['caption']
  opposite = np.float32(faint['predicted\n× 4.0'])[:, :8, :8]  # Of hidden patches.
  assert np.abs(opposite - np.float32(plain['predicted'])[:, :8, :8]).mean() > 20


def test_visible_patches_alone_are_shown_as_visible():
  rows = draw(dict(normalise='none'))
  first = np.asarray(rows['visible\n50% hidden'][0])
  grey = round(255 * GREY)
  assert (first[:, :8] == grey).all() and (first[:, 8:] != grey).any()


def test_normalised_patches_borrow_from_visible_ones_and_say_so():
  rows = draw(dict(normalise='patch', eps=0.03), most=None)
  assert 'interpolated from the visible patches' in rows['caption']
  error = np.abs(np.float32(rows['predicted\n+ visible']) - rows['true\ndifference'])
  assert 0 < error.mean() < 40
