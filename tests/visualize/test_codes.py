"""Pictures of decoded codes."""

import types

import numpy as np

from vmae_jax.visualize import codes
from vmae_jax.visualize.images import HIDDEN, Shown


def test_hidden_places_are_grey_and_the_caption_tells_tokenizer_and_accuracy():
  caught = {}
  frames = np.random.default_rng(0).random((2, 8, 16, 3), np.float32)
  hidden = np.zeros((2, 2, 4), bool)
  hidden[1, 0, 3] = True
  clip = frames.repeat(2, 0)
  config = types.SimpleNamespace(tokenizer=types.SimpleNamespace(path='a/own.safetensors'))
  values = clip.reshape(2, 2, 8, 16, 3), frames, 1 - frames, 0.25
  layout = lambda rows, **texts: _catch(caught, rows, texts)  # noqa: E731
  codes.codes_grid(Shown(clip, hidden.ravel(), values, (2, 4, 4), layout=layout, config=config))
  grey = round(255 * HIDDEN)
  masked = np.asarray(caught['masked\n6% hidden'][1])
  assert (masked[:4, 12:] == grey).all()
  untouched = np.asarray(caught['input'][1])
  untouched[:4, 12:] = grey
  np.testing.assert_array_equal(masked, untouched)
  assert caught['columns'] == ['frame 1', 'frame 3']
  assert '25% are right' in caught['caption'] and 'tokenizer own.safetensors' in caught['caption']


def _catch(caught, rows, texts):
  caught.update(rows)
  caught.update(texts)
  return np.zeros((4, 4, 3), np.uint8)
