"""Points in analytic flows, at the frame's edges, and as in the released code."""

import collections
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax import sharding
from vmae_jax.motion.tracking import median, track

pytestmark = pytest.mark.optimised

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'mme_targets.npz'
SIZE = 96, 128
STEPS = 6


Result = collections.namedtuple('Result', 'displacements positions valid')


@functools.lru_cache
def tracker(**options):
  return jax.jit(functools.partial(track, **options))


def run(flow, *, size=SIZE, described=None, **options):
  tracks = tracker(size=size, **options)(jnp.asarray(flow), described=described)
  fields = tracks.displacements, tracks.positions, tracks.valid
  return Result(*(np.asarray(field) for field in fields))


def sampled(motion, *, grid=SIZE, size=SIZE, steps=STEPS):
  """A motion, (x, y) 'p 2' -> where to, as flow on a grid of any size, the same at each step."""
  (h, w), (H, W) = grid, size
  x, y = np.meshgrid((np.arange(w) + 0.5) * W / w, (np.arange(h) + 0.5) * H / h)
  at = np.stack([x, y], -1)
  flow = (motion(at) - at) * np.array([w / W, h / H])
  return np.broadcast_to(flow, (1, steps, h, w, 2)).astype(np.float32)


def affine(matrix, shift=(0.0, 0.0), centre=(64.0, 48.0)):
  return lambda at: (at - centre) @ np.array(matrix).T + centre + shift


def turn(degrees):
  a = np.deg2rad(degrees)
  return [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]


MOTIONS = {
  'translation': affine(np.eye(2), (1.7, -2.3)),
  'rotation': affine(turn(4)),
  'zoom in': affine(np.eye(2) * 1.05),
  'zoom out': affine(np.eye(2) * 0.93, (0.6, 0)),
}


@pytest.mark.parametrize('grid', [SIZE, (24, 64)], ids=str)
@pytest.mark.parametrize('name', MOTIONS)
def test_analytic_motion(name, grid):
  motion = MOTIONS[name]
  tracks = run(sampled(motion, grid=grid))
  assert tracks.positions.shape == (1, STEPS + 1, 12, 16, 2)
  # Where the flow is given on all sides; beyond its outermost values it stays as it is.
  cell = np.array(SIZE[::-1]) / grid[::-1]
  expected = [tracks.positions[0, 0]]
  for _ in range(STEPS):
    expected.append(motion(expected[-1]))
  expected = np.array(expected)
  inside = ((expected[:-1] >= cell / 2) & (expected[:-1] <= SIZE[::-1] - cell / 2)).all((0, -1))
  assert inside.mean() > 0.5
  off = np.abs(tracks.positions[0] - expected)[:, inside]
  assert off.max() < 0.05
  steps = np.diff(tracks.positions[0], axis=0)
  np.testing.assert_allclose(tracks.displacements[0][:, inside], steps[:, inside], atol=1e-4)
  assert tracks.valid[0][inside].all()
  if name == 'translation':  # The same motion beyond the outermost values, too.
    stays = ((expected[:-1] >= 0) & (expected[:-1] <= SIZE[::-1])).all((0, -1))
    np.testing.assert_array_equal(tracks.valid[0], stays)


