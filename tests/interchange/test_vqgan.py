"""Equal to taming-transformers' VQGAN: all indices, latents and pictures to 1e-4 in float32.

The short tests compare with stored values of the peer in PyTorch, the full ones with itself.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.interchange import peer_vqgan
from tests.stored import assert_close
from vmae_jax.errors import UserError
from vmae_jax.frozen.vqgan import VQGAN
from vmae_jax.interchange.vqgan import vqgan_from_taming

pytestmark = pytest.mark.optimised

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'vqgan_tiny.npz'
PUBLISHED = {  # Quantizer, codes, multipliers -> tensors, millions of parameters.
  'f16_1024': ('nearest', 1024, (1, 1, 2, 2, 4), 343, 72.14),
  'f16_16384': ('nearest', 16384, (1, 1, 2, 2, 4), 343, 76.07),
  'gumbel_f8': ('gumbel', 8192, (1, 1, 2, 4), 301, 69.00),
}


@functools.cache
def ours(quantizer):
  config, params = vqgan_from_taming(peer_vqgan.weights(quantizer))
  pixels = peer_vqgan.images(peer_vqgan.CONFIGS[quantizer]['side'])
  return jax.device_get(_apply(VQGAN(**config), params, jnp.asarray(pixels) / 255))


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, images):
  apply = functools.partial(model.apply, {'params': params})
  codes = apply(images, method='encode')
  drawn = apply(params['codebook'][codes], method='decode_vectors')
  return apply(images, method='pre_quant'), codes, drawn, apply(codes, method='decode')


def compare(ours, z, indices, picture):
  assert_close(ours[0], z, share=2e-5)
  np.testing.assert_array_equal(ours[1], indices)
  assert len(np.unique(indices)) > 4  # Else the line above would say little.
  assert_close(2 * ours[2] - 1, picture, share=2e-5)
  assert_close(ours[3], np.clip((picture + 1) / 2, 0, 1), share=2e-5)


@pytest.mark.stored
@pytest.mark.parametrize('quantizer', list(peer_vqgan.CONFIGS))
def test_stored_values(quantizer):
  with np.load(FIXTURE) as stored:
    names = ('pre_quant', 'indices', 'reconstruction')
    compare(ours(quantizer), *(stored[f'{quantizer}:{name}'] for name in names))


@pytest.mark.full
@pytest.mark.parametrize('quantizer', list(peer_vqgan.CONFIGS))
def test_live(quantizer):
  compare(ours(quantizer), *peer_vqgan.results(quantizer))


@pytest.mark.parametrize('name', list(PUBLISHED))
def test_published_models(name):
  """Hyper-parameters are found from names and shapes, and every tensor has its place."""
  quantizer, codes, multipliers, tensors, millions = PUBLISHED[name]
  sizes = dict(channels=128, multipliers=multipliers, latent=256, embed=256, codes=codes)
  state = {  # Zeros that take no memory.
    name: np.broadcast_to(np.float32(0), shape)
    for name, shape in peer_vqgan.shapes(quantizer, **sizes).items()
  }
  assert len(state) == tensors
  loss = {'loss.discriminator.main.0.weight': np.zeros((1, 1, 1, 1), np.float32)}
  config, params = vqgan_from_taming(state | loss)
  expected = sizes | dict(res_blocks=2, quantizer=quantizer, groups=32)
  assert config == expected
  leaves = jax.tree.leaves(params)
  assert len(leaves) == tensors
  assert round(sum(x.size for x in leaves) / 1e6, 2) == millions
  assert VQGAN(**config).factor == 2 ** (len(multipliers) - 1)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'encoder.mid.attn_1.q.bias': None}, r'1 tensors are missing: encoder.mid.attn_1.q.bias\.'),
    ({'encoder.down.0.attn.0.q.bias': np.zeros(32)}, r'no place.*: encoder.down.0.attn.0.q.bias\.'),
    ({'decoder.conv_in.bias': np.zeros(5)}, r'shapes that do not.*: decoder.conv_in.bias \(5,\)'),
    ({'quantize.embedding.weight': None}, 'not a VQGAN.* missing: quantize.embedding.weight'),
    ({f'extra.{i}': np.zeros(1) for i in range(8)}, ' 8 .*extra.0; .*extra.5; and 2 more'),
  ],
)
def test_what_does_not_fit_is_named(change, message):
  state = peer_vqgan.weights('nearest') | change
  with pytest.raises(UserError, match=message):
    vqgan_from_taming({name: value for name, value in state.items() if value is not None})
