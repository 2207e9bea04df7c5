"""RAFT: its parts against definitions, clips against single pairs, small frames, files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interchange import peer_raft
from vmae_jax.errors import UserError
from vmae_jax.frozen.files import save_params
from vmae_jax.frozen.raft import RAFT, load_raft, raft_flow
from vmae_jax.frozen.raft_correlation import correlation_pyramid, look_up
from vmae_jax.frozen.raft_update import upsample_bilinear, upsample_convex
from vmae_jax.interchange.raft import raft_from_torch


@functools.cache
def params():
  return raft_from_torch(peer_raft.weights('small'))[1]


@functools.cache
def clip():
  """Two clips of three frames, in [0, 1].

  At an eighth 64 and 112 pixels are 8 and 14: the coarsest level is of one row and column, by
  whose size less one the original divides.
  """
  clips = []
  for seed in (1, 2):
    frames = *peer_raft.frames(64, 112, seed=seed), peer_raft.frames(64, 112, seed=seed + 5)[0]
    clips.append(np.stack(frames))
  return (jnp.asarray(clips) + 1) / 2


def normal(seed, shape):
  return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def bilinear(values, y, x):
  """Bilinear interpolation of values [h, w], zero outside, by the definition."""
  total = 0.0
  for row in (int(np.floor(y)), int(np.floor(y)) + 1):
    for column in (int(np.floor(x)), int(np.floor(x)) + 1):
      if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
        total += values[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
  return total


def test_look_up_by_the_definition():
  # Levels of 5 x 7, 2 x 3, 1 x 1 and 0 x 0.
  first, second = normal(0, (1, 5, 7, 16)), normal(1, (1, 5, 7, 16))
  target = 4 * normal(2, (1, 5, 7, 2)) + 2
  pyramid = jax.jit(functools.partial(correlation_pyramid, levels=4))(first, second)
  assert [level.shape[3:] for level in pyramid] == [(5, 7), (2, 3), (1, 1), (0, 0)]
  found = jax.jit(functools.partial(look_up, radius=2))(pyramid, target)
  assert found.shape == (1, 5, 7, 4 * 25)
  levels = [np.einsum('hwd,yxd->hwyx', first[0], second[0]) / 4]
  for h, w in ((2, 3), (1, 1)):
    pooled = levels[-1][..., : 2 * h, : 2 * w].reshape(5, 7, h, 2, w, 2).mean(axis=(3, 5))
    levels.append(pooled)
  for row in range(5):
    for column in range(0, 7, 2):
      x, y = target[0, row, column]
      expected = [
        bilinear(level[row, column], y / 2**i + dy, x / 2**i + dx)
        for i, level in enumerate(levels)
        for dx in range(-2, 3)  # x varies slowest.
        for dy in range(-2, 3)
      ]
      np.testing.assert_allclose(found[0, row, column, :75], expected, atol=1e-5)
  np.testing.assert_array_equal(found[..., 75:], 0)


def test_bilinear_upsampling_keeps_corners_and_ramps():
  y, x = np.meshgrid(np.arange(3.0), np.arange(4.0), indexing='ij')
  flow = np.stack([x, y], axis=-1)[None].astype(np.float32)
  fine = jax.jit(upsample_bilinear)(flow)
  assert fine.shape == (1, 24, 32, 2)
  np.testing.assert_allclose(fine[0, 5, :, 0], 8 * np.linspace(0, 3, 32), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(fine[0, :, 9, 1], 8 * np.linspace(0, 2, 24), rtol=1e-6, atol=1e-6)


def test_convex_upsampling_takes_the_chosen_neighbour():
  flow = normal(3, (1, 3, 4, 2))
  scores = np.zeros((1, 3, 4, 9, 8, 8), np.float32)
  scores[..., 1 * 3 + 2, 6, 1] = 100  # Row 6, column 1 of a cell: from the right neighbour.
  scores[..., 2 * 3 + 1, 0, 5] = 100  # Row 0, column 5: from the one below.
  fine = jax.jit(upsample_convex)(flow, scores.reshape(1, 3, 4, 576)).reshape(3, 8, 4, 8, 2)
  np.testing.assert_allclose(fine[:, 6, :3, 1], 8 * flow[0, :, 1:], rtol=1e-5)
  np.testing.assert_array_equal(fine[:, 6, 3, 1], 0)
  np.testing.assert_allclose(fine[:2, 0, :, 5], 8 * flow[0, 1:], rtol=1e-5)


@functools.cache
def flow(**options):
  run = peer_raft.jit(
    functools.partial(raft_flow, pairs=((1, 0), (1, 2), (0, 1)), size='small', **options)
  )
  return run(params(), clip())


def test_clips_as_single_pairs():
  found = flow()
  assert found.shape == (2, 3, 64, 112, 2)
  frames = 2 * clip() - 1
  first, second = (frames[:, index].reshape(6, 64, 112, 3) for index in ([1, 1, 0], [0, 2, 1]))
  single = peer_raft.jit(RAFT('small').apply)({'params': params()}, first, second)
  np.testing.assert_allclose(found, single.reshape(found.shape), atol=2e-4)
  # No two pairs are alike, so that none can stand for another.
  for i, j in ((0, 1), (0, 2), (1, 2)):
    assert np.abs(found[:, i] - found[:, j]).mean() > 1


def test_finite_where_the_original_is_not():
  assert np.isfinite(flow()).all()


def test_bfloat16_at_an_eighth():
  near, exact = flow(dtype=jnp.bfloat16, eighth=True), flow()
  assert near.shape == (2, 3, 8, 14, 2)
  assert near.dtype == jnp.float32
  # The corners of both grids coincide.
  near, exact = near[:, :, ::7, ::13], exact[:, :, ::63, ::111] / 8
  difference = np.abs(near - exact).mean() / np.abs(exact).mean()
  assert 0 < difference < 0.05, difference


def test_sides_are_multiples_of_8():
  frames = jnp.zeros((1, 60, 64, 3))
  with pytest.raises(UserError, match='60 x 64 pixels: .* multiples of 8'):
    jax.eval_shape(RAFT('small').init, jax.random.key(0), frames, frames)


def test_an_unknown_size_is_named():
  frames = jnp.zeros((1, 64, 64, 3))
  with pytest.raises(UserError, match="no 'medium'"):
    jax.eval_shape(RAFT('medium').init, jax.random.key(0), frames, frames)


def test_weights_in_a_file(tmp_path):
  path = tmp_path / 'raft.safetensors'
  save_params(path, params(), kind='raft', config={'size': 'small'})
  size, loaded = load_raft(path)
  assert size == 'small'
  jax.tree.map(np.testing.assert_array_equal, loaded, params())


@pytest.mark.parametrize('path, said', [('', 'no file of weights is given'), ('no', 'no file no')])
def test_the_error_for_missing_weights_says_where_to_get_them(path, said):
  with pytest.raises(UserError, match=rf'{said}: .*raft_small.*vmae_jax\.convert'):
    load_raft(path)


def test_weights_of_something_else(tmp_path):
  path = tmp_path / 'vqgan.safetensors'
  save_params(path, {'a': np.zeros(1, np.float32)}, kind='vqgan', config={})
  with pytest.raises(UserError, match='holds a vqgan, not a raft'):
    load_raft(path)