def test_seeds_are_in_the_middle_of_cells():
  still = np.zeros((2, 1, 24, 32, 2), np.float32)
  for pitch in (4, 8):
    tracks = run(still, pitch=pitch)
    assert tracks.positions.shape == (2, 2, 96 // pitch, 128 // pitch, 2)
    np.testing.assert_array_equal(
      tracks.positions[1, 0, 2, 3], [3 * pitch + pitch // 2, 2 * pitch + pitch // 2]
    )
    np.testing.assert_array_equal(tracks.positions[:, 0], tracks.positions[:, 1])
    assert tracks.valid.all() and not tracks.displacements.any()


def test_a_point_that_leaves_before_a_step_is_invalid():
  flow = np.zeros((1, 3, *SIZE, 2), np.float32)
  flow[..., 0] = 5.0
  valid = run(flow).valid[0]
  # Two steps lead from x to x + 10; the third may lead out of the frame.
  np.testing.assert_array_equal(valid, np.tile(np.arange(4, 128, 8) + 10 <= 128, (12, 1)))
  np.testing.assert_array_equal(run(flow[:, :1]).valid, True)
  up = -flow[..., ::-1]
  np.testing.assert_array_equal(run(up).valid[0].T, np.tile(np.arange(4, 96, 8) >= 10, (16, 1)))


def test_a_point_that_came_back_stays_invalid_and_is_moved_from_the_edge():
  flow = np.zeros((1, 3, *SIZE, 2), np.float32)
  flow[0, 0, ..., 0], flow[0, 1, ..., 0] = 20.0, -20.0
  tracks = run(flow)
  assert not tracks.valid[0, :, -2:].any() and tracks.valid[0, :, :-3].all()
  np.testing.assert_array_equal(tracks.positions[0, :, 0, -1, 0], [124, 128, 108, 108])
  np.testing.assert_array_equal(tracks.displacements[0, :, 0, -1, 0], [20, -20, 0])


def test_between_pixels_the_flow_is_bilinear():
  flow = np.random.default_rng(0).normal(0, 3, (1, 2, 12, 16, 2)).astype(np.float32)
  tracks = run(flow)
  # A point at p is at p / 8 - 0.5 of a grid whose values lie in the middle of its 8 x 8 squares.
  place = np.clip(tracks.positions[0, 1] / 8 - 0.5, 0, [15, 11])
  low = np.floor(place).astype(int)
  part = place - low
  expected = 0
  for dx in (0, 1):
    for dy in (0, 1):
      weight = np.abs(1 - dx - part[..., :1]) * np.abs(1 - dy - part[..., 1:])
      corner = np.minimum(low + [dx, dy], [15, 11])
      expected = expected + weight * flow[0, 1, corner[..., 1], corner[..., 0]]
  np.testing.assert_allclose(tracks.displacements[0, 1], 8 * expected, atol=1e-4)


# Patches of 14 (ViT-giant) have cells of 7: their middle lies between pixels.
def test_a_tpu_tracks_the_same_without_a_gather(monkeypatch):
  rng = np.random.default_rng(0)
  flow = rng.normal(0, 2, (2, 3, 14, 18, 2)).astype(np.float32)
  described = jnp.asarray(rng.normal(size=flow.shape), jnp.float32)
  follow = functools.partial(track, size=(56, 72), described=described)
  expected = jax.jit(follow)(flow)
  monkeypatch.setattr(sharding, 'platform', lambda: 'tpu')
  found = jax.jit(lambda flow: follow(flow))(flow)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4)
  assert 'gather' not in str(jax.make_jaxpr(lambda flow: follow(flow))(flow))


@pytest.mark.parametrize('size, pitch', [(SIZE, 8), ((84, 126), 7)])
def test_a_mirrored_clip_has_mirrored_tracks(size, pitch):
  flow = np.random.default_rng(1).normal(0, 0.5, (1, STEPS, 24, 32, 2)).astype(np.float32)
  there = run(flow, size=size, pitch=pitch)
  back = run(flow[:, :, :, ::-1] * np.array([-1, 1], np.float32), size=size, pitch=pitch)
  positions = back.positions[:, :, :, ::-1] * [-1, 1] + [size[1], 0]
  np.testing.assert_allclose(positions, there.positions, atol=1e-3)
  np.testing.assert_array_equal(back.valid[:, :, ::-1], there.valid)
  assert 0.5 < there.valid.mean() < 1


def test_points_follow_the_content_and_another_flow_is_recorded():
  flow = sampled(MOTIONS['rotation'])
  pan = np.broadcast_to(np.array([3.0, -1.0], np.float32), flow.shape)
  plain = run(flow)
  tracks = run(flow, described=jnp.asarray(flow - pan))
  np.testing.assert_array_equal(tracks.positions, plain.positions)
  np.testing.assert_allclose(tracks.displacements, plain.displacements - [3, -1], atol=1e-4)


# As released.


@pytest.mark.stored
def test_parity():
  z = np.load(FIXTURE)
  flow = np.moveaxis(z['flow'], 1, -1).astype(np.float32)
  tracks = run(flow, size=(64, 64), integer=True)
  displacement = z['displacement'].reshape(1, 2, 4, 8, 8)  # (component, step)
  np.testing.assert_array_equal(np.moveaxis(tracks.displacements, -1, 1), displacement)
  np.testing.assert_array_equal(tracks.positions[:, :4], z['positions'])
  np.testing.assert_array_equal(tracks.valid, z['valid'][0])
  assert 0.5 < tracks.valid.mean() < 1


def test_integer_flow_is_truncated_and_clipped():
  flow = np.broadcast_to(np.array([3.7, -2.2], np.float32), (1, 2, *SIZE, 2))
  assert (run(flow, integer=True).displacements == [3, -2]).all()
  assert not run(0.26 * flow, integer=True).displacements.any()
  tracks = run(10 * flow, integer=True)
  assert (tracks.displacements == [20, -20]).all()
  assert tracks.positions[0, 1, 6, 2].tolist() == [20 + 37, 52 - 22]
  # Half as fine a grid: twice as many pixels of the clip, of which the fraction is lost then.
  assert (run(flow[:, :, ::2, ::2] * 0.5, integer=True).displacements == [3, -2]).all()


def test_median():
  rng = np.random.default_rng(2)
  flow = rng.normal(size=(2, 3, 6, 7, 2)).astype(np.float32)
  padded = np.pad(flow, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode='edge')
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
  np.testing.assert_array_equal(jax.jit(median)(flow), np.median(windows, axis=(-2, -1)))
