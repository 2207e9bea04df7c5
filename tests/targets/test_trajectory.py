"""The trajectory target: golden values, order, scale, normalisations."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.stored import assert_close
from vmae_jax.errors import UserError
from vmae_jax.motion.follow import Followed
from vmae_jax.motion.tracking import Tracks, track
from vmae_jax.targets.trajectory import trajectory

pytestmark = pytest.mark.optimised

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'mme_targets.npz'


@functools.lru_cache
def compiled(grid, **options):
  t, h, w = grid

  def function(tracks):
    frames = jnp.zeros((len(tracks.valid) // t, t, 1, h, w, 3))
    return trajectory(frames[:, :, 0], Followed(frames, tracks), patch=(1, 1, 1), **options)

  return jax.jit(function)


def target(tracks, *, grid, **options):
  return np.asarray(compiled(grid, **options)(tracks).values)


def validity(tracks, *, grid):
  return compiled(grid)(tracks).weights[..., 0]


def tracks_of(displacements, valid=None):
  """Tracks 'b L Hc Wc 2' with these steps."""
  d = jnp.asarray(displacements, jnp.float32)
  b, steps, rows, columns, _ = d.shape
  valid = jnp.ones((b, rows, columns), bool) if valid is None else jnp.asarray(valid)
  inside = jnp.broadcast_to(valid[:, None], (b, steps, rows, columns))
  return Tracks(d, jnp.zeros((b, steps + 1, rows, columns, 2)), inside)


def followed(flow, *, size, pitch=8):
  return jax.jit(functools.partial(track, size=size, pitch=pitch))(jnp.asarray(flow))


def smooth_flow(seed=0, *, steps=6, side=64):
  """Waves of a few pixels, in pixels of its own grid."""
  rng = np.random.default_rng(seed)
  at = 2 * np.pi * (np.arange(side) + 0.5) / side
  x, y, phase = at, at[:, None], rng.uniform(0, 6, (2, steps, 2))
  waves = [
    [3 * np.sin(x + a) * np.cos(y + b) + 0.7 * np.sin(2 * x + y + a + b) for a, b in part]
    for part in phase
  ]
  return np.moveaxis(np.array(waves), 0, -1)[None].astype(np.float32)


def noisy(seed=0, *, clips=2, slots=3, steps=4, rows=4, columns=6):
  shape = clips * slots, steps, rows, columns, 2
  return np.random.default_rng(seed).normal(0, 4, shape).astype(np.float32)


@pytest.mark.stored
def test_parity():
  z = np.load(FIXTURE)
  flow = np.moveaxis(z['flow'], 1, -1).astype(np.float32)
  tracks = jax.jit(functools.partial(track, size=(64, 64), integer=True))(flow)
  for normalise, key in (('none', 'traj_target'), ('patch_std', 'traj_target_patch_std')):
    found = target(tracks, grid=(1, 4, 4), normalise=normalise, eps=1e-6)
    assert_close(found, z[key], share=1e-5)


def golden(cells):
  """The target of one token with one step along x, of the given lengths in its cells."""
  d = np.zeros((1, 1, 2, 2, 2))
  d[..., 0] = np.reshape(cells, (2, 2))
  found = target(tracks_of(d), grid=(1, 1, 1), eps=1e-6)
  np.testing.assert_allclose(found[0, 0, 4:], 0, atol=1e-6)
  return found[0, 0, :4]


def test_golden_values():
  np.testing.assert_allclose(golden([3, 3, 3, 3]), 0, atol=1e-6)
  np.testing.assert_allclose(golden([1, 3, 1, 3]), [-0.8660, 0.8660, -0.8660, 0.8660], atol=1e-4)
  np.testing.assert_allclose(golden([0, 0, 0, 2]), [-0.5, -0.5, -0.5, 1.5], atol=1e-4)
  np.testing.assert_allclose(golden([7, 7, 7.01, 7]), [-0.5, -0.5, 1.5, -0.5], atol=0.01)


def test_order_of_tokens_and_values():
  d = noisy()
  found = target(tracks_of(d), grid=(3, 2, 3), normalise='none', scale=5.0)
  assert found.shape == (2, 3 * 2 * 3, 2 * 4 * 4)
  found = found.reshape(2, 3, 2, 3, 2, 4, 2, 2)
  d = d.reshape(2, 3, 4, 4, 6, 2)
  for b, t, y, x, c, step, y2, x2 in [(0, 0, 0, 0, 0, 0, 0, 1), (1, 2, 1, 2, 1, 3, 1, 0)]:
    expected = d[b, t, step, 2 * y + y2, 2 * x + x2, c] / 5
    np.testing.assert_allclose(found[b, t, y, x, c, step, y2, x2], expected, rtol=1e-6)
  np.testing.assert_allclose(np.sort(found, axis=None), np.sort(d / 5, axis=None), rtol=1e-6)


def test_patch_std_is_the_unbiased_score_over_a_tokens_points():
  d = noisy() / 20
  values = d.reshape(2, 3, 4, 2, 2, 3, 2, 2).transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(2, 18, 8, 4)
  mean, std = values.mean(-1, keepdims=True), values.std(-1, ddof=1, keepdims=True)
  found = target(tracks_of(20 * d), grid=(3, 2, 3), eps=0.05)
  np.testing.assert_allclose(found.reshape(2, 18, 8, 4), (values - mean) / (std + 0.05), atol=1e-5)
  assert np.abs(target(tracks_of(d), grid=(3, 2, 3), eps=1e-6)).max() <= 1.5


def test_patch_std_of_rigid_motion_is_zero_and_the_mean_shows_it():
  d = np.broadcast_to(np.array([6.0, -2.0]), (3, 4, 4, 6, 2))
  assert not target(tracks_of(d), grid=(3, 2, 3)).any()
  assert not target(tracks_of(d * [0.6173, 1.1]), grid=(3, 2, 3), eps=1e-6).any()
  found = target(tracks_of(d), grid=(3, 2, 3), mean=True)
  assert found.shape == (1, 18, 2 * 4 * 4 + 2 * 4)
  assert not found[..., :32].any()
  np.testing.assert_allclose(found[..., 32:36], 0.3, rtol=1e-6)
  np.testing.assert_allclose(found[..., 36:], -0.1, rtol=1e-6)


def test_the_mean_is_that_of_the_tokens_points_whatever_the_normalisation():
  d = noisy()
  plain = target(tracks_of(d), grid=(3, 2, 3), normalise='none').reshape(2, 18, 8, 4)
  for normalise in ('none', 'patch_std', 'total_length'):
    found = target(tracks_of(d), grid=(3, 2, 3), normalise=normalise, mean=True)
    np.testing.assert_allclose(found[..., 32:], plain.mean(-1), atol=1e-6)
    without = target(tracks_of(d), grid=(3, 2, 3), normalise=normalise)
    np.testing.assert_array_equal(found[..., :32], without)


def test_one_path_for_each_token_and_one_step_for_each_path():
  """A token's points move by (1, 0), (3, 0), (0, 4) and (0, 0), then each by (1, 1)."""
  d = np.ones((1, 2, 2, 2, 2))
  d[0, 0] = [[(1, 0), (3, 0)], [(0, 4), (0, 0)]]
  found = functools.partial(target, tracks_of(d), grid=(1, 1, 1), normalise='none', scale=1.0)
  np.testing.assert_allclose(found(average=True)[0, 0], [1, 1, 1, 1])
  np.testing.assert_allclose(found(total=True)[0, 0], [2, 4, 1, 1, 1, 1, 5, 1])
  np.testing.assert_allclose(found(average=True, total=True)[0, 0], [2, 2])
  with pytest.raises(UserError, match='patch_std needs several paths'):
    target(tracks_of(d), grid=(1, 1, 1), average=True)


