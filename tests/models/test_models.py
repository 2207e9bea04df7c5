"""Sizes, positions, patches, and equalities that need no reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax import sharding
from vmae_jax.errors import UserError
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.blocks import REMAT, Attention, Blocks, add_bias
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.decoder import Output
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.flops import autoencoder_flops
from vmae_jax.models.patches import patchify, token_grid, unpatchify
from vmae_jax.models.positions import sincos_positions
from vmae_jax.models.sizes import SIZES

# Encoder, pre-training and fine-tuning (400 classes) parameters of the published models.
PUBLISHED = {
  's': (21_879_936, 24_029_376, 22_033_936),
  'b': (86_227_200, 94_210_944, 86_534_800),
  'l': (303_860_736, 342_996_992, 304_270_736),
  'h': (631_607_040, 692_487_296, 632_119_440),
}


def parts(size, patch=(2, 16, 16)):
  size = dict(SIZES[size])
  decoder = size.pop('decoder')
  return size | {'patch': patch}, decoder


def autoencoder(size='demo', patch=(2, 8, 8), **common):
  encoder, decoder = parts(size, patch)
  return MaskedAutoencoder(
    encoder, decoder, {'pixels': Output('decoder', 3 * int(np.prod(patch)))}, common
  )


def inputs(frames=4, side=32, batch=2, visible=8, patch=(2, 8, 8), seed=0):
  rng = np.random.default_rng(seed)
  n = int(np.prod(token_grid((frames, side, side), patch)))
  order = np.stack([rng.permutation(n) for _ in range(batch)])
  video = rng.normal(size=(batch, frames, side, side, 3)).astype(np.float32)
  return jnp.asarray(video), jnp.asarray(order[:, :visible]), jnp.asarray(order[:, visible:])


@pytest.mark.parametrize('size', PUBLISHED)
def test_parameter_counts_equal_the_published_ones(size):
  encoder, decoder = parts(size)
  model = MaskedAutoencoder(encoder, decoder, {'pixels': Output('decoder', 1536)}, {'scan': True})
  video = jnp.zeros((1, 16, 224, 224, 3))
  index = jnp.arange(1568)[None]
  key = jax.random.key(0)
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
  pretrain = jax.eval_shape(model.init, key, video, index[:, :160], index[:, 160:])
  finetune = jax.eval_shape(Classifier(encoder | {'scan': True}, 400).init, key, video)
  found = count(pretrain['params']['encoder']), count(pretrain), count(finetune)
  assert found == PUBLISHED[size]


def test_positions():
  table = sincos_positions(1568, 768)
  assert table.dtype == np.float32 and table.shape == (1568, 768)
  np.testing.assert_allclose(table[1, :2], [np.sin(1), np.cos(1)], rtol=1e-6)
  np.testing.assert_allclose(table[5, 2], np.sin(5 / 10000 ** (2 / 768)), rtol=1e-6)
  np.testing.assert_array_equal(table[0, :4], [0, 1, 0, 1])


def test_patches_are_time_row_column_channel():
  video = jnp.arange(2 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
  patches = patchify(video, patch=(2, 2, 3))
  t, h, w = token_grid((4, 4, 6), (2, 2, 3))
  assert (t, h, w) == (2, 2, 2) and patches.shape == (2, 8, 36)
  token = (1 * h + 0) * w + 1
  np.testing.assert_array_equal(patches[1, token].reshape(2, 2, 3, 3), video[1, 2:4, 0:2, 3:6])
  back = unpatchify(patches, patch=(2, 2, 3), grid=(t, h, w))
  np.testing.assert_array_equal(back, video)


def test_a_tpu_cuts_bytes_into_the_same_patches(monkeypatch):
  video = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 24, 3), np.uint8)
  expected = jax.jit(lambda x: patchify(x, patch=(2, 8, 8)))(video)
  monkeypatch.setattr(sharding, 'platform', lambda: 'tpu')
  patches = jax.jit(lambda x: patchify(x, patch=(2, 8, 8)))(video)
  assert patches.dtype == np.uint8
  np.testing.assert_array_equal(patches, expected)


def test_logits_are_float32_in_half_precision():
  encoder, decoder = parts('demo', (2, 8, 8))
  heads = {'codes': Output('decoder', 64, logits=True), 'pixels': Output('decoder', 64)}
  model = MaskedAutoencoder(encoder, decoder, heads, {'dtype': jnp.bfloat16})
  given = inputs()
  params = jax.jit(model.init)(jax.random.key(0), *given)
  out = jax.jit(model.apply)(params, *given)
  rounded = {name: (x == x.astype(jnp.bfloat16)).mean() for name, x in out.items()}
  assert rounded['pixels'] == 1 and rounded['codes'] < 0.1
  jax.eval_shape(jax.grad(lambda p: model.apply(p, *given)['codes'].sum()), params)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_bias_and_its_gradient(dtype):
  rng = np.random.default_rng(0)
  x, d_out = (jnp.asarray(rng.normal(size=(3, 50, 7)), dtype) for _ in range(2))
  out, back = jax.vjp(add_bias, x, jnp.arange(7.0))
  np.testing.assert_array_equal(out, x + jnp.arange(7, dtype=dtype))
  d_x, d_bias = back(d_out)
  np.testing.assert_array_equal(d_x, d_out)
  np.testing.assert_allclose(d_bias, np.asarray(d_out, np.float64).sum((0, 1)), rtol=1e-5)


def test_queries_keys_and_values_are_never_one_array():
  """TPUs would have to cut this array and copy the parts."""
  layer, x = Attention(heads=2), jnp.zeros((2, 5, 8))
  program = jax.make_jaxpr(jax.grad(lambda p: layer.apply(p, x).sum()))(
    layer.init(jax.random.key(0), x)
  )
  shapes = {v.aval.shape for eqn in program.jaxpr.eqns for v in eqn.outvars}
  assert (2, 5, 8) in shapes and not shapes & {(2, 5, 24), (2, 5, 3, 8), (2, 5, 3, 2, 4)}


def test_sizes_that_do_not_divide_are_named():
  with pytest.raises(UserError, match=r'height 225 is no multiple of the patch, 16.*224 or 240'):
    token_grid((16, 225, 224), (2, 16, 16))


def test_the_embedding_is_the_published_convolution():
  rng = np.random.default_rng(0)
  video = rng.normal(size=(1, 4, 16, 16, 3)).astype(np.float32)
  kernel = rng.normal(size=(2, 8, 8, 3, 5)).astype(np.float32)
  convolved = jax.lax.conv_general_dilated(
    video, kernel, (2, 8, 8), 'VALID', dimension_numbers=('NTHWC', 'THWIO', 'NTHWC')
  )
  dense = patchify(jnp.asarray(video), patch=(2, 8, 8)) @ kernel.reshape(-1, 5)
  np.testing.assert_allclose(dense, convolved.reshape(1, -1, 5), rtol=2e-4, atol=2e-4)


def test_hidden_pixels_do_not_reach_the_encoder():
  video, visible, masked = inputs()
  model = autoencoder()
  params = jax.jit(model.init)(jax.random.key(0), video, visible, masked)

  def total(video):
    return sum(x.sum() for x in model.apply(params, video, visible, masked).values())

  gradient = patchify(jax.jit(jax.grad(total))(video), patch=(2, 8, 8))
  reached = jnp.abs(gradient).sum(-1) > 0
  assert jnp.take_along_axis(reached, visible, 1).all()
  assert not jnp.take_along_axis(reached, masked, 1).any()


def test_order_within_visible_and_masked_tokens_is_irrelevant():
  video, visible, masked = inputs()
  model = autoencoder()
  params = jax.jit(model.init)(jax.random.key(0), video, visible, masked)
  apply = jax.jit(model.apply)
  one = apply(params, video, visible, masked)['pixels']
  other = apply(params, video, visible[:, ::-1], masked[:, ::-1])['pixels']
  np.testing.assert_allclose(one, other[:, ::-1], atol=2e-5)


def test_all_tokens_visible_in_order_is_the_same_as_no_mask():
  video, _, _ = inputs()
  encoder = Encoder(width=32, depth=2, heads=2, mlp=64, patch=(2, 8, 8))
  params = jax.jit(encoder.init)(jax.random.key(0), video)
  index = jnp.tile(jnp.arange(32), (2, 1))
  apply = jax.jit(encoder.apply)
  np.testing.assert_allclose(apply(params, video), apply(params, video, index), atol=1e-6)


@pytest.mark.parametrize('remat', REMAT)
@pytest.mark.parametrize('scan', [False, True])
def test_scan_and_remat_change_nothing(scan, remat):
  x = jax.random.normal(jax.random.key(1), (2, 7, 16))
  plain = Blocks(depth=3, heads=2, mlp=32)
  params = jax.jit(plain.init)(jax.random.key(0), x)
  other = Blocks(depth=3, heads=2, mlp=32, scan=scan, remat=remat)
  fresh = jax.eval_shape(other.init, jax.random.key(0), x)
  assert jax.tree.structure(params) == jax.tree.structure(fresh)

  def gradient(blocks):
    return jax.jit(jax.grad(lambda p: jnp.square(blocks.apply(p, x)).mean()))(params)

  for a, b in zip(*map(jax.tree.leaves, (gradient(plain), gradient(other))), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('remat, least', [('full', 1.15), ('dots', 1.08)])
def test_unrolled_layers_are_recomputed_as_remat_says(remat, least):
  """By the compiler's FLOP count: with common subexpressions removed it would keep everything."""
  x = jnp.zeros((8, 196, 64))

  def flops(remat):
    blocks = Blocks(3, 2, 256, remat=remat, implementation='xla')
    params = jax.eval_shape(blocks.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p, x: blocks.apply(p, x).sum()))
    return gradient.lower(params, x).compile().cost_analysis()['flops']

  assert flops(remat) > least * flops('none')


