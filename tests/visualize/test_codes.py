"""Pictures of decoded codes."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.masking import split
from vmae_jax.visualize import codes
from vmae_jax.visualize.images import HIDDEN, Shown, to_uint8
from vmae_jax.visualize.predictions import nearest_visible


def test_hidden_places_are_grey_and_the_caption_tells_tokenizer_and_accuracy():
  caught = {}
  frames = np.random.default_rng(0).random((2, 8, 16, 3), np.float32)
  hidden = np.zeros((2, 2, 4), bool)
  hidden[1, 0, 3] = True
  clip = frames.repeat(2, 0)
  config = types.SimpleNamespace(tokenizer=types.SimpleNamespace(path='a/own.safetensors'))
  decoded = 1 - frames, frames / 2  # Predicted and copied.
  values = clip.reshape(2, 2, 8, 16, 3), frames, decoded, (0.25, 0.125)
  layout = lambda rows, **texts: _catch(caught, rows, texts)  # noqa: E731
  codes.codes_grid(Shown(clip, hidden.ravel(), values, (2, 4, 4), layout=layout, config=config))
  grey = round(255 * HIDDEN)
  masked = np.asarray(caught['masked\n6% hidden'][1])
  assert (masked[:4, 12:] == grey).all()
  untouched = np.asarray(caught['input'][1])
  untouched[:4, 12:] = grey
  np.testing.assert_array_equal(masked, untouched)
  assert caught['columns'] == ['frame 1', 'frame 3']
  for row, images in zip(
    ('predicted\n+ visible', 'nearest visible\ncodes alone'), decoded, strict=True
  ):
    np.testing.assert_array_equal(caught[row], to_uint8(images))
  caption = caught['caption']
  assert 'own.safetensors' in caption and '25% are right.' in caption
  assert 'copied from the nearest visible patch, 12% are.' in caption


def test_the_nearest_visible_token_by_hand():
  """Two slots of three places, 0 and 5 visible: a slot later counts as half a place away."""
  mask = split(jnp.array([False, True, True, True, True, False]), visible=2)
  found = nearest_visible(jax.tree.map(lambda x: x[None], mask), (2, 1, 3))
  assert dict(zip(mask.masked.tolist(), found[0].tolist(), strict=True)) == {1: 0, 2: 5, 3: 0, 4: 5}


def _catch(caught, rows, texts):
  caught.update(rows)
  caught.update(texts)
  return np.zeros((4, 4, 3), np.uint8)
