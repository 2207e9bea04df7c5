"""Pictures of decoded codes."""

import numpy as np

from vmae_jax.visualize import codes


def test_hidden_places_are_grey_and_the_caption_tells_tokenizer_and_accuracy():
  caught = {}
  frames = np.random.default_rng(0).random((2, 8, 16, 3), np.float32)
  hidden = np.zeros((2, 2, 4), bool)
  hidden[1, 0, 3] = True
  codes.codes_grid(
    frames,
    hidden,
    frames,
    1 - frames,
    accuracy=0.25,
    columns=['frame 1', 'frame 3'],
    tokenizer='own.safetensors',
    layout=lambda rows, **texts: _catch(caught, rows, texts),
  )
  masked = np.asarray(caught['masked\n6% hidden'][1])
  assert (masked[:4, 12:] == 128).all()
  untouched = np.asarray(caught['input'][1])
  untouched[:4, 12:] = 128
  np.testing.assert_array_equal(masked, untouched)
  assert '25% are right' in caught['caption'] and 'own.safetensors' in caught['caption']


def _catch(caught, rows, texts):
  caught.update(rows)
  caught.update(texts)
  return np.zeros((4, 4, 3), np.uint8)
