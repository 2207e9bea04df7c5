"""Files of frozen networks."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from vmae_jax.errors import UserError
from vmae_jax.frozen.files import load_params, save_params

TREE = {
  'a': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3).T, 'n': np.int32(3)},
  'b': np.arange(4, dtype=np.float16),
}
CONFIG = {'widths': [1, 2], 'name': 'x'}


@pytest.fixture
def path(tmp_path):
  path = tmp_path / 'sub' / 'net.safetensors'
  save_params(path, TREE, kind='thing', config=CONFIG)
  return path


def test_what_is_written_is_read(path):
  tree, config = load_params(path, kind='thing')
  assert config == CONFIG
  assert jax.tree.structure(tree) == jax.tree.structure(TREE)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a, b)


def test_other_libraries_can_read_it_and_no_other_file_is_left(path):
  with safe_open(path, framework='numpy') as f:
    assert set(f.keys()) == {'a/kernel', 'a/n', 'b'}
    metadata = f.metadata()
  assert list(metadata) == ['vmae_jax'] and json.loads(metadata['vmae_jax'])['kind'] == 'thing'
  assert [p.name for p in path.parent.iterdir()] == ['net.safetensors']


def test_a_failed_write_leaves_the_old_file(path):
  before = path.read_bytes()
  with pytest.raises(TypeError):
    save_params(path, TREE, kind='thing', config={'x': object()})
  folder = path.parent / 'folder'
  folder.mkdir()
  with pytest.raises(UserError, match='cannot write.*folder'):
    save_params(folder, TREE, kind='thing', config=CONFIG)
  assert path.read_bytes() == before
  assert sorted(p.name for p in path.parent.iterdir()) == ['folder', 'net.safetensors']


def test_mistakes(path, tmp_path):
  with pytest.raises(UserError, match='there is no file .*nothing'):
    load_params(tmp_path / 'nothing', kind='thing')
  with pytest.raises(UserError, match='holds a thing, not a vqgan'):
    load_params(path, kind='vqgan')
  foreign = tmp_path / 'foreign.safetensors'
  save_file({'a': np.zeros(2)}, foreign)
  with pytest.raises(UserError, match='not one of vmae_jax.*convert'):
    load_params(foreign, kind='thing')
  data = path.read_bytes()
  for name, damaged in (('cut', data[:-3]), ('text', b'hello'), ('empty', b'')):
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(UserError, match=f'{name} is no safetensors file or a damaged one'):
      load_params(tmp_path / name, kind='thing')