def test_total_length_gives_paths_of_length_one():
  found = target(tracks_of(noisy()), grid=(3, 2, 3), normalise='total_length', eps=1e-6)
  steps = found.reshape(2, 18, 2, 4, 4)
  np.testing.assert_allclose(np.hypot(steps[:, :, 0], steps[:, :, 1]).sum(2), 1, atol=1e-4)


@pytest.mark.parametrize('normalise', ['patch_std', 'total_length'])
def test_noise_of_still_places_is_not_amplified(normalise):
  noise = 0.02 * noisy() / 4  # A fiftieth of a pixel.
  assert np.abs(target(tracks_of(noise), grid=(3, 2, 3), normalise=normalise)).max() < 0.3
  assert np.abs(target(tracks_of(400 * noise), grid=(3, 2, 3), normalise=normalise)).max() > 0.5


@pytest.mark.parametrize('normalise', ['none', 'patch_std', 'total_length'])
def test_a_mirrored_clip_has_negative_x_and_mirrored_cells(normalise):
  flow = smooth_flow()
  options = dict(grid=(1, 4, 4), normalise=normalise, mean=True)
  there = target(followed(flow, size=(64, 64)), **options)
  back = followed(flow[:, :, :, ::-1] * np.array([-1, 1], np.float32), size=(64, 64))
  back = target(back, **options)[0].reshape(4, 4, -1)[:, ::-1].reshape(16, -1)
  points = back[:, :48].reshape(16, 2, 6, 2, 2)[..., ::-1] * np.array([-1, 1])[:, None, None, None]
  means = back[:, 48:].reshape(16, 2, 6) * np.array([-1, 1])[:, None]
  back = np.concatenate([points.reshape(16, -1), means.reshape(16, -1)], 1)
  assert np.abs(there).max() > 0.1
  np.testing.assert_allclose(back, there[0], atol=2e-4)


