"""What is loaded equals what was saved, in this checkpoint or an earlier one."""

import contextlib
import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from vmae_jax import lock
from vmae_jax.errors import Unavailable, UserError
from vmae_jax.runs import checkpoint, checkpointer
from vmae_jax.runs.checkpoint import digests
from vmae_jax.runs.checkpointer import Checkpointer
from vmae_jax.runs.run_dir import make_run_dir

# Errors of reads that orbax started beside the one that it has told.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

EXTRA = {'log': {'sums': {'loss': 0.1, 'good': 3}}}
CONFIG = {'seed': 0, 'patch': (2, 16, 16)}


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  moments: Any


def make_state(step, width=64):
  """A small state of `step` steps, different at each."""
  normal = np.random.default_rng(step).normal(size=(width, 32)).astype(np.float32)
  params = {'kernel': jnp.asarray(normal), 'bias': jnp.full(32, step, jnp.float32)}
  params = {'encoder': params, 'decoder': params}
  return State(jnp.int32(step), params, jax.tree.map(jnp.square, params))


def like(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def opened(workdir, keep=2):
  return Checkpointer(str(workdir), keep=keep, keep_every_steps=0, config=CONFIG)


def restore(workdir, like_=None):
  with contextlib.closing(opened(workdir)) as saver:
    return saver.restore(like_ or like(make_state(0)))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A run with the checkpoints 1 and 2."""
  workdir = tmp_path_factory.mktemp('saved') / 'run'
  saver = opened(workdir)
  for step in (1, 2):
    saver.save(step, make_state(step), EXTRA)
  saver.close()
  return workdir


@pytest.fixture
def copied(saved, tmp_path):
  return Path(shutil.copytree(saved, tmp_path / 'run'))


def assert_equal(state, step):
  wanted = make_state(step)
  assert jax.tree.structure(state) == jax.tree.structure(wanted)
  for found, right in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(found, right)


def test_what_is_saved_is_restored(saved):
  step, state, extra = restore(saved)
  assert step == 2 and extra == EXTRA
  assert_equal(state, 2)


def test_nothing_to_restore(tmp_path):
  assert restore(tmp_path) is None
  assert not list((tmp_path / 'checkpoints').iterdir())  # Nothing is left of the trial save.


# What can happen to a file.
DAMAGES = {
  'deleted': lambda path, _: path.unlink(),
  'empty': lambda path, _: path.write_bytes(b''),
  'half': lambda path, data: path.write_bytes(data[: len(data) // 2]),
  'zeros': lambda path, data: path.write_bytes(bytes(len(data))),
  'zeros inside': lambda path, data: path.write_bytes(
    data[: len(data) // 3] + bytes(len(data) // 3) + data[len(data) // 3 * 2 :]
  ),
}


def flipped(path, data, bit):
  data = bytearray(data)
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def step_files(saved):
  folder = saved / 'checkpoints' / '2'
  return sorted(p.relative_to(saved) for p in folder.rglob('*') if p.is_file())


def check_damaged(workdir, caplog):
  """Either nothing is lost, or the checkpoint before is used and short lines are logged."""
  caplog.clear()
  step, state, extra = restore(workdir)
  assert_equal(state, step)
  assert extra == EXTRA
  told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
  aside = workdir / 'checkpoints' / '2.damaged'
  if step == 1:
    assert len(told) == 2 and told[0].startswith('the checkpoint of step 2 cannot be used: ')
    assert all('\n' not in line and len(line) < 300 for line in told)
    assert aside.is_dir() and not aside.with_name('2').exists()
  else:
    assert not aside.exists()
  return step


@pytest.mark.parametrize('damage', DAMAGES)
def test_the_checkpoint_before_a_damaged_array_is_used(damage, saved, copied, caplog):
  """The largest file holds the arrays."""
  path = max((copied / name for name in step_files(saved)), key=lambda p: p.stat().st_size)
  DAMAGES[damage](path, path.read_bytes())
  assert check_damaged(copied, caplog) == 1


def test_a_flipped_bit_of_an_array_is_found(saved, copied, caplog):
  path = max((copied / name for name in step_files(saved)), key=lambda p: p.stat().st_size)
  flipped(path, path.read_bytes(), 4 * path.stat().st_size)
  assert check_damaged(copied, caplog) == 1


@pytest.mark.parametrize('word', ['next_step', 'digests', 'check', '"good"', '0.1', 'kernel'])
def test_a_changed_word_of_the_item_data_is_found(word, copied, caplog):
  path = copied / 'checkpoints' / '2' / 'data' / 'metadata'
  text = path.read_text()
  assert word in text
  path.write_text(text.replace(word, word[:-2] + '7' + word[-1], 1))
  assert check_damaged(copied, caplog) == 1


@pytest.mark.slow
def test_any_damage_of_any_file(saved, tmp_path, caplog):
  """Each file is deleted, cut, zeroed or has flipped bits: this is never loaded silently."""
  random, steps = np.random.default_rng(0), []
  for name in step_files(saved):
    data = (saved / name).read_bytes()
    bits = random.choice(8 * len(data), min(24, 8 * len(data)), replace=False)
    changes = [*DAMAGES.values()]
    changes += [lambda path, data, bit=bit: flipped(path, data, bit) for bit in bits]
    for change in changes if data else changes[:1]:
      workdir = Path(shutil.copytree(saved, tmp_path / 'run'))
      change(workdir / name, data)
      steps.append(check_damaged(workdir, caplog))
      shutil.rmtree(workdir)
  assert len(steps) > 200 and steps.count(1) > len(steps) / 3


def test_a_step_is_saved_again_after_it_was_damaged(copied):
  next((copied / 'checkpoints' / '2' / 'state').rglob('d/*')).unlink()
  saver = opened(copied)
  assert saver.restore(like(make_state(0))).step == 1
  saver.save_last(2, make_state(2), EXTRA)
  saver.close()
  step, state, _ = restore(copied)
  assert step == 2
  assert_equal(state, 2)


@pytest.mark.full
def test_in_a_bucket(saved, gs, store, caplog):
  url = 'gs://bucket/run'
  with contextlib.closing(opened(url)) as saver:
    for step in (1, 2):
      saver.save_last(step, make_state(step), EXTRA)
    assert 'run/checkpoints/2/commit_success.txt' in store.names()
    # A checkpoint copied from a disk, without marks, and half of a third, as after a kill.
    gs.put(str(saved / 'checkpoints/2'), 'bucket/copied/checkpoints/2', recursive=True)
    checkpointer.remove_unfinished('gs://bucket/copied')
    assert restore('gs://bucket/copied').step == 2
    for name in store.names():
      if name.startswith('run/checkpoints/2/') and not re.search('commit|_CHECK', name):
        gs.cp(f'bucket/{name}', f'bucket/{name.replace("/2/", "/3/")}')
  checkpointer.remove_unfinished(url)
  assert not [name for name in store.names() if name.startswith('run/checkpoints/3/')]
  arrays = [name for name in store.names() if '/2/state/' in name and '/d/' in name]
  for name in arrays:  # Which file holds which arrays differs from save to save.
    gs.pipe(f'bucket/{name}', bytes(gs.size(f'bucket/{name}')))
  step, state, extra = restore(url)
  assert step == 1 and extra == EXTRA and 'step 2 cannot be used' in caplog.text
  assert_equal(state, 1)
  aside = [name for name in store.names() if name.startswith('run/checkpoints/2')]
  assert len(aside) > 5 and all(name.startswith('run/checkpoints/2.damaged/') for name in aside)
  assert checkpoint.find_checkpoint(url).name == '1'
  for folder, wrong in ((f'{url}/none', 'holds no'), ('gs://none/run', 'holds no')):
    with pytest.raises(UserError, match=wrong):
      checkpoint.find_checkpoint(folder)
  with pytest.raises(UserError, match='no checkpoint can be saved in gs://none/run/checkpoints'):
    opened('gs://none/run')


@pytest.mark.full
def test_a_bucket_without_write_permission_is_refused(gs, store, no_pause):
  store.answer = 401
  try:
    with pytest.raises(UserError, match='gs://bucket/run.*log in .*choose a folder') as e:
      with make_run_dir('gs://bucket/run'), lock.held('gs://bucket/run'):
        pass
  finally:
    store.answer = 0
  assert '\n' not in str(e.value)


def test_none_can_be_read(copied):
  for path in (copied / 'checkpoints').rglob('d/*'):
    path.unlink()
  with pytest.raises(UserError, match=r'none of the checkpoints .* can be read: 2 .*; 1 .*') as e:
    restore(copied)
  assert '\n' not in str(e.value)
  assert (copied / 'checkpoints' / '2').is_dir()  # It was not renamed.


@pytest.mark.parametrize(
  ('away', 'kind', 'message'),
  [
    (True, Unavailable, 'the checkpoint of step 2 in .* cannot be read now: .*process 1'),
    (False, UserError, 'none of the checkpoints in .*: 2 .*process 1.*; 1 .*process 1'),
  ],
)
def test_a_checkpoint_that_one_process_cannot_read_stays(away, kind, message, copied, monkeypatch):
  other = ('OSError: of process 1', away)
  monkeypatch.setattr(checkpointer, 'gather', lambda about: [about, None if about else other])
  with pytest.raises(kind, match=message):
    restore(copied)


def test_an_outage_of_another_process_counts_more_than_damage(copied, monkeypatch):
  other = ('OSError: of process 1', True)
  monkeypatch.setattr(checkpointer, 'gather', lambda about: [about, other if about else None])
  for path in (copied / 'checkpoints' / '2').rglob('d/*'):
    path.unlink()
  with pytest.raises(Unavailable, match='the checkpoint of step 2 .*process 1'):
    restore(copied)
  assert (copied / 'checkpoints' / '2').is_dir()


def test_an_outage_removes_no_checkpoint(copied, monkeypatch):
  """The newest checkpoint stays, and the next start goes on from it."""
  read = Checkpointer._read

  def failing(self, step, like):
    if step == 2:
      raise TimeoutError(errno.ETIMEDOUT, 'Connection timed out')
    return read(self, step, like)

  with monkeypatch.context() as patch:
    patch.setattr(Checkpointer, '_read', failing)
    with pytest.raises(Unavailable, match='step 2 in .* cannot be read now: .*timed out'):
      restore(copied)
  assert restore(copied).step == 2


def test_a_checkpoint_of_another_model_is_not_damaged(copied):
  with pytest.raises(UserError, match='a checkpoint of another model: .* of another shape'):
    restore(copied, like(make_state(0, width=8)))


def test_checkpoints_from_before_there_were_digests(copied, caplog):
  for path in (copied / 'checkpoints').glob('*/data/metadata'):
    path.write_text(json.dumps({'next_step': int(path.parts[-3])}))
  step, state, extra = restore(copied)
  assert step == 2 and extra == {}
  assert_equal(state, 2)
  assert [r.getMessage() for r in caplog.records if 'older than digests' in r.getMessage()]


def test_parameters_that_are_read_alone_are_checked(saved, copied):
  part = {'encoder': make_state(2).params['encoder']}

  def load(workdir):
    loaded = checkpoint.load_params(str(workdir), like(part))
    jax.tree.map(np.testing.assert_array_equal, loaded, part)

  load(saved)
  assert checkpoint.load_config(str(copied)) == {'seed': 0, 'patch': [2, 16, 16]}
  for item in ('config', 'data'):
    path = copied / 'checkpoints' / '2' / item / 'metadata'
    text = path.read_text()
    path.write_text(text.replace('1', '7', 1))
    for read in (checkpoint.load_config, load):
      with pytest.raises(UserError, match='is damaged: '):
        read(str(copied))
    path.write_text(text)
  seen = 0
  files = [copied / name for name in step_files(saved) if 'd' in name.parts]
  for path in files:  # Which file holds which arrays differs from save to save.
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), len(data) // 3):
      flipped(path, data, bit)
      try:
        load(copied)  # Also correct if another array was damaged.
      except UserError as e:
        assert 'is damaged: ' in str(e)
        seen += 1
    path.write_bytes(data)
  assert seen > 5


def test_digests_are_equal_on_any_mesh():
  """By hand: the sum over all elements, in 32 bits, of the hash of each."""

  def by_hand(x):
    total = 0
    for place, bits in enumerate(np.asarray(x).reshape(-1).view(np.uint32).tolist()):
      h = bits ^ (place * 0x9E3779B1) % 2**32
      h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
      h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
      total += h ^ h >> 16
    return total % 2**32

  x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
  wanted = {'a/b': by_hand(x), 'c': by_hand(np.int32(7))}
  assert digests({'a': {'b': jnp.asarray(x)}, 'c': jnp.int32(7)}) == wanted


def test_every_flipped_bit_changes_a_digest():
  x = np.zeros((2, 3), np.float32)
  seen = {digests({'x': x})['x']}
  for bit in range(32 * 6):
    bits = np.zeros(6, np.uint32)
    bits[bit // 32] = 1 << bit % 32
    seen.add(digests({'x': bits.view(np.float32).reshape(2, 3)})['x'])
  assert len(seen) == 1 + 32 * 6
  assert digests({'x': -np.ones(4, np.float32)}) != digests({'x': np.ones(4, np.float32)})
