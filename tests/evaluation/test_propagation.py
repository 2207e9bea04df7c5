"""Label propagation, against what released code makes of the same features and masks."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.evaluation import segmentation
from vmae_jax.evaluation.propagation import (
  PRESETS,
  Protocol,
  decide,
  kth_largest,
  propagate,
  remember_first,
)
from vmae_jax.evaluation.sequences import Clip

RELEASED = np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 'propagation.npz')

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
  memory = memory._replace(labels=memory.labels.at[2].set(labels[1]))
  found, _ = propagate(memory, jnp.asarray(features[2]), jnp.int32(2), grid=(4, 5), protocol=PLAIN)
  rows = np.asarray(found[:, 1]).reshape(4, 5)
  np.testing.assert_allclose(rows[1], [0.30291, 0.60889, 0.52012, 0.24481, 0.08183], atol=2e-5)
  np.testing.assert_allclose(rows[2], [0.29684, 0.60818, 0.52335, 0.23906, 0.07724], atol=2e-5)
  np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def features_of_released():
  """34 frames of 5 x 32 tokens: a pattern that moves a token every fourth frame, and noise."""
  rng = np.random.RandomState(3)  # Its numbers are the same for ever.
  pattern = rng.randint(-127, 128, (5, 66, 16))
  frames = []
  for t in range(34):
    noise = rng.randint(-127, 128, (5, 32, 16))
    frames.append(pattern[:, t // 4 : t // 4 + 32] + noise)
  return np.array(frames, np.float32)


def mask_of_released(height, width):
  mask = np.zeros((height, width), np.uint8)
  mask[2:14, 10:50], mask[5:20, 70:101], mask[9:17, 30:44], mask[:7, 88:97] = 1, 2, 3, 1
  return mask


def segment_as_released(monkeypatch, protocol, *, width):
  """Labels of tokens and masks of all frames but the first; frames show their number."""
  features, labels = features_of_released(), []

  def read(indices):
    return np.stack([np.full((20, width, 3), i, np.uint8) for i in indices])

  def watched(*args, **options):
    found = propagate(*args, **options)
    labels.append(np.asarray(found[0])[:, :4])
    return found

  monkeypatch.setattr(segmentation, 'propagate', watched)
  masks = segmentation.segment(
    Clip('clip', tuple(map(str, range(34))), read, pathlib.Path('mask.png')),
    mask_of_released(20, width),
    lambda video, slot: jnp.asarray(features[video[0, 0, 0, 0]]),
    protocol=protocol,
    patch=(2, 4, 4),
  )
  return np.stack(list(masks)[1:]), np.stack(labels)


@pytest.mark.parametrize('name', PRESETS)
def test_presets_equal_released_code(name, monkeypatch):
  """Numbers of the preset itself; frames are small, so that only their size is another.

  Values come from the released evaluations themselves, run from pictures and masks on disk to
  the masks that they write, with these features in place of their networks, on patches of 4
  pixels: `eval_video_tracking_davis` of facebookresearch/dino (7c446df) and huiwon-jang/RSP
  (5ea2b91), `test` with `VOSDataset` of ajabri/videowalk (047f3f4) and of
  alexandre-eymael/CropMAE (5d0dab2), `VanillaTracker.forward_test` of xvjiarui/VFS (8e055cc).
  """
  # DINO's and RSP's frames are no whole patches: 130 columns become 128.
  size, width = {'dino': ('20/64', 130), 'rsp': ('20x128', 130)}.get(name, ('native', 128))
  protocol = dataclasses.replace(PRESETS[name], size=size)
  masks, labels = segment_as_released(monkeypatch, protocol, width=width)
  kept = labels[[0, 1, 20, 21, 32]]
  np.testing.assert_allclose(kept, RELEASED[f'{name}_labels'], atol=1e-5)
  # Where two objects are as likely, rounding chooses.
  assert (masks != RELEASED[f'{name}_masks']).sum() <= 10


def test_a_circle_holds_what_is_nearer_than_its_radius():
  """Of a row of five tokens, radius 2: two to the left is none of them, one is."""
  protocol = dataclasses.replace(PLAIN, shape='circle', radius=2, temperature=1.0)
  features, labels = np.ones((2, 5, 1), np.float32), np.eye(5, dtype=np.float32)
  (found,) = run(features, labels, (1, 5), protocol)
  np.testing.assert_allclose(found[2], [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)


def made_up(frames, grid, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  n = grid[0] * grid[1]
  features = rng.normal(size=(frames, n, 5)).astype(np.float32)
  return features, np.eye(channels, dtype=np.float32)[rng.integers(channels, size=n)]


def test_any_number_of_tokens_at_a_time():
  protocol = dataclasses.replace(PLAIN, last=2, radius=2)
  features, labels = made_up(4, (3, 6), seed=1)
  for one, other in zip(
    run(features, labels, (3, 6), protocol, 7), run(features, labels, (3, 6), protocol), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_all_that_tie_with_the_kth_count():
  """Of four tokens that are all alike, top 2 takes all four: none is preferred by its place."""
  protocol = dataclasses.replace(PLAIN, topk=2, radius=9)
  features = np.ones((2, 4, 3), np.float32)
  labels = np.eye(4, dtype=np.float32)
  (found,) = run(features, labels, (2, 2), protocol)
  np.testing.assert_allclose(found, 0.25, atol=1e-6)


def test_exact_k_shares_the_last_places():
  """One token is the most similar, three are alike: of top 2, they share the second place."""
  protocol = dataclasses.replace(PLAIN, topk=2, radius=9, exact_k=True, temperature=1.0)
  features = np.array([[[1, 0], [0, 1], [0, 1], [0, 1]], [[1, 0]] * 4], np.float32)
  (found,) = run(features, np.eye(4, dtype=np.float32), (2, 2), protocol)
  first = np.e / (np.e + 1)
  np.testing.assert_allclose(found[0], [first, *[(1 - first) / 3] * 3], atol=1e-6)


def test_k_above_the_number_of_near_tokens():
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
  """Bilinear, each channel stretched to its own range or not, the largest wins."""
  labels = np.zeros((2, 2, 4), np.float32)
  labels[..., 0] = [[0.9, 0.9], [0.9, 0.6]]
  labels[..., 1] = [[0.1, 0.1], [0.1, 0.4]]  # Nowhere the most likely, and yet at its highest.
  decided = functools.partial(decide, jnp.asarray(labels.reshape(4, 4)), grid=(2, 2), size=(8, 4))
  found = np.asarray(decided(stretch=True))
  assert found.shape == (8, 4)
  assert found[-1, -1] == 1 and found[0, 0] == 0
  # Along the lower edge the stretched channels cross in the middle; equal ones go to the lower.
  assert found[-1].tolist() == [0, 0, 1, 1]
  assert not np.asarray(decided(stretch=False)).any()


def test_a_channel_that_is_the_same_everywhere_stays():
  labels = np.tile([[0.0, 1.0, 0.0]], (4, 1)).astype(np.float32)
  found = decide(jnp.asarray(labels), grid=(2, 2), size=(4, 4), stretch=True)
  np.testing.assert_array_equal(found, np.ones((4, 4)))
  labels = np.array([[0.3, 0.7], [0.3, 0.1], [0.3, 0.1], [0.3, 0.1]], np.float32)
  found = decide(jnp.asarray(labels), grid=(2, 2), size=(2, 2), stretch=True)
  np.testing.assert_array_equal(found, [[1, 0], [0, 0]])


@pytest.mark.parametrize(
  'change, part',
  [
    (dict(topk=0), 'topk is 0'),
    (dict(last=0), 'last is 0'),
    (dict(shape='round'), "no 'round'"),
    (dict(radius=-1), 'radius is -1'),
    (dict(radius=0, shape='circle'), 'circle is at least 1'),
    (dict(pad=-1), 'pad -1'),
    (dict(first_mask='cubic'), "no 'cubic'"),
    (dict(temperature=0.0), 'temperature 0'),
  ],
)
def test_mistakes(change, part):
  with pytest.raises(UserError, match=part):
    dataclasses.replace(PLAIN, **change)
