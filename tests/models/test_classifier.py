"""Drop path, dropout and interpolated positions of fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.models.blocks import Blocks, drop_path
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.positions import interpolated_positions, sincos_positions

pytestmark = pytest.mark.optimised

ENCODER = dict(width=32, depth=3, heads=2, mlp=64, patch=(2, 8, 8), scan=True)
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def keys(b=4000, seed=0):
  return jax.random.split(jax.random.key(seed), b)


def test_drop_path_rises_from_nothing_in_the_first_block():
  keep = np.asarray(drop_path(keys(), rate=0.4, depth=5))
  assert keep.shape == (5, 2, 4000)
  kept = (keep > 0).mean((1, 2))
  np.testing.assert_allclose(kept, [1, 0.9, 0.8, 0.7, 0.6], atol=0.02)
  for layer, chance in zip(keep, (1, 0.9, 0.8, 0.7, 0.6), strict=True):
    np.testing.assert_allclose(np.unique(layer)[-1], 1 / chance, rtol=1e-6)
  assert keep.mean((1, 2)) == pytest.approx(np.ones(5), abs=0.03)
  # Branches are dropped independently of each other and of other clips.
  both = (keep[4] == 0).all(0).mean()
  assert both == pytest.approx(0.16, abs=0.02)


def test_drop_path_of_a_clip_depends_on_its_key_alone():
  all_of_them = drop_path(keys(16), rate=0.5, depth=4)
  np.testing.assert_array_equal(drop_path(keys(16)[5:9], rate=0.5, depth=4), all_of_them[..., 5:9])


@pytest.fixture(scope='module')
def clip():
  return jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 16, 16, 3)), jnp.float32)


@pytest.fixture(scope='module')
def params(clip):
  model = Classifier(ENCODER, 5, head_scale=50.0)
  return jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0), clip)


def apply(params, clip, keys=None, **options):
  model = Classifier(ENCODER, 5, **options)
  return np.asarray(jax.jit(model.apply, compiler_options=QUICK)(params, clip, keys))


def test_nothing_is_dropped_without_keys(params, clip):
  plain = apply(params, clip)
  np.testing.assert_array_equal(apply(params, clip, drop_path=0.5, dropout=0.5), plain)
  np.testing.assert_allclose(apply(params, clip, keys(6)), plain, rtol=1e-6)
  for options in (dict(drop_path=0.5), dict(dropout=0.5)):
    assert np.abs(apply(params, clip, keys(6), **options) - plain).max() > 1e-3


def test_a_dropped_branch_passes_its_input_on(params, clip):
  """With a rate of almost 1, only the first block (rate 0) and half of the second remain."""
  encoder = params['params']['encoder']['blocks']['block']
  silent = jax.tree.map(lambda x: x.at[1:].set(0), encoder)
  first = jax.tree.map(lambda x: x, params)
  first['params']['encoder'] = params['params']['encoder'] | {'blocks': {'block': silent}}
  expected = apply(first, clip)
  both = keys(6, seed=3)
  keep = drop_path(jax.vmap(lambda key: jax.random.fold_in(key, 0))(both), rate=1 - 1e-6, depth=3)
  alone = np.asarray((keep[1:] == 0).all((0, 1)))
  assert alone.any() and not alone.all()
  found = apply(params, clip, both, drop_path=1 - 1e-6)
  np.testing.assert_allclose(found[alone], expected[alone], rtol=1e-4, atol=1e-5)
  assert np.abs(found[~alone] - expected[~alone]).max() > 1e-3


@pytest.mark.parametrize('branch, last', [(0, ('attention', 'proj')), (1, ('mlp', 'fc2'))])
def test_each_factor_belongs_to_its_branch(branch, last):
  """A factor of 0 is a branch whose last layer is zero; one of 2, twice that layer."""
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 16)), jnp.float32)
  blocks = Blocks(depth=1, heads=2, mlp=32)
  params = jax.jit(blocks.init, compiler_options=QUICK)(jax.random.key(0), x)['params']
  run = jax.jit(blocks.apply, compiler_options=QUICK)
  for factor in (0.0, 2.0):
    keep = jnp.ones((1, 2, 2)).at[:, branch].set(factor)
    changed = jax.tree.map(lambda x: x, params)
    part, layer = last
    scaled = jax.tree.map(lambda x: factor * x, changed['block'][part][layer])  # noqa: B023
    changed['block'][part][layer] = scaled
    np.testing.assert_allclose(
      run({'params': params}, x, keep), run({'params': changed}, x), rtol=1e-5, atol=1e-5
    )


def test_dropout_keeps_the_mean(params, clip):
  many = jnp.tile(clip[:1], (3000, 1, 1, 1, 1))[:, :2, :8, :8]
  plain = apply(params, many[:1])
  found = apply(params, many, keys(3000), dropout=0.5)
  spread = found.std(0) / np.sqrt(3000)
  assert (np.abs(found.mean(0) - plain[0]) < 5 * spread).all() and spread.min() > 0


def test_positions_of_the_same_grid_are_the_table():
  np.testing.assert_array_equal(
    interpolated_positions((2, 3, 4), trained=(2, 3, 4), d=6), sincos_positions(24, 6)
  )


def test_time_is_interpolated_linearly():
  table = sincos_positions(4 * 6, 8).reshape(4, 6, 8)
  doubled = interpolated_positions((8, 2, 3), trained=(4, 2, 3), d=8).reshape(8, 6, 8)
  np.testing.assert_allclose(doubled[0], table[0], atol=1e-6)
  np.testing.assert_allclose(doubled[1], 0.75 * table[0] + 0.25 * table[1], atol=1e-6)
  np.testing.assert_allclose(doubled[2], 0.25 * table[0] + 0.75 * table[1], atol=1e-6)
  np.testing.assert_allclose(doubled[7], table[3], atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize('grid', [(8, 20, 20), (8, 7, 9), (16, 14, 14), (5, 18, 10)])
def test_interpolation_is_pytorchs(grid):
  import torch

  table = torch.from_numpy(sincos_positions(8 * 14 * 14, 12)).reshape(8, 14, 14, 12)
  x = table.permute(0, 3, 1, 2)
  x = torch.nn.functional.interpolate(x, grid[1:], mode='bicubic', align_corners=False)
  x = x.permute(2, 3, 1, 0).reshape(grid[1] * grid[2], 12, 8)
  x = torch.nn.functional.interpolate(x, grid[0], mode='linear', align_corners=False)
  expected = x.reshape(grid[1], grid[2], 12, grid[0]).permute(3, 0, 1, 2).reshape(-1, 12)
  found = interpolated_positions(grid, trained=(8, 14, 14), d=12)
  np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_classifier_with_interpolated_positions(params, clip):
  same = Classifier(ENCODER | {'position_grid': (2, 2, 2)}, 5)
  other = Classifier(ENCODER | {'position_grid': (4, 4, 4)}, 5)
  run = lambda model: np.asarray(jax.jit(model.apply, compiler_options=QUICK)(params, clip))  # noqa: E731
  np.testing.assert_allclose(run(same), apply(params, clip), rtol=1e-5, atol=1e-6)
  assert np.abs(run(other) - apply(params, clip)).max() > 1e-3
