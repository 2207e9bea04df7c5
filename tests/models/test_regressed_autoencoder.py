"""MAM2's wiring: which tokens each part sees, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.models.autoencoder import RegressedAutoencoder
from vmae_jax.models.blocks import REMAT
from vmae_jax.models.decoder import LatentDecoder, Output
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.flops import regressed_autoencoder_flops
from vmae_jax.models.patches import patchify
from vmae_jax.models.positions import sincos_positions
from vmae_jax.models.regressor import Regressor

PATCH = (2, 8, 8)
ENCODER = dict(width=32, depth=2, heads=2, mlp=64, patch=PATCH)
COMMON = dict(dtype=jnp.float32, eps=1e-6)
HEADS = {'appearance': Output('one', 10), 'motion': Output('two', 384)}


def build(width=32):
  decoder = dict(width=width, depth=1, heads=2, mlp=64, layer_scale=0.1)
  regressor = dict(width=width, depth=1, heads=2, mlp=64, layer_scale=0.1)
  return RegressedAutoencoder(ENCODER, decoder, HEADS, COMMON, regressor=regressor)


@pytest.fixture(scope='module')
def inputs():
  rng = np.random.default_rng(0)
  order = np.stack([rng.permutation(32) for _ in range(2)])
  video = rng.normal(size=(2, 4, 32, 32, 3)).astype(np.float32)
  # Some hidden tokens are left out, as with the decoder's masking.
  return jnp.asarray(video), jnp.asarray(order[:, :8]), jnp.asarray(order[:, 8:24])


def start(model, inputs):
  return jax.jit(model.init)(jax.random.key(0), *inputs)['params']


def alignment(model, params, video, visible, masked):
  _, sown = model.apply({'params': params}, video, visible, masked, mutable='losses')
  return sown['losses']['alignment'][0]


def touched(function, video):
  """Tokens whose pixels the sum of the function's values depends on."""
  gradient = jax.jit(jax.grad(lambda v: function(v).sum()))(video)
  return np.abs(patchify(gradient, patch=PATCH)).sum(-1) > 0


def test_predictions_see_visible_tokens_and_targets_the_masked_ones(inputs):
  video, visible, masked = inputs
  model = build()
  params = start(model, inputs)

  def predict(video):
    out = model.apply({'params': params}, video, visible, masked)
    return sum(jnp.square(x).sum() for x in out.values())

  rows = np.arange(2)[:, None]
  seen = touched(predict, video)
  expected = np.zeros((2, 32), bool)
  expected[rows, visible] = True
  np.testing.assert_array_equal(seen, expected)
  expected[rows, masked] = True
  both = touched(lambda v: alignment(model, params, v, visible, masked), video)
  np.testing.assert_array_equal(both, expected)


def test_regressor_and_decoders_get_the_positions_of_their_tokens(inputs):
  model, (video, visible, masked) = build(), inputs
  params, table = start(model, inputs), jnp.asarray(sincos_positions(32, 32))

  @jax.jit
  def by_hand(params):
    latents = Encoder(**ENCODER, **COMMON).apply({'params': params['encoder']}, video, visible)
    regressor = Regressor(**model.regressor, **COMMON)
    given = latents, table[visible], table[masked]
    regressed = regressor.apply({'params': params['regressor']}, *given)
    decoder = LatentDecoder(**model.decoder, **COMMON, outputs={'appearance': HEADS['appearance']})
    return decoder.apply({'params': params['one']}, regressed, table[masked])

  found = jax.jit(model.apply)({'params': params}, *inputs)['appearance']
  np.testing.assert_allclose(found, by_hand(params)['appearance'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('width', [32, 16])
def test_alignment_is_the_distance_to_the_encoders_own_latents_without_gradient(inputs, width):
  """The gradient is that of a distance to constants."""
  model = build(width)
  params = start(model, inputs)
  video, visible, masked = inputs

  def target(params):
    encoder = Encoder(**ENCODER, **COMMON)
    latents = encoder.apply({'params': params['encoder']}, video, masked)
    if width != 32:
      latents = latents @ params['from_encoder']['kernel'] + params['from_encoder']['bias']
      mean = latents.mean(-1, keepdims=True)
      latents = (latents - mean) / jnp.sqrt(latents.var(-1, keepdims=True) + 1e-6)
    return latents

  constants = jax.jit(target)(params)

  def regressed(params):
    _, state = model.apply({'params': params}, video, visible, masked, capture_intermediates=True)
    return state['intermediates']['regressor']['__call__'][0]

  def by_hand(params):
    return jnp.square(regressed(params) - constants).mean()

  ours = jax.jit(jax.value_and_grad(lambda p: alignment(model, p, *inputs).mean()))(params)
  theirs = jax.jit(jax.value_and_grad(by_hand))(params)
  for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_regressor_of_another_width_has_one_projection(inputs):
  same, other = (set(jax.eval_shape(build(w).init, jax.random.key(0), *inputs)['params'])
                 for w in (32, 16))  # fmt: skip
  assert other - same == {'from_encoder', 'from_encoder_norm'}
  assert same == {'encoder', 'regressor', 'one', 'two'}


@pytest.mark.parametrize(
  'align, own', [(True, {}), (False, {'two': dict(width=384, depth=1, mlp=192)})]
)
def test_counted_flops_equal_the_compilers(align, own):
  encoder = dict(width=384, depth=2, heads=6, mlp=1536, patch=(2, 16, 16))
  decoder = dict(width=192, depth=2, heads=3, mlp=768, layer_scale=0.1)
  regressor = dict(width=192, depth=2, heads=3, mlp=768, layer_scale=0.1)
  heads = {'appearance': Output('one', 512), 'motion': Output('two', 1536)}
  common = COMMON | {'implementation': 'xla'}
  parts = dict(regressor=regressor, align=align)
  model = RegressedAutoencoder(encoder, decoder, heads, common, own, **parts)
  video = jax.ShapeDtypeStruct((1, 16, 64, 64, 3), jnp.float32)
  visible, masked = (jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (32, 64))
  params = jax.eval_shape(model.init, jax.random.key(0), video, visible, masked)['params']

  def forward(params, video, visible, masked):
    return model.apply({'params': params}, video, visible, masked, mutable='losses')

  compiled = jax.jit(forward).lower(params, video, visible, masked).compile()
  counted = regressed_autoencoder_flops(
    encoder=encoder,
    regressor=regressor,
    decoder=decoder,
    heads=heads,
    visible=32,
    masked=64,
    patch_values=1536,
    own=own,
    align=align,
  )
  assert 1.0 <= compiled.cost_analysis()['flops'] / sum(counted) < 1.06


@pytest.mark.parametrize('remat', REMAT)
def test_scan_and_remat_of_the_regressor_change_nothing(remat):
  rng = np.random.default_rng(0)
  given = [jnp.asarray(rng.normal(size=(2, n, 32)), jnp.float32) for n in (8, 8, 16)]

  def regressor(**options):
    return Regressor(width=32, depth=2, heads=2, mlp=64, layer_scale=0.1, **options)

  params = jax.jit(regressor().init)(jax.random.key(0), *given)

  def gradient(**options):
    out = regressor(**options).apply
    return jax.jit(jax.grad(lambda p: jnp.square(out(p, *given)).mean()))(params)

  plain, other = gradient(), gradient(scan=True, remat=remat)
  for a, b in zip(*map(jax.tree.leaves, (plain, other)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
