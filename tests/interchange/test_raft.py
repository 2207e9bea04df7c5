"""RAFT equals a peer in torch, with weights under torchvision's and princeton-vl's names."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interchange import peer_raft
from tests.stored import assert_close
from vmae_jax.errors import UserError
from vmae_jax.frozen.raft import RAFT
from vmae_jax.interchange.raft import param_shapes, raft_from_torch, raft_kind

pytestmark = pytest.mark.optimised

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'raft_tiny.npz'
SIZES = pytest.mark.parametrize('size', list(peer_raft.SPECS))


@functools.cache
def converted(size):
  return raft_from_torch(peer_raft.weights(size))


def ours(size, first, second, iterations):
  """Flow at an eighth of the size and at full size."""
  found, params = converted(size)
  assert found == {'size': size}

  def run(model, first, second):
    features = model.features(jnp.concatenate([first, second]))
    return model.refine(*jnp.split(features, 2), model.context(first))

  model = RAFT(size, iterations)
  return peer_raft.jit(lambda *frames: model.apply({'params': params}, *frames, method=run))(
    first, second
  )


@pytest.mark.stored
@SIZES
def test_stored_values(size):
  first, second = (frame[None] for frame in peer_raft.frames(128, 136))
  eighth, full = ours(size, first, second, peer_raft.ITERATIONS)
  with np.load(FIXTURE) as stored:
    # Seen at most: 3e-6 at an eighth, 1e-5 at full size (see `assert_close`).
    assert_close(eighth, stored[f'{size}:eighth'], share=1e-5)
    assert_close(full[:, ::7, ::5], stored[f'{size}:full'], share=2e-5)


@pytest.mark.full
@pytest.mark.parametrize(
  'size, iterations',
  [('small', 6), *(pytest.param(*x, marks=pytest.mark.slow) for x in (('small', 1), ('large', 6)))],
)
def test_live(size, iterations):
  frames = [peer_raft.frames(128, 160, seed=seed) for seed in (4, 5)]
  first, second = (np.stack(x) for x in zip(*frames, strict=True))
  theirs = peer_raft.torch_flow(size, peer_raft.weights(size), first, second, iterations=iterations)
  for a, b in zip(ours(size, first, second, iterations), theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)


@pytest.mark.parametrize('size, count', [('small', 990_162), ('large', 5_257_536)])
def test_parameters_as_published(size, count):
  assert sum(x.size for x in jax.tree.leaves(param_shapes(size))) == count


@SIZES
def test_princetons_names_give_the_same(size):
  renamed = peer_raft.princeton(peer_raft.weights(size))
  assert raft_kind(renamed) and raft_kind(peer_raft.shapes(size))
  # The names and shapes of the code itself, of both.
  assert {n: x.shape for n, x in renamed.items()} == peer_raft.shapes(size, 'princeton')
  duplicates = [name for name in renamed if 'norm3' in name]
  assert len(duplicates) == {'small': 0, 'large': 10}[size]
  found, params = raft_from_torch(renamed)
  assert found == {'size': size}
  jax.tree.map(np.testing.assert_array_equal, params, converted(size)[1])


def test_other_tensors_are_no_raft():
  assert not raft_kind(['encoder.conv_in.weight', 'cnet.conv1.weight'])


def test_wrong_tensors_are_named():
  good = peer_raft.weights('large')
  some = [name for name in good if name.startswith('feature_encoder')]
  with pytest.raises(
    UserError, match=rf'{len(some)} tensors are missing: (feature_encoder\S+; ){{6}}and'
  ):
    raft_from_torch({name: value for name, value in good.items() if name not in some})
  variance = 'context_encoder.layer2.0.downsample.1.running_var'
  with pytest.raises(UserError, match=rf'1 tensors are missing: {variance}\.'):
    raft_from_torch({name: value for name, value in good.items() if name != variance})
  with pytest.raises(UserError, match=r'1 tensors .* no place in it: extra.weight\.'):
    raft_from_torch(good | {'extra.weight': np.zeros(3, np.float32)})
  with pytest.raises(UserError, match=rf'1 tensors .* other shapes: {variance} \(3,\)\.'):
    raft_from_torch(good | {variance: np.ones(3, np.float32)})
  with pytest.raises(UserError, match=r'1 tensors .* twice: module.feature_encoder.conv.bias\.'):
    name = 'feature_encoder.conv.bias'
    raft_from_torch(good | {f'module.{name}': good[name]})


def test_a_second_name_with_other_values_is_refused():
  renamed = peer_raft.princeton(peer_raft.weights('large'))
  renamed['module.cnet.layer3.0.norm3.bias'] = renamed['module.cnet.layer3.0.norm3.bias'] + 1
  with pytest.raises(UserError, match=r'no place in it: context_encoder.layer3.0.norm3.bias\.'):
    raft_from_torch(renamed)