def test_layers_start_different():
  x = jnp.zeros((1, 3, 16))
  kernel = jax.jit(Blocks(2, 2, 32).init)(jax.random.key(0), x)['params']['block']['mlp']['fc1'][
    'kernel'
  ]
  assert not jnp.array_equal(kernel[0], kernel[1])


def test_initial_ranges_are_videomaes():
  video, visible, masked = inputs(frames=4, side=32)
  model = autoencoder('tiny')
  params = jax.jit(model.init)(jax.random.key(0), video, visible, masked)['params']
  bounds = {
    ('encoder', 'embed', 'kernel'): 384**-0.5,
    ('encoder', 'embed', 'bias'): 384**-0.5,
    ('encoder', 'blocks', 'block', 'attention', 'qkv', 'kernel'): (6 / (4 * 192)) ** 0.5,
    ('encoder', 'blocks', 'block', 'mlp', 'fc1', 'kernel'): (6 / (192 + 768)) ** 0.5,
    ('decoder', 'from_encoder', 'kernel'): 192**-0.5,
    ('decoder', 'mask_token'): 0.02,
  }
  for path, bound in bounds.items():
    leaf = params
    for name in path:
      leaf = leaf[name]
    largest = float(jnp.abs(leaf).max())
    assert 0.9 * bound < largest <= bound * (1 + 1e-6), (path, largest, bound)
  assert not jnp.any(params['encoder']['blocks']['block']['attention']['q_bias'])


