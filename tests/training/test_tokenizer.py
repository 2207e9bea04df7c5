"""Training of codes, compared with its definition in NumPy, and the resulting tokenizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.frozen.patch_vq import PatchVQ
from vmae_jax.frozen.tokenizer import untrained_tokenizer
from vmae_jax.training import tokenizer as learn

MODEL = PatchVQ(factor=4, codes=5)


def frames(seed=0, b=3):
  return np.random.default_rng(seed).integers(0, 256, (b, 8, 12, 3), np.uint8)


def patches(video):
  cut = video.reshape(-1, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5)
  return cut.reshape(-1, 48) / np.float32(255)


@functools.cache
def learned():
  """State before and after a step, and scalars."""
  state = jax.jit(functools.partial(learn.init_state, MODEL))(jax.random.key(0), frames())
  # One code is far from all patches, and has been so for long.
  state = state._replace(
    hits=state.hits.at[0].set(1e-3), sums=state.sums.at[0].set(50.0 * state.hits[0])
  )
  step = jax.jit(functools.partial(learn.learn_step, MODEL, decay=0.9))
  return jax.device_get((state, *step(state, jax.random.key(1), frames())))


def test_codes_start_as_patches():
  state = jax.jit(functools.partial(learn.init_state, MODEL))(jax.random.key(0), frames())
  distances = np.abs(np.asarray(state.codebook)[:, None] - patches(frames())).max(-1)
  assert (distances.min(1) < 1e-6).all()


def test_codes_are_moving_averages_of_their_patches():
  state, after, scalars = learned()
  x, codebook = patches(frames()), state.sums / state.hits[:, None]
  codes = np.square(x[:, None] - codebook).sum(-1).argmin(1)
  chosen = np.eye(5)[codes]
  hits = 0.9 * state.hits + 0.1 * chosen.sum(0)
  sums = 0.9 * state.sums + 0.1 * chosen.T @ x
  np.testing.assert_allclose(after.hits[1:], hits[1:], rtol=1e-5)
  expected, found = sums / hits[:, None], after.sums / after.hits[:, None]
  np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-4)
  assert scalars['error'] == pytest.approx(np.abs(x - codebook[codes]).mean(), rel=1e-4)
  shares = chosen.mean(0)[chosen.any(0)]
  assert scalars['perplexity'] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_a_dead_code_starts_again_from_a_patch():
  _, after, scalars = learned()
  assert scalars['restarted'] == 1
  assert after.hits[0] == pytest.approx(18 / 5)
  assert np.abs(patches(frames()) - after.sums[0] / after.hits[0]).max(1).min() < 1e-5


@pytest.mark.parametrize(('counts', 'expected'), [((4, 4, 4, 4), 4), ((9, 0, 0), 1)])
def test_perplexity(counts, expected):
  assert learn.perplexity(jnp.array(counts)) == pytest.approx(expected, rel=1e-5)


def test_a_frame_of_typical_patches_comes_back():
  codebook = np.random.default_rng(1).random((5, 48), np.float32)
  codes = jnp.asarray([[[0, 3, 2], [4, 4, 1]]])
  params = {'params': {'codebook': jnp.asarray(codebook)}}
  image = MODEL.apply(params, codes, method='decode')
  assert image.shape == (1, 8, 12, 3)
  np.testing.assert_array_equal(image[0, 4:, 8:].reshape(-1), codebook[1])
  np.testing.assert_array_equal(MODEL.apply(params, image, method='encode'), codes)


def test_frames_that_do_not_divide_are_named():
  with pytest.raises(UserError, match='4 x 4 pixels, which do not fill frames of 6 x 8'):
    MODEL.apply({'params': {'codebook': jnp.zeros((5, 48))}}, jnp.zeros((1, 6, 8, 3)),
                method='encode')  # fmt: skip


def test_untrained_codes_tell_colours():
  model, params, _ = untrained_tokenizer()
  images = jnp.asarray(np.random.default_rng(0).random((6, 1, 1, 3), np.float32))
  images = jnp.tile(images, (1, 8, 8, 1))
  codes = model.apply({'params': params}, images, method='encode')
  decoded = model.apply({'params': params}, codes, method='decode')
  assert len(set(np.asarray(codes).ravel())) > 3 and np.abs(decoded - images).mean() < 0.15