def test_a_crop_has_the_targets_of_what_it_shows():
  flow = smooth_flow()
  options = dict(normalise='none', mean=True)
  whole = target(followed(flow, size=(64, 64)), grid=(1, 4, 4), **options).reshape(4, 4, -1)
  tracks = followed(flow[:, :, 16:64, 0:48], size=(48, 48))
  part = target(tracks, grid=(1, 3, 3), **options).reshape(3, 3, -1)
  kept = np.asarray(tracks.valid).reshape(3, 2, 3, 2).all((1, 3))
  assert kept.sum() >= 3
  # Less than half a pixel of the crop's edge is looked up otherwise than within the whole.
  np.testing.assert_allclose(part[kept], whole[1:, :3][kept], atol=0.02)


def test_a_resized_clip_has_the_targets_in_its_own_pixels():
  flow = smooth_flow()
  options = dict(grid=(1, 4, 4), normalise='none')
  small = target(followed(flow, size=(64, 64)), **options)
  large = followed(2 * smooth_flow(side=128), size=(128, 128), pitch=16)
  np.testing.assert_allclose(target(large, **options), 2 * small, atol=0.01)
  # The flow's own grid makes no difference: it is turned into pixels of the clip.
  same = followed(flow, size=(128, 128), pitch=16)
  np.testing.assert_allclose(target(same, **options), 2 * small, atol=1e-5)


def test_a_still_clip_has_no_motion():
  tracks = followed(np.zeros((1, 6, 16, 16, 2), np.float32), size=(64, 64))
  for normalise in ('none', 'patch_std', 'total_length'):
    assert not target(tracks, grid=(1, 4, 4), normalise=normalise, mean=True).any()
  assert (validity(tracks, grid=(1, 4, 4)) == 1).all()


def test_a_token_is_valid_if_one_of_its_points_is():
  valid = np.zeros((6, 4, 6), bool)
  valid[4, 3, 1] = True
  found = validity(tracks_of(noisy(), valid), grid=(3, 2, 3))
  expected = np.zeros((2, 3, 2, 3))
  expected[1, 1, 1, 0] = 1
  np.testing.assert_array_equal(found, expected.reshape(2, 18))
  assert compiled((3, 2, 3), lost=True)(tracks_of(noisy(), valid)).weights is None


def test_unknown_normalisations_are_named():
  with pytest.raises(UserError, match="'patch'.*none, patch_std, total_length"):
    target(tracks_of(noisy()), grid=(3, 2, 3), normalise='patch')


# Three tokens of TrackMAE's released targets (its branch without --upsample, patch normalisation)
# for points of 28 x 28 that take these random steps in 8 slots: (slot, row, column) -> values in
# its order (point, component).
TRACKMAE = {
  (0, 0, 0): [1.16458, -0.21947, 0.41513, 1.4292, -0.45544, -0.30696, -1.12427, -0.90277],
  (5, 3, 9): [0.73506, -0.49142, 0.93079, -0.78068, -0.51215, -0.18247, -1.15369, 1.45456],
  (7, 13, 13): [1.22391, 0.21094, 0.40853, 0.6701, -0.85308, -1.46968, -0.77932, 0.58864],
}


def test_steps_of_one_track_are_trackmaes_targets():
  steps = np.random.RandomState(0).normal(0, 3, (7, 28, 28, 2))
  steps = np.concatenate([steps, steps[-1:]])[:, None]  # A slot's one step.
  target = compiled((8, 14, 14), eps=1e-6 / 20)(tracks_of(steps))
  found = np.asarray(target.values).reshape(8, 14, 14, 2, 4)
  for token, values in TRACKMAE.items():
    np.testing.assert_allclose(found[token].T.reshape(-1), values, atol=1e-4)
