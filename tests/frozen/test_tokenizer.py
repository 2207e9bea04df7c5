"""Files of tokenizers, and sizes of frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.frozen.files import save_params
from vmae_jax.frozen.tokenizer import load_tokenizer, param_shapes, save_tokenizer
from vmae_jax.frozen.vqgan import VQGAN, nearest_code

TINY = VQGAN(channels=4, multipliers=(1, 2), res_blocks=1, latent=4, embed=4, codes=6, groups=2)


def params_of(model):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: (0.3 * rng.standard_normal(s.shape)).astype(np.float32), param_shapes(model)
  )


@pytest.fixture(scope='module')
def params():
  return params_of(TINY)


def test_what_is_saved_is_loaded(tmp_path, params):
  path = tmp_path / 't.safetensors'
  save_tokenizer(path, TINY, params)
  tokenizer = load_tokenizer(path)
  assert tokenizer.model == TINY and tokenizer.path == str(path)
  jax.tree.map(np.testing.assert_array_equal, tokenizer.params, params)


def test_codes_and_pictures(params):
  """Frames need not be square; bfloat16 changes few codes; each code is its own nearest code."""
  images = jnp.asarray(np.random.default_rng(1).random((2, 8, 12, 3), np.float32))

  def both(model, params, images):
    codes = model.apply({'params': params}, images, method='encode')
    return codes, model.apply({'params': params}, codes, method='decode')

  codes, pictures = jax.jit(both, static_argnums=0)(TINY, params, images)
  assert codes.shape == (2, 4, 6) and codes.dtype == jnp.int32
  assert pictures.shape == images.shape and pictures.dtype == jnp.float32
  assert 0 <= pictures.min() and pictures.max() <= 1
  half, drawn = jax.jit(both, static_argnums=0)(TINY.clone(dtype=jnp.bfloat16), params, images)
  assert (half == codes).mean() > 0.9
  assert drawn.dtype == jnp.float32
  codebook = jnp.asarray(params['codebook'])
  np.testing.assert_array_equal(nearest_code(1.01 * codebook[None], codebook)[0], np.arange(6))


def test_mistakes(tmp_path, params):
  for path in ('', tmp_path / 'nothing'):
    with pytest.raises(UserError, match='train_tokenizer --videos.*vmae_jax.convert'):
      load_tokenizer(path)
  path = tmp_path / 't.safetensors'
  save_params(path, params, kind='vqgan', config=TINY.config() | {'codes': 7})
  with pytest.raises(UserError, match=r'1 tensors are wrong \(codebook is \(6, 4\), not \(7, 4\)'):
    load_tokenizer(path)
  less = {name: value for name, value in params.items() if name != 'codebook'}
  save_params(path, less, kind='vqgan', config=TINY.config())
  with pytest.raises(UserError, match='codebook is missing'):
    load_tokenizer(path)
  save_params(path, params | {'more': np.zeros(1)}, kind='vqgan', config=TINY.config())
  with pytest.raises(UserError, match='more is unknown'):
    load_tokenizer(path)
  save_params(path, params, kind='vqgan', config=TINY.config() | {'colour': 7})
  with pytest.raises(UserError, match='makes no tokenizer'):
    load_tokenizer(path)
  with pytest.raises(UserError, match='frames of 7 x 8: choose multiples of 2'):
    TINY.apply({'params': params}, jnp.zeros((1, 7, 8, 3)), method='encode')
