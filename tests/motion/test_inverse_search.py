"""The estimator without weights finds known motions, in the right direction, at all sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import started
from vmae_jax.motion import inverse_search as inverse_search_lib
from vmae_jax.motion.inverse_search import MAX_SIDE, inverse_search
from vmae_jax.motion.inverse_search_kernel import search_kernel

PAIRS = ((0, 1), (1, 0))


@functools.lru_cache
def texture(size, seed=0):
  """A function of positions (in sides of the frame) with detail at several scales."""
  rng = np.random.default_rng(seed)
  waves = rng.normal(size=(40, 2)) * rng.uniform(0.5, size / 10, (40, 1))
  phases, sizes = rng.uniform(0, 2 * np.pi, 40), 1 / (1 + np.hypot(*waves.T))

  def at(x, y):
    angle = 2 * np.pi * (x[..., None] * waves[:, 0] + y[..., None] * waves[:, 1]) + phases
    return 0.5 + 0.35 * np.sin(angle) @ sizes / np.sqrt(np.square(sizes).sum())

  return at


def moved(flow, size, seed=0):
  """Frame 0 shows frame 1 at p + flow(p)."""
  x, y = np.meshgrid(np.arange(size) / size, np.arange(size) / size)
  at = texture(size, seed)
  frames = np.stack([at(x + flow[..., 0] / size, y + flow[..., 1] / size), at(x, y)])
  return np.clip(frames, 0, 1)[..., None].repeat(3, -1).astype(np.float32)


@functools.lru_cache
def jitted(pairs):
  return jax.jit(functools.partial(inverse_search, pairs=pairs))


def errors(clip, flow):
  """End-point errors in pixels of the clip, away from content that leaves."""
  size = clip.shape[2]
  found = np.asarray(jitted(PAIRS)(jnp.asarray(clip)))
  factor = size // found.shape[2]
  coarse = flow.reshape(size // factor, factor, size // factor, factor, 2).mean((1, 3))
  there = np.linalg.norm(factor * found[:, 0] - coarse, axis=-1)
  back = np.linalg.norm(factor * found[:, 1] + coarse, axis=-1)
  return there, back


def motions(size):
  y, x = np.mgrid[:size, :size] - (size - 1) / 2
  zeros = np.zeros((size, size, 2))
  turn = np.deg2rad(3)
  return {
    'still': zeros,
    'right': zeros + [size / 32, 0.0],
    'up and left': zeros + [-size / 40, -size / 28],
    'far': zeros + [size / 12, 0.0],
    'rotation': np.stack([(np.cos(turn) - 1) * x - np.sin(turn) * y, np.sin(turn) * x], -1),
    'zoom': 0.04 * np.stack([x, y], -1),
  }


@pytest.mark.parametrize('size', [32, 64, 224])
def test_known_motions(size):
  there = motions(size)
  clips = np.stack([moved(flow, size) for flow in there.values()])
  forth, back = zip(
    *(errors(c[None], f) for c, f in zip(clips, there.values(), strict=True)), strict=True
  )
  for name, a, b in zip(there, forth, back, strict=True):
    assert np.median(a) < 0.5 and np.median(b) < 0.6, (name, np.median(a), np.median(b))
  assert np.max(forth[0]) < 1e-3  # Nothing moves.


def test_noise_and_brightness():
  flow = motions(64)['up and left']
  clip = moved(flow, 64)
  noisy = np.clip(clip + np.random.default_rng(0).normal(0, 0.03, clip.shape), 0, 1)
  assert np.median(errors(noisy[None].astype(np.float32), flow)[0]) < 0.6
  dark = clip * np.array([1, 0.8])[:, None, None, None] + 0.05
  assert np.median(errors(dark[None].astype(np.float32), flow)[0]) < 0.4


def test_places_without_detail_follow_their_surroundings():
  flow = motions(64)['right']
  x, y = np.meshgrid(np.arange(64) / 64, np.arange(64) / 64)

  def flat(shift):  # A disc that moves with the content and shows nothing.
    return np.clip(24 * (0.2 - np.hypot(x + shift / 64 - 0.5, y - 0.5)), 0, 1)[..., None]

  clip = moved(flow, 64)
  discs = np.stack([flat(flow[0, 0, 0]), flat(0.0)])
  clip = (clip * (1 - discs) + 0.5 * discs).astype(np.float32)
  error = errors(clip[None], flow)[0][0]
  assert np.median(error[30:34, 28:32]) < 1


def test_clips_and_pairs_do_not_mix():
  one, other = moved(motions(32)['right'], 32), moved(motions(32)['up and left'], 32, seed=1)
  both = np.asarray(jitted(PAIRS)(jnp.asarray(np.stack([one, other]))))
  alone = np.asarray(jitted(PAIRS)(jnp.asarray(other[None])))
  np.testing.assert_allclose(both[1], alone[0], atol=1e-4)
  swapped = np.asarray(jitted(PAIRS[::-1])(jnp.asarray(other[None])))
  np.testing.assert_allclose(swapped[:, ::-1], alone, atol=1e-4)


@pytest.mark.parametrize('height, width', [(224, 224), (100, 60), (150, 33)])
def test_grid(height, width):
  shape = jax.eval_shape(
    functools.partial(inverse_search, pairs=PAIRS), jnp.zeros((1, 2, height, width, 3))
  ).shape
  factor = 1 if max(height, width) <= MAX_SIDE else 2
  assert shape == (1, 2, -(-height // factor), -(-width // factor), 2)


def test_a_small_thing_that_moves_against_its_background():
  size, radius, fast = 64, 8, np.array([7.0, -4.0])
  x, y = np.meshgrid(np.arange(size), np.arange(size))
  slow = np.array([-3.0, 2.0])
  ground = moved(np.zeros((size, size, 2)) + slow, size)
  thing = moved(np.zeros((size, size, 2)) + fast, size, seed=1)
  here = np.hypot(x + fast[0] - 36, y + fast[1] - 30) <= radius  # In frame 0; at 36, 30 in 1.
  there = np.hypot(x - 36, y - 30) <= radius
  clip = np.where(np.stack([here, there])[..., None], thing, ground)
  flow = np.where(here[..., None], fast, slow)
  error = errors(clip[None], flow)[0][0]
  covered = np.hypot(x + slow[0] - 36, y + slow[1] - 30) <= radius + 2
  assert np.mean(error[here] < 1) > 0.8
  assert np.mean(error[~here & ~covered] < 1) > 0.8


def test_no_product_is_rounded_on_accelerators():
  search = functools.partial(inverse_search, pairs=((0, 1),))
  program = str(jax.make_jaxpr(search)(jnp.zeros((1, 2, 32, 32, 3))))
  assert program.count('dot_general[') == program.count('precision=(Precision.HIGHEST') > 0


@pytest.mark.parametrize('size', [(24, 32), (112, 100)])
def test_a_tpu_looks_up_the_same(size):
  """Far outside, too: without a round the search weighs what is shown where patches are."""
  rng = np.random.default_rng(0)
  first, second = jnp.asarray(rng.random((2, 2, *size), np.float32))
  places = tuple((n - 8) // 4 + 1 for n in size)
  moved = jnp.asarray(rng.normal(size=(2, 2, np.prod(places))) * size[1] / 3, jnp.float32)
  options = dict(rounds=0, steps=0, damping=1e-3, noise=1e-3)
  searches = inverse_search_lib._search, search_kernel
  expected, found = (search(first, second, moved, places, **options) for search in searches)
  np.testing.assert_array_equal(found[0], moved)
  np.testing.assert_allclose(1 / found[1], 1 / expected[1], atol=1e-5)


def test_a_tpu_takes_the_same_means_of_patches():
  flow = jnp.asarray(np.random.default_rng(0).normal(size=(3, 24, 32)), jnp.float32)
  found = inverse_search_lib._apply(*map(inverse_search_lib._mean, (24, 32)), flow)
  expected = inverse_search_lib._cut(flow).mean((1, 2)).reshape(3, 5, 7)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_tpu_finds_the_same_flow(monkeypatch):
  """By the kernel, interpreted; in frames of several levels, whose sides differ."""
  clip = jnp.asarray(moved(motions(64)['rotation'], 64)[None, :, 3:45])
  expected = jitted(PAIRS)(clip)
  monkeypatch.setattr(inverse_search_lib, '_search', search_kernel)
  found = jax.jit(functools.partial(inverse_search, pairs=PAIRS))(clip)
  # Where a patch has little detail, the rounding of float32 alone moves it by 1e-4.
  np.testing.assert_allclose(found, expected, atol=2e-4)
  assert abs(found - expected).mean() < 5e-6


FOR_TPUS = """
import jax, jax.numpy as jnp
from vmae_jax import sharding
from vmae_jax.motion.inverse_search import inverse_search
from vmae_jax.planning.program import read_collectives, read_cycles
from vmae_jax.planning.slices import slice_devices

jax.config.update('jax_platforms', 'cpu')
for name in ('v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'):
  mesh = sharding.make_mesh(devices=slice_devices(name))
  place = sharding.batch_sharding(mesh)
  clip = jax.ShapeDtypeStruct((4, 2, 64, 48, 3), jnp.float32, sharding=place)
  with jax.set_mesh(mesh):
    search = jax.jit(lambda clip: inverse_search(clip, pairs=((0, 1), (1, 0))))
    text = search.lower(clip).compile().as_text()
  assert text.count('search_kernel') and sum(read_cycles(text).values()) > 50_000, name
  assert not read_collectives(text, devices=4), name
"""


@pytest.mark.slow
@started.NEEDS_LIBTPU
def test_compiles_for_every_tpu_and_each_device_searches_its_own_pairs():
  started.compile_for_tpus(FOR_TPUS)
