"""The optical flow target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mam2, mgmae
from vmae_jax.errors import UserError
from vmae_jax.method.build import build_method
from vmae_jax.motion.flow import Flow
from vmae_jax.targets.optical_flow import flow_pairs, optical_flow

CLIP = jnp.zeros((1, 4, 16, 16, 3))
PATCH = (2, 8, 8)


def flow(values, gap=1):
  return Flow(jnp.asarray(values, jnp.float32), flow_pairs(4, gap=gap))


def test_a_constant_flow_in_pixels_of_the_clip():
  """Flow on a grid of half the size is doubled; the last frame repeats the one before."""
  values = np.ones((1, 3, 8, 8, 2)) * [1.5, -0.5] * np.array([1, 2, 3]).reshape(1, 3, 1, 1, 1)
  found = optical_flow(CLIP, None, flow=flow(values), patch=PATCH, cells=2, normalise='none')
  assert found.shape == (1, 2 * 2 * 2, 2 * 2 * 2 * 2)
  by_frame = np.asarray(found).reshape(2, 4, 2, 4, 2)  # Slot, place, frame, cell, axis.
  for frame, times in enumerate((1, 2, 3, 3)):
    expected = np.broadcast_to([3.0 * times, -1.0 * times], (4, 4, 2))
    np.testing.assert_allclose(by_frame[frame // 2, :, frame % 2], expected)
  scaled = optical_flow(CLIP, None, flow=flow(values), patch=PATCH, cells=2, scale=4.0)
  np.testing.assert_allclose(scaled, found / 4)
  assert not np.any(
    optical_flow(CLIP, None, flow=flow(values[:, :1].repeat(3, 1)), patch=PATCH, normalise='patch')
  )


def test_order_of_places_and_cells():
  """A cell's x is its columns' mean, its y its rows' mean; tokens are in raster order."""
  y, x = np.mgrid[:16, :16].astype(float)
  values = np.broadcast_to(np.stack([x, y], -1), (1, 3, 16, 16, 2))
  found = optical_flow(CLIP, None, flow=flow(values), patch=PATCH, cells=2, normalise='none')
  found = np.asarray(found).reshape(2, 2, 2, 2, 2, 2, 2)  # Slot, row, column, frame, cell, axis.
  for row in range(2):
    for cell in range(2):
      middle = 8 * row + 4 * cell + 1.5
      np.testing.assert_allclose(found[:, row, :, :, cell, :, 1], middle)
      np.testing.assert_allclose(found[:, :, row, :, :, cell, 0], middle)


def test_gap_and_mistakes():
  assert flow_pairs(4, gap=2) == ((0, 2), (1, 3))
  values = np.ones((1, 2, 8, 8, 2))
  found = optical_flow(CLIP, None, flow=flow(values, gap=2), patch=PATCH, gap=2, cells=1)
  np.testing.assert_allclose(found, 1.0)  # 2 pixels over a scale of 2.
  with pytest.raises(UserError, match='cannot be cut into 16 x 16 cells.* fewer cells'):
    optical_flow(CLIP, None, flow=flow(np.ones((1, 3, 8, 8, 2))), patch=PATCH, cells=8)
  config = mam2_with_flow()
  config.data.frames = 2
  config.heads.motion.options.gap = 2
  with pytest.raises(UserError, match='or another heads.motion.target'):
    build_method(config)


def mam2_with_flow():
  config = mam2.get_config('smoke')
  config.heads.motion.target = 'optical_flow'
  config.heads.motion.options = dict(cells=2)
  return config


def test_mam2_with_flow_in_place_of_differences():
  """With one override and the config's estimator: a texture that moves to the right."""
  config = mam2_with_flow()
  method = build_method(config)
  rng = np.random.default_rng(0)
  wide = rng.integers(0, 256, (8, 12, 3)).repeat(4, 0).repeat(4, 1).astype(np.float32)
  video = np.stack([np.roll(wide, 2 * i, axis=1)[:, 8:40] for i in range(8)])
  batch = {'video': jnp.asarray(video.astype(np.uint8))[None]}
  batch |= dict.fromkeys(('epoch', 'sample', 'repeat'), jnp.zeros(1, jnp.int32))
  params = jax.eval_shape(method.init, jax.random.key(0))
  params = jax.tree.map(lambda x: jnp.zeros(x.shape), params)  # Targets ask for none.
  targets = jax.jit(lambda *given: method.forward(*given).targets)(params, batch, method.frozen)
  target = np.asarray(targets['motion'].values).reshape(-1, 2)
  np.testing.assert_allclose(np.median(target, axis=0), [1, 0], atol=0.1)  # 2 pixels over 2.
  assert method.flops() > 0


def test_masks_and_targets_share_one_flow():
  config = mgmae.get_config('smoke')
  with config.heads.unlocked():
    config.heads.motion = config.heads.pixels.copy_and_resolve_references()
  config.heads.motion.target, config.heads.motion.options = 'optical_flow', dict(cells=2)
  method = build_method(config)
  clip = jnp.zeros((1, config.data.frames, config.data.size, config.data.size, 3))
  seen = []
  jax.eval_shape(lambda *given: seen.append(method.flow(*given)), {'video': clip}, method.frozen)
  (pairs,) = (flow.pairs for flow in seen)
  assert len(set(pairs)) == len(pairs) and set(flow_pairs(config.data.frames)) <= set(pairs)
