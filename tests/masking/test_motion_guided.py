"""Motion-guided masks: visible tokens follow the flow; counts, parity, golden numbers."""

import functools
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import started
from tests.stored import assert_close
from vmae_jax.errors import UserError
from vmae_jax.masking.base_maps import BASE_MAPS
from vmae_jax.masking.motion_guided import (
  _expose,
  flow_pairs,
  motion_guided,
  token_scores,
  warped_maps,
)
from vmae_jax.motion.flow import Flow

pytestmark = pytest.mark.optimised

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'mgmae_mask_volume.npz'
GRID = (8, 14, 14)
KEY = jax.random.key(0)


def constant_flow(pairs, *, per_frame, size, clips=()):
  """The content moves by `per_frame` (x, y) pixels from each frame to the next."""
  steps = np.array([j - i for i, j in pairs], np.float32)[:, None, None, None]
  shape = len(pairs), size, size, 2
  values = np.broadcast_to(steps * np.array(per_frame, np.float32), shape)
  return Flow(jnp.broadcast_to(values, (*clips, *values.shape)), pairs)


@functools.lru_cache
def draw(*, per_frame=(0.0, 0.0), clips=4, size=56, ratio=0.9, grid=GRID, **options):
  """Masks of several clips with other keys and the same constant flow."""
  flow = constant_flow(flow_pairs(16, **options), per_frame=per_frame, size=size, clips=(clips,))
  rule = functools.partial(motion_guided, grid=grid, ratio=ratio, **options)
  clip = jnp.zeros((clips, 16, 224, 224, 3))
  return jax.jit(jax.vmap(rule))(jax.random.split(KEY, clips), clip, flow)


def seen(mask, grid=GRID):
  """True where a token is visible: 'b t h w'."""
  out = np.zeros((len(mask.visible), np.prod(grid)), bool)
  np.put_along_axis(out, np.asarray(mask.visible), True, 1)
  return out.reshape(-1, *grid)


def with_base(monkeypatch, base):
  monkeypatch.setitem(BASE_MAPS, 'given', lambda key, **_: jnp.asarray(base))


def one_peak(size, y, x, width=16):
  at = np.arange(size)
  return np.exp(-(((at[:, None] - y) / width) ** 2) - ((at - x) / width) ** 2).astype(np.float32)


