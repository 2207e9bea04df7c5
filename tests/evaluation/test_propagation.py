"""Label propagation, against published numbers and plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.evaluation.propagation import (
  PRESETS,
  Protocol,
  decide,
  kth_largest,
  propagate,
  remember_first,
)

PLAIN = Protocol(size='native', topk=5, last=3, shape='square', radius=1, temperature=0.1)


def run(features, labels, grid, protocol, chunk=128):
  """Labels of every frame after the first."""
  memory = remember_first(jnp.asarray(features[0]), jnp.asarray(labels), protocol=protocol)
  found = []
  for t in range(1, len(features)):
    new, memory = propagate(
      memory, jnp.asarray(features[t]), jnp.int32(t), grid=grid, protocol=protocol, chunk=chunk
    )
    found.append(np.asarray(new))
  return found


def reference(features, labels, grid, p):
  """The same, token by token, as the papers say it."""
  unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in features.astype(np.float64)]
  places = [(y, x) for y in range(grid[0]) for x in range(grid[1])]
  known = [labels.astype(np.float64)]
  for t in range(1, len(features)):
    before = list(range(max(1, t - p.last), t))
    if p.pad:
      before += [0] * (p.last - len(before))
    out = np.zeros_like(known[0])
    for q, (y, x) in enumerate(places):
      candidates = []  # (similarity, labels)
      for i, frame in enumerate([0, *before]):
        for j, (v, u) in enumerate(places):
          if p.shape == 'square':
            near = abs(v - y) <= p.radius and abs(u - x) <= p.radius
          else:
            near = (v - y) ** 2 + (u - x) ** 2 <= p.radius**2
          if near or (i == 0 and not p.limit_first):
            candidates.append((float(unit[t][q] @ unit[frame][j]), known[frame][j]))
      bar = sorted((c[0] for c in candidates), reverse=True)[: p.topk][-1]
      kept = [c for c in candidates if c[0] >= bar - 1e-9]
      weights = np.array([np.exp(c[0] / p.temperature) for c in kept])
      out[q] = weights @ np.array([c[1] for c in kept]) / weights.sum()
    known.append(out)
  return known[1:]


def test_published_example():
  """A 4 x 5 grid and two remembered frames, values made by DINO's own evaluation."""
  p, k, t = np.arange(20)[:, None], np.arange(6), np.arange(3)[:, None, None]
  features = np.sin(0.1 * (p + 1) * (k + 1) + 0.3 * t).astype(np.float32)
  labels = np.zeros((2, 4, 5, 2), np.float32)
  labels[0, 1:3, 1:3, 1] = 1
  labels[1, 1:3, 2:4, 1] = 0.75
  labels[..., 0] = 1 - labels[..., 1]
  labels = labels.reshape(2, 20, 2)
  memory = remember_first(jnp.asarray(features[0]), jnp.asarray(labels[0]), protocol=PLAIN)
  _, memory = propagate(memory, jnp.asarray(features[1]), jnp.int32(1), grid=(4, 5), protocol=PLAIN)
  memory = memory._replace(labels=memory.labels.at[1].set(labels[1]))
  found, _ = propagate(memory, jnp.asarray(features[2]), jnp.int32(2), grid=(4, 5), protocol=PLAIN)
  rows = np.asarray(found[:, 1]).reshape(4, 5)
  np.testing.assert_allclose(rows[1], [0.30291, 0.60889, 0.52012, 0.24481, 0.08183], atol=2e-5)
  np.testing.assert_allclose(rows[2], [0.29684, 0.60818, 0.52335, 0.23906, 0.07724], atol=2e-5)
  np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def made_up(frames, grid, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  n = grid[0] * grid[1]
  features = rng.normal(size=(frames, n, 5)).astype(np.float32)
  return features, np.eye(channels, dtype=np.float32)[rng.integers(channels, size=n)]


# Every preset's choices, in a small grid.
@pytest.mark.parametrize('name', PRESETS)
def test_presets_equal_the_reference(name):
  protocol = dataclasses.replace(PRESETS[name], last=3, radius=PRESETS[name].radius // 10)
  features, labels = made_up(6, (4, 5))
  expected = reference(features, labels, (4, 5), protocol)
  for found, wanted in zip(run(features, labels, (4, 5), protocol), expected, strict=True):
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize('shape', ['square', 'circle'])
@pytest.mark.parametrize('limit_first, pad', [(True, False), (False, True)])
def test_options_equal_the_reference(shape, limit_first, pad):
  protocol = Protocol(
    size='native',
    topk=4,
    last=2,
    shape=shape,
    radius=2,
    limit_first=limit_first,
    temperature=0.3,
    pad=pad,
  )
  features, labels = made_up(5, (3, 6), seed=1)
  expected = reference(features, labels, (3, 6), protocol)
  # 18 tokens, 7 at a time.
  for found, wanted in zip(run(features, labels, (3, 6), protocol, 7), expected, strict=True):
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_equals_of_the_last_one_count():
  """Of four tokens that are all alike, top 2 takes all four: none is preferred by its place."""
  protocol = dataclasses.replace(PLAIN, topk=2, radius=9)
  features = np.ones((2, 4, 3), np.float32)
  labels = np.eye(4, dtype=np.float32)
  (found,) = run(features, labels, (2, 2), protocol)
  np.testing.assert_allclose(found, 0.25, atol=1e-6)


def test_ties_equal_the_reference():
  rng = np.random.default_rng(3)
  directions = np.eye(3, dtype=np.float32)  # Similarities are 0 or 1 exactly.
  features = directions[rng.integers(3, size=(5, 12))]
  labels = np.eye(2, dtype=np.float32)[rng.integers(2, size=12)]
  protocol = dataclasses.replace(PLAIN, topk=3, last=2, radius=2)
  expected = reference(features, labels, (3, 4), protocol)
  for found, wanted in zip(run(features, labels, (3, 4), protocol), expected, strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_more_than_there_are():
  """Asked for more tokens than are near, those that are near count, and no other."""
  protocol = dataclasses.replace(PLAIN, topk=50, radius=0)
  features, labels = made_up(2, (3, 3))
  (found,) = run(features, labels, (3, 3), protocol)
  np.testing.assert_allclose(found, labels, atol=1e-6)


@pytest.mark.parametrize('k', [1, 2, 3, 5, 7])
def test_kth_largest(k):
  x = jnp.asarray([[3.0, 1.0, 3.0], [-jnp.inf, 2.0, 3.0], [0.0, -1.0, 2.0]])
  wanted = np.sort(np.asarray(x).reshape(-1))[::-1][k - 1]
  assert jax.jit(kth_largest, static_argnums=1)(x, k) == wanted


def test_one_program_for_all_frames():
  features, labels = made_up(7, (4, 4), seed=2)
  protocol = dataclasses.replace(PLAIN, topk=3)
  before = propagate._cache_size()
  run(features, labels, (4, 4), protocol)
  assert propagate._cache_size() == before + 1


def test_objects_of_pixels():
  """Bilinear, each channel stretched to its own range, the largest wins."""
  labels = np.zeros((2, 2, 4), np.float32)
  labels[..., 0] = [[0.9, 0.9], [0.9, 0.6]]
  labels[..., 1] = [[0.1, 0.1], [0.1, 0.4]]  # Nowhere the most likely, and yet at its highest.
  found = np.asarray(decide(jnp.asarray(labels.reshape(4, 4)), grid=(2, 2), patch=(4, 2)))
  assert found.shape == (8, 4)
  assert found[-1, -1] == 1 and found[0, 0] == 0
  # Along the lower edge the stretched channels cross in the middle; equal ones go to the lower.
  assert found[-1].tolist() == [0, 0, 1, 1]


def test_a_channel_that_is_the_same_everywhere_stays():
  labels = np.tile([[0.0, 1.0, 0.0]], (4, 1)).astype(np.float32)
  found = decide(jnp.asarray(labels), grid=(2, 2), patch=(2, 2))
  np.testing.assert_array_equal(found, np.ones((4, 4)))
  labels = np.array([[0.3, 0.7], [0.3, 0.1], [0.3, 0.1], [0.3, 0.1]], np.float32)
  found = decide(jnp.asarray(labels), grid=(2, 2), patch=(1, 1))
  np.testing.assert_array_equal(found, [[1, 0], [0, 0]])


@pytest.mark.parametrize(
  'change, part',
  [
    (dict(topk=0), 'topk is 0'),
    (dict(last=0), 'last is 0'),
    (dict(shape='round'), "no 'round'"),
    (dict(radius=-1), 'radius is -1'),
    (dict(temperature=0.0), 'temperature 0'),
  ],
)
def test_mistakes(change, part):
  with pytest.raises(UserError, match=part):
    dataclasses.replace(PLAIN, **change)