def test_counted_flops_equal_the_compilers():
  encoder, decoder = parts('s')
  encoder['depth'] = decoder['depth'] = 2
  common, own = {'implementation': 'xla'}, {'small': dict(width=96, depth=1, mlp=384)}
  heads = {'pixels': Output('decoder', 1536), 'tracks': Output('small', 10)}
  model = MaskedAutoencoder(encoder, decoder, heads, common, own)
  video = jax.ShapeDtypeStruct((1, 16, 64, 64, 3), jnp.float32)
  visible, masked = (jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (32, 96))
  params = jax.eval_shape(model.init, jax.random.key(0), video, visible, masked)
  compiled = jax.jit(model.apply).lower(params, video, visible, masked).compile()
  counted = autoencoder_flops(
    encoder=encoder,
    decoder=decoder,
    heads=model.heads,
    visible=32,
    masked=96,
    patch_values=1536,
    own=own,
  )
  # Norms, softmax and GELU are a few per cent in so small a model.
  assert 1.0 <= compiled.cost_analysis()['flops'] / counted < 1.06


def test_a_hidden_layer_of_a_head_counts():
  encoder, decoder = parts('s')

  def count(output):
    sizes = dict(visible=32, masked=96, patch_values=1536)
    return autoencoder_flops(encoder=encoder, decoder=decoder, heads={'shape': output}, **sizes)

  plain, deeper = count(Output('decoder', 108)), count(Output('decoder', 108, hidden=512))
  assert deeper - plain == 2 * 96 * (192 * 512 + 512 * 108 - 192 * 108)


def test_published_gigaflops():
  """70.9 GFLOP a clip were counted for ViT-B with all 1,568 patches embedded."""
  encoder, decoder = parts('b')
  total = autoencoder_flops(
    encoder=encoder,
    decoder=decoder,
    heads={'pixels': Output('decoder', 1536)},
    visible=160,
    masked=1408,
    patch_values=1536,
  )
  embedding_of_hidden = 2 * 1408 * 1536 * 768
  assert abs((total + embedding_of_hidden) / 1e9 - 70.9) < 0.1
