"""CAE's regressor and decoder: they equal the released code's; which tokens they see."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.stored import assert_close
from vmae_jax.models.decoder import LatentDecoder, Output
from vmae_jax.models.regressor import Regressor

pytestmark = pytest.mark.optimised

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'cae'
SIZES = dict(width=64, depth=2, heads=4, mlp=256, layer_scale=0.1)


@pytest.fixture(scope='module')
def reference():
  values = {}
  for file in FOLDER.glob('*.npz'):
    values |= dict(np.load(file))
  return values


def block_params(reference, prefix, names):
  """Our names -> the reference's, stacked over both blocks; matrices transposed."""

  def one(theirs):
    layers = [reference[f'param:{prefix}.{i}.{theirs}'] for i in range(2)]
    return np.stack([x.T for x in layers])

  tree = {}
  for ours, theirs in names.items():
    *path, leaf = ours.split('/')
    place = tree
    for name in path:
      place = place.setdefault(name, {})
    place[leaf] = one(theirs)
  return tree


def layer_names(pairs):
  """Pairs of a Dense's or a norm's names in both codes -> pairs of their parameters'."""
  names = {}
  for ours, theirs, kind in pairs:
    names[f'{ours}/{"scale" if kind == "norm" else "kernel"}'] = f'{theirs}.weight'
    if kind != 'matrix':
      names[f'{ours}/bias'] = f'{theirs}.bias'
  return names


def norm_params(reference, name):
  return {'scale': reference[f'param:{name}.weight'], 'bias': reference[f'param:{name}.bias']}


def regressor_params(reference):
  names = layer_names(
    [
      *((f'norm_{x}', f'norm1_{x}', 'norm') for x in 'qkv'),
      ('norm2', 'norm2_cross', 'norm'),
      *((f'attention/{x}', f'cross_attn.{x}', 'matrix') for x in 'qkv'),
      ('attention/proj', 'cross_attn.proj', 'dense'),
      ('mlp/fc1', 'mlp_cross.fc1', 'dense'),
      ('mlp/fc2', 'mlp_cross.fc2', 'dense'),
    ]
  )
  names |= {'scale1/scale': 'gamma_1_cross', 'scale2/scale': 'gamma_2_cross'}
  names |= {f'attention/{x}_bias': f'cross_attn.{x}_bias' for x in 'qv'}
  return {
    'mask_token': reference['mask_token'][0, 0],
    'block': block_params(reference, 'regressor.regressor_blocks', names),
    'norm': norm_params(reference, 'regressor.norm'),
  }


def decoder_params(reference):
  names = layer_names(
    [
      ('norm1', 'norm1', 'norm'),
      ('norm2', 'norm2', 'norm'),
      ('attention/qkv', 'attn.qkv', 'matrix'),
      ('attention/proj', 'attn.proj', 'dense'),
      ('mlp/fc1', 'mlp.fc1', 'dense'),
      ('mlp/fc2', 'mlp.fc2', 'dense'),
    ]
  )
  names |= {'scale1/scale': 'gamma_1', 'scale2/scale': 'gamma_2'}
  names |= {f'attention/{x}_bias': f'attn.{x}_bias' for x in 'qv'}
  head = {
    'kernel': reference['param:decoder.head.weight'].T,
    'bias': reference['param:decoder.head.bias'],
  }
  return {
    'blocks': {'block': block_params(reference, 'decoder.decoder_blocks', names)},
    'norm': norm_params(reference, 'decoder.norm'),
    'head_codes': head,
  }


def regress(params, latents, visible_positions, masked_positions, **options):
  model = Regressor(**SIZES, **options)
  return jax.jit(model.apply)({'params': params}, latents, visible_positions, masked_positions)


def inputs(reference):
  return tuple(
    jnp.asarray(reference[name]) for name in ('visible_latents', 'pos_visible', 'pos_masked')
  )


@pytest.mark.stored
def test_regressed_latents_equal_caes(reference):
  params = regressor_params(reference)
  fresh = jax.eval_shape(Regressor(**SIZES).init, jax.random.key(0), *inputs(reference))['params']
  assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
  out = regress(params, *inputs(reference))
  assert_close(out, reference['regressed_latents'], share=5e-6)


@pytest.mark.stored
def test_decoder_output_equals_caes(reference):
  model = LatentDecoder(outputs={'codes': Output('decoder', 40)}, **SIZES)
  out = jax.jit(model.apply)(
    {'params': decoder_params(reference)}, reference['regressed_latents'], reference['pos_masked']
  )
  assert_close(out['codes'], reference['decoder_output'], share=5e-6)


def test_masked_tokens_may_come_in_any_order_and_visible_ones_reach_all(reference):
  params, (latents, seen, hidden) = regressor_params(reference), inputs(reference)
  out = regress(params, latents, seen, hidden)
  turned = regress(params, latents, seen, hidden[:, ::-1])
  np.testing.assert_allclose(turned[:, ::-1], out, atol=1e-5)
  changed = latents.at[:, 0].add(jnp.linspace(-1, 1, 64))
  assert (np.abs(regress(params, changed, seen, hidden) - out).max(-1) > 1e-6).all()
