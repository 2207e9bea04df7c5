"""A tokenizer's codes as a target: one for each token, in the order of tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.targets.codes import codes

PATCH = (2, 8, 8)


def clip():
  """Each patch of each frame has another brightness."""
  place = np.arange(2 * 4 * 3 * 4).reshape(2, 4, 3, 4) / 96
  return jnp.asarray(place.repeat(8, 2).repeat(8, 3)[..., None].repeat(3, -1).astype(np.float32))


def encode_by(factor):
  def encode(images):
    """The brightness of each cell, as a number."""
    b, H, W, C = images.shape
    cells = images.reshape(b, H // factor, factor, W // factor, factor, C).mean((2, 4, 5))
    return jnp.round(cells * 96).astype(jnp.int32)

  return encode


def expected(frame):
  return np.arange(96).reshape(2, 4, 12)[:, frame::2].reshape(2, 24)


@pytest.mark.parametrize('frames, frame', [('first', 0), ('last', 1)])
def test_one_code_for_each_token_in_token_order(frames, frame):
  found = codes(clip(), None, patch=PATCH, encode=encode_by(8), factor=8, frames=frames)
  np.testing.assert_array_equal(found[..., 0], expected(frame))


def test_both_frames():
  found = codes(clip(), None, patch=PATCH, encode=encode_by(8), factor=8, frames='both')
  np.testing.assert_array_equal(found, np.stack([expected(0), expected(1)], -1))


@pytest.mark.parametrize('factor', [4, 16])
def test_frames_are_resized_to_one_code_a_patch(factor):
  found = codes(clip(), None, patch=PATCH, encode=encode_by(factor), factor=factor)
  assert found.shape == (2, 24, 1)
  # Resizing blurs over the edges of these hard patches: near, and in order.
  assert np.abs(np.asarray(found)[..., 0] - expected(0)).max() <= 2


def test_a_wrong_choice_of_frames_is_named():
  with pytest.raises(UserError, match="'middle'.*both, first, last"):
    codes(clip(), None, patch=PATCH, encode=encode_by(8), factor=8, frames='middle')