def maps_of(monkeypatch, base, *, per_frame, **options):
  """All maps from a given base map, with constant flow, at the clip's own size."""
  with_base(monkeypatch, base)
  size = len(base)
  flow = constant_flow(flow_pairs(16, **options), per_frame=per_frame, size=size)
  rule = functools.partial(
    warped_maps, grid=(8, size // 16, size // 16), ratio=0.9, base_map='given', **options
  )
  return np.asarray(jax.jit(rule)(KEY, jnp.zeros((16, size, size, 3)), flow))


# What the released code computes, with the directions of flow right.


def reference_inputs():
  z = np.load(FIXTURE)
  flow = np.einsum('ry,bqfrc,cx->bqyxf', z['flow_rows'], z['flow_factors'], z['flow_columns'])
  pairs = tuple((i, i + 1) for i in range(8)) + tuple((i + 1, i) for i in range(8, 15))
  return z, Flow(jnp.asarray(flow, jnp.float32), pairs)


@pytest.mark.stored
def test_parity(monkeypatch):
  z, flow = reference_inputs()
  for i, base in enumerate(z['base_map']):
    with_base(monkeypatch, base)
    options = dict(grid=(8, 7, 7), ratio=0.91, base_map='given', released_scale=True)
    both = jax.jit(
      lambda *a: (warped_maps(*a, **options), motion_guided(*a, **options))  # noqa: B023
    )
    maps, mask = both(KEY, jnp.zeros((16, 112, 112, 3)), Flow(flow.values[i], flow.pairs))
    assert_close(maps[:, ::8, ::8], z['warped_maps'][i], share=2e-5)
    scores = token_scores(maps, grid=(8, 7, 7), pixels=maps.size)
    assert_close(scores.reshape(8, 49), z['token_scores'][i], share=2e-6)
    assert mask.visible.shape == (8 * (49 - int(0.91 * 49)),)
    # The reference shows 4 tokens a slot, the rule 5: compare through its own released count.
    mask = jax.jit(functools.partial(motion_guided, **options, released_count=True))(
      KEY, jnp.zeros((16, 112, 112, 3)), Flow(flow.values[i], flow.pairs)
    )
    hidden = np.ones(392, bool)
    hidden[np.asarray(mask.visible)] = False
    np.testing.assert_array_equal(hidden, z['masked'][i])


def test_pairs_are_those_towards_the_base_frame():
  middle = {(i, i + 1) for i in range(8)} | {(i, i - 1) for i in range(9, 16)}
  assert set(flow_pairs(16)) == middle and len(flow_pairs(16)) == 15
  assert flow_pairs(4, base_frame='first') == ((1, 0), (2, 1), (3, 2))
  assert len(flow_pairs(16, base_frame='random', top='clip')) == 30
  assert set(flow_pairs(16, warp='forward')) == {(j, i) for i, j in middle}
  wrong = {(i + 1, i) for i in range(8)} | {(i, i - 1) for i in range(9, 16)}
  assert set(flow_pairs(16, released_left_flow=True)) == wrong


@pytest.mark.parametrize('warp', ['backward', 'forward'])
def test_translation(monkeypatch, warp):
  maps = maps_of(monkeypatch, one_peak(224, 112, 112), per_frame=(4.0, 0.0), warp=warp)
  y, x = np.unravel_index(maps.reshape(16, -1).argmax(1), (224, 224))
  assert x.tolist() == list(range(80, 144, 4))
  assert (y == 112).all()


def test_released_left_flow(monkeypatch):
  maps = maps_of(
    monkeypatch, one_peak(224, 112, 112), per_frame=(4.0, 0.0), released_left_flow=True
  )
  x = maps[:, 112].argmax(1)
  assert x.tolist() == [144, 140, 136, 132, 128, 124, 120, 116, *range(112, 144, 4)]


def test_first_and_random_base_frame(monkeypatch):
  base = one_peak(224, 40, 40)
  first = maps_of(monkeypatch, base, per_frame=(2.0, 1.0), base_frame='first')
  assert first[:, :, :].max(1).argmax(1).tolist() == list(range(40, 72, 2))
  with_base(monkeypatch, base)
  flow = constant_flow(flow_pairs(16, base_frame='random'), per_frame=(2.0, 1.0), size=224)
  rule = functools.partial(warped_maps, grid=GRID, ratio=0.9, base_map='given', base_frame='random')
  keys = jax.random.split(KEY, 6)
  maps = jax.jit(jax.vmap(rule, (0, None, None)))(keys, jnp.zeros((16, 224, 224, 3)), flow)
  starts = [int(np.abs(m - base).max((1, 2)).argmin()) for m in maps]
  assert len(set(starts)) > 2
  for start, m in zip(starts, maps, strict=True):
    expected = [40 + 2 * (k - start) for k in range(16)]
    assert np.asarray(m).max(1).argmax(1).tolist() == expected


def test_a_lone_peak_scores_436():
  base = np.tile(one_peak(224, 103.5, 103.5), (16, 1, 1))  # Not divided by its maximum.
  scores = token_scores(jnp.asarray(base), grid=GRID, pixels=16 * 224 * 224)
  assert float(scores[0, 6, 6]) == pytest.approx(436.0, abs=0.05)
  # A coarser grid gives the same scores but for the rounding of the peak.
  coarse = base.reshape(16, 56, 4, 56, 4).mean((2, 4))
  same = token_scores(jnp.asarray(coarse), grid=GRID, pixels=16 * 224 * 224)
  np.testing.assert_allclose(same, scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('holes, kept', [('consistent', 1.0), ('previous', 1.0), ('none', 0.0)])
def test_holes_are_filled_everywhere(monkeypatch, holes, kept):
  base = one_peak(64, 30, 30)
  maps = maps_of(monkeypatch, base, per_frame=(900.0, 0.0), holes=holes)
  expected = np.tile(base * np.float32(kept), (16, 1, 1))
  expected[8] = base
  np.testing.assert_array_equal(maps, expected)


def test_holes_are_filled_from_the_base_map_or_the_neighbour(monkeypatch):
  base = np.random.default_rng(0).uniform(0.1, 1, (64, 64)).astype(np.float32)
  for holes in ('consistent', 'previous'):
    maps = maps_of(monkeypatch, base, per_frame=(16.0, 0.0), holes=holes)
    before = base if holes == 'consistent' else maps[10]
    np.testing.assert_allclose(maps[11][:, 16:], maps[10][:, :-16], atol=1e-6)
    np.testing.assert_array_equal(maps[11][:, :15], before[:, :15])
  assert np.abs(maps[10] - base)[:, 20:].max() > 0.1


@pytest.mark.parametrize('name, combine', [('gaussian_max', max), ('gaussian_sum', sum)])
def test_peaks_fall_to_a_part_in_e_within_a_token(name, combine):
  """Two tokens of five pixels, both visible, whose middles are the pixels 2 and 7."""
  draw = functools.partial(BASE_MAPS[name], grid=(1, 2), cell=(5, 5), visible=2)
  row = np.array([combine(math.exp(-(((x - m) / 5) ** 2)) for m in (2, 7)) for x in range(10)])
  column = np.exp(-(((np.arange(5) - 2) / 5) ** 2))
  expected = column[:, None] * row / row.max()
  np.testing.assert_allclose(jax.jit(draw)(KEY), expected, rtol=1e-5)


# Masks.


@pytest.mark.parametrize('options', [{}, {'top': 'clip'}, {'base_frame': 'random'}])
@pytest.mark.parametrize('base_map', ['gaussian_max', 'gaussian_sum', 'pixels', 'tokens'])
def test_counts_and_order(base_map, options):
  mask = draw(per_frame=(1.3, -0.7), base_map=base_map, clips=2, **options)
  assert mask.visible.shape == (2, 160) and mask.masked.shape == (2, 1408)
  both = np.concatenate([mask.visible, mask.masked], axis=1)
  np.testing.assert_array_equal(np.sort(both, 1), np.tile(np.arange(1568), (2, 1)))
  assert (np.diff(mask.visible) > 0).all() and (np.diff(mask.masked) > 0).all()
  slots = seen(mask).sum((2, 3))
  assert (slots.sum(1) == 160).all()
  if 'top' not in options:
    assert (slots == 20).all()
  elif base_map == 'pixels':
    assert (slots != 20).any()


def test_released_count_shows_19():
  mask = draw(released_count=True)
  assert (seen(mask).sum((2, 3)) == 19).all()
  # Twenty peaks are equal: the last one in raster order is dropped, in every slot.
  full = seen(draw())
  for some, every in zip(seen(mask), full, strict=True):
    missing = np.argwhere((every & ~some)[0])
    np.testing.assert_array_equal(missing, np.argwhere(every[0])[-1:])


@pytest.mark.parametrize('base_map', ['gaussian_max', 'gaussian_sum', 'tokens'])
def test_zero_flow_makes_a_tube(base_map):
  tokens = seen(draw(base_map=base_map))
  assert (tokens == tokens[:, :1]).all()
  assert not np.array_equal(tokens[0], tokens[1])


def test_zero_flow_shows_the_peaks():
  flow = constant_flow(flow_pairs(16), per_frame=(0.0, 0.0), size=56)
  clip = jnp.zeros((16, 224, 224, 3))
  both = jax.jit(
    lambda key: (
      motion_guided(key, clip, flow, grid=GRID, ratio=0.9),
      warped_maps(jax.random.split(key)[0], clip, flow, grid=GRID, ratio=0.9)[8],
    )
  )
  mask, base = both(KEY)
  tokens = np.asarray(base).reshape(14, 4, 14, 4).max((1, 3))
  visible = np.zeros(1568, bool)
  visible[np.asarray(mask.visible)] = True
  np.testing.assert_array_equal(visible.reshape(GRID)[0], tokens > 0.999)


def test_visible_tokens_move_with_the_content():
  tokens = seen(draw(per_frame=(2.0, 0.0)))  # Of a coarse grid: half a token a frame.
  # One token to the right in each slot; what enters at the left is another thing.
  for slot in range(7):
    ahead, behind = tokens[:, slot + 1, :, 8:], tokens[:, slot, :, 7:-1]
    assert (ahead & behind).sum() >= 0.9 * behind.sum()
  assert (tokens[:, 4] & tokens[:, 5]).sum() < 0.5 * tokens[:, 4].sum()


def test_exposure_changes_one_slot():
  changed = set()
  plain, noisy = seen(draw(base_map='pixels')), seen(draw(base_map='pixels', exposure=1.0))
  for before, after in zip(plain, noisy, strict=True):
    slots = np.flatnonzero((before != after).any((1, 2)))
    assert len(slots) <= 1
    changed |= set(slots.tolist())
  assert len(changed) > 1
  assert (noisy.sum((2, 3)) == 20).all()


def test_exposure_is_equally_likely_in_each_slot():
  expose = functools.partial(_expose, scores=jnp.zeros((4, 3, 3)), chance=0.3)
  noise = np.asarray(jax.jit(jax.vmap(expose))(jax.random.split(KEY, 600)))
  slots = (noise != 0).all((2, 3))
  assert (slots.sum(1) <= 1).all() and 0.25 < slots.any(1).mean() < 0.35
  assert 0.04 < slots.mean(0).min() and slots.mean(0).max() < 0.11
  assert abs(noise[slots].mean()) < 0.1 and abs(noise[slots].std() - 1) < 0.1


@pytest.mark.parametrize(
  'options, words',
  [
    ({'base_map': 'gauss'}, 'gaussian_max'),
    ({'base_frame': 'last'}, 'random'),
    ({'warp': 'backwarp'}, 'backward'),
    ({'holes': 'prev'}, 'previous'),
    ({'top': 'all'}, 'clip'),
    ({'warp': 'forward', 'released_scale': True}, 'released_scale'),
    ({'size': 50}, '50 x 50'),
  ],
)
def test_mistakes(options, words):
  with pytest.raises(UserError, match=words):
    draw(**options)


ON_EIGHT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from configs import mgmae
from vmae_jax.sharding import batch_sharding, make_mesh
from vmae_jax.method.build import build_method
from vmae_jax.models.patches import unit_range

method = build_method(mgmae.get_config('smoke'))
index = np.arange(8, dtype=np.int32)
video = np.random.default_rng(0).integers(0, 256, (8, 4, 8, 8, 3), np.uint8)
video = video.repeat(2, 1).repeat(4, 2).repeat(4, 3)  # Smooth enough to have a flow.
keys = jax.vmap(jax.random.key)(index)

def visible(keys, video):
  clip = unit_range(video)
  return method.masking(keys, clip, method.flow({'video': clip}, {})).visible

one = jax.jit(visible)(keys, video)
mesh = make_mesh()
with jax.set_mesh(mesh):
  split = batch_sharding(mesh)
  keys, video = jax.device_put(keys, split), jax.device_put(video, split)
  eight = jax.jit(visible, out_shardings=split)(keys, video)
assert len(eight.sharding.device_set) == 8 and len(one.sharding.device_set) == 1
assert len({row.tobytes() for row in np.asarray(one)}) == 8
np.testing.assert_array_equal(one, eight)
"""


def test_masks_are_the_same_on_one_device_and_on_eight():
  done = subprocess.run(
    [sys.executable, '-c', ON_EIGHT],
    env=started.environment(8),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
