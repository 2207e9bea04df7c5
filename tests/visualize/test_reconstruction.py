"""Pictures of predictions are right where they can be, and never borrow what they deny."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.models.patches import patchify
from vmae_jax.visualize import reconstruction
from vmae_jax.visualize.images import HIDDEN, Shown

PATCH, GRID = (2, 4, 4), (3, 4, 5)
EPS = 0.01


@pytest.fixture
def clip():
  """A clip (6, 16, 20, 3), its mask and its true normalised hidden patches."""
  rng = np.random.default_rng(0)
  video = rng.uniform(size=(6, 16, 20, 3)).astype(np.float32)
  masked = rng.permutation(60) < 40
  patches = np.asarray(patchify(jnp.asarray(video)[None], patch=PATCH)[0])[masked]
  colours = patches.reshape(40, -1, 3)
  std = colours.std(axis=1, ddof=1, keepdims=True)
  target = (colours - colours.mean(axis=1, keepdims=True)) / (std + EPS)
  return video, masked, target.reshape(40, -1)


def predict(clip, statistics, predicted=None):
  video, masked, target = clip
  predicted = target if predicted is None else predicted
  return reconstruction.predicted_video(
    predicted, video, masked, patch=PATCH, statistics=statistics, eps=EPS
  )


def test_ground_truth_statistics_give_the_clip_back(clip):
  np.testing.assert_allclose(predict(clip, 'ground truth'), clip[0], atol=1e-5)


def test_pixel_predictions_are_placed_as_they_are(clip):
  video, masked, target = clip
  patches = np.asarray(patchify(jnp.asarray(video)[None], patch=PATCH)[0])
  np.testing.assert_array_equal(predict(clip, 'none', patches[masked]), video)
  assert np.abs(predict(clip, 'none') - video).max() > 0.5


def test_visible_statistics_do_not_look_at_hidden_patches(clip):
  video, masked, target = clip
  hidden = masked.reshape(GRID).repeat(2, 0).repeat(4, 1).repeat(4, 2)[..., None]
  changed = np.where(hidden, np.float32(0.9), video)
  first, second = predict(clip, 'visible'), predict((changed, masked, target), 'visible')
  np.testing.assert_array_equal(first, second)
  np.testing.assert_array_equal(np.where(hidden, 0, first), np.where(hidden, 0, video))
  # ... while those of the ground truth do.
  cheat = predict((changed, masked, target), 'ground truth')
  assert np.abs(cheat - predict(clip, 'ground truth')).max() > 0.1


def test_visible_statistics_of_a_uniform_scene_are_right(clip):
  _, masked, target = clip
  video = np.broadcast_to(np.float32([0.2, 0.5, 0.7]), (6, 16, 20, 3))
  flat = predict((video, masked, target), 'visible', np.zeros_like(target))
  np.testing.assert_allclose(flat, video, atol=1e-6)


def test_nearer_patches_count_more():
  values = np.zeros((5, 1), np.float32)
  values[4] = 1.0
  masked = np.array([False, True, True, True, False])
  out = reconstruction.interpolate_visible(values, masked, grid=(1, 1, 5))[:, 0]
  np.testing.assert_allclose(out, [0.1, 0.5, 0.9], atol=1e-6)


def test_nearest_in_time_counts_more_than_in_space():
  values = np.arange(4, dtype=np.float32)[:, None]  # Two slots of two patches.
  masked = np.array([True, False, False, True])
  out = reconstruction.interpolate_visible(values, masked, grid=(2, 1, 2))[:, 0]
  assert out[0] > 1.5 and out[1] < 1.5  # Above 0 lies 2, beside it 1; above 3 lies 1.


def test_unknown_statistics_are_an_error(clip):
  with pytest.raises(UserError, match='ground truth'):
    predict(clip, 'imagenet')


def grid_of(clip, **options):
  video, masked, _ = clip
  statistics = options.pop('statistics', 'visible')
  shown = Shown(video, masked, np.ones_like(video), PATCH, **options)
  return reconstruction.reconstruction_grid(shown, statistics=statistics)


def test_grid_shows_what_it_says(clip):
  seen = {}

  def spy(rows, **options):
    seen.update(rows=list(rows.values()), **options)
    return np.zeros((1, 1, 3), np.uint8)

  grid_of(clip, statistics='ground truth', title='A title', layout=spy)
  video, masked, _ = clip
  hidden = masked.reshape(GRID).repeat(4, 1).repeat(4, 2)  # One frame of each slot.
  frames = np.round(video[::2] * 255).astype(np.uint8)
  shown, masked_input, flat, both = (np.stack(row) for row in seen['rows'])
  np.testing.assert_array_equal(shown, frames)
  np.testing.assert_array_equal(masked_input[~hidden], frames[~hidden])
  assert (masked_input[hidden] == round(255 * HIDDEN)).all()
  expected = reconstruction.interpolated_video(video, masked, patch=PATCH)[::2]
  np.testing.assert_array_equal(flat, np.round(255 * expected))
  assert (both[hidden] == 255).all()
  np.testing.assert_array_equal(both[~hidden], frames[~hidden])
  assert seen['columns'] == ['frame 1', 'frame 3', 'frame 5']
  everywhere = np.broadcast_to(masked.reshape(GRID)[:, None], (3, 2, 4, 5)).reshape(6, 4, 5)
  everywhere = everywhere.repeat(4, 1).repeat(4, 2)  # All hidden pixels of the clip.
  assert f'Off by {255 * (1 - video)[everywhere].mean():.1f} of 255' in seen['caption']
  assert seen['caption'].startswith('CHEATS') and seen['title'] == 'A title'


def test_grid_has_at_most_so_many_columns(clip):
  wide, narrow = grid_of(clip), grid_of(clip, most=1)
  assert wide.dtype == np.uint8 and narrow.shape[1] < wide.shape[1]


def test_caption_differs_between_statistics(clip):
  pictures = [grid_of(clip, statistics=name, title='x' * 60) for name in reconstruction.CAPTIONS]
  assert len({picture.tobytes() for picture in pictures}) == len(pictures) == 3


def test_matplotlib_is_not_loaded():
  code = (
    'import sys, vmae_jax.visualize.reconstruction, vmae_jax.visualize.curves; '
    'assert "matplotlib" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
