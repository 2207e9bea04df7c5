"""Failed saves are logged and tried again; too many in a row end the run."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys

import orbax.checkpoint as ocp
import pytest

from tests.runs.test_checkpointer import EXTRA, make_state, opened
from vmae_jax.errors import Unavailable, UserError
from vmae_jax.runs import checkpointer

pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


class Fails:
  """A disk on which these saves, counted from 0, fail when they are waited for."""

  def __init__(self, monkeypatch, attempts, error):
    self.count, self.tried, self.now = 0, [], False
    save, wait = ocp.CheckpointManager.save, ocp.CheckpointManager.wait_until_finished

    def saving(manager, step, **kwargs):
      self.now = self.count in attempts
      self.count += 1
      self.tried.append(step)
      if self.now:
        (manager.directory / f'{step}.orbax-checkpoint-tmp').mkdir()
      else:
        save(manager, step, **kwargs)

    def waiting(manager):
      wait(manager)
      if self.now:
        self.now = False
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, 'save', saving)
    monkeypatch.setattr(ocp.CheckpointManager, 'wait_until_finished', waiting)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
TENSORSTORE = ValueError('RESOURCE_EXHAUSTED: Error writing "a/0.0" [os_error_code=\'28\']')


def there(workdir):
  return sorted(path.name for path in (workdir / 'checkpoints').iterdir())


@pytest.mark.parametrize('error', [FULL, TENSORSTORE], ids=['errno', 'tensorstore'])
def test_a_failed_save_is_logged_and_the_next_is_made(error, tmp_path, monkeypatch, caplog):
  saver, fails = opened(tmp_path), Fails(monkeypatch, {1, 3}, error)
  for step in (5, 10, 15, 20, 25):
    saver.save(step, make_state(step), EXTRA)
  saver.save_last(25, make_state(25), EXTRA)
  saver.close()
  assert fails.tried == [5, 10, 15, 20, 25] and there(tmp_path) == ['15', '25']
  told = [r.getMessage() for r in caplog.records if 'NOT saved' in r.getMessage()]
  assert ['step 10 was' in told[0], 'step 20 was' in told[1], len(told)] == [True, True, 2]


def test_the_third_failure_in_a_row_ends_the_run(tmp_path, monkeypatch):
  saver, fails = opened(tmp_path), Fails(monkeypatch, range(1, 9), FULL)
  for step in (5, 10, 15):
    saver.save(step, make_state(step), EXTRA)
  with pytest.raises(Unavailable, match=r'step 20 cannot be saved .*No space.* that of step 5;'):
    saver.save(20, make_state(20), EXTRA)
  assert fails.tried == [5, 10, 15, 20, 20] and there(tmp_path) == ['5']
  saver.close()


def test_the_last_save_is_tried_again(tmp_path, monkeypatch):
  saver, fails = opened(tmp_path), Fails(monkeypatch, {0, 2, 3}, FULL)
  saver.save(5, make_state(5), EXTRA)
  saver.save_last(5, make_state(5), EXTRA)
  assert fails.tried == [5, 5] and there(tmp_path) == ['5']
  with pytest.raises(Unavailable, match='step 6 cannot be saved'):
    saver.save_last(6, make_state(6), EXTRA)
  saver.save_last(6, make_state(6), EXTRA)
  saver.close()
  assert there(tmp_path) == ['5', '6']


def test_a_save_without_an_error_and_without_a_folder(tmp_path, monkeypatch):
  saver = opened(tmp_path)
  monkeypatch.setattr(ocp.CheckpointManager, 'save', lambda *_, **__: True)
  with pytest.raises(Unavailable, match='it is not there'):
    saver.save_last(5, make_state(5), EXTRA)
  saver.close()


@pytest.mark.parametrize(
  'error', [ValueError('a bug'), TypeError(), ValueError('INVALID_ARGUMENT: rank 2, not 3')]
)
def test_a_bug_is_not_taken_for_a_full_disk(error, tmp_path, monkeypatch):
  saver = opened(tmp_path)
  Fails(monkeypatch, {0}, error)
  saver.save(5, make_state(5), EXTRA)
  with pytest.raises(type(error)):
    saver.wait()
  saver.close()


def test_a_disk_that_cannot_rename_folders_is_refused(tmp_path, monkeypatch):
  def rename(path, target):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

  monkeypatch.setattr(os, 'replace', rename)
  with pytest.raises(UserError, match='folders renamed: OSError: .*Too many open files'):
    opened(tmp_path)
  assert there(tmp_path) == []


def test_what_killed_processes_left_is_removed(tmp_path):
  left = tmp_path / 'checkpoints' / '7.orbax-checkpoint-tmp' / 'state'
  left.mkdir(parents=True)
  checkpointer.remove_unfinished(tmp_path)
  assert there(tmp_path) == []


def test_a_failed_save_logs_few_lines(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
  opened(tmp_path).close()
  sys.excepthook(RuntimeError, RuntimeError('Event loop is closed'), None)
  assert capsys.readouterr().err == ''
  sys.excepthook(RuntimeError, RuntimeError('a bug'), None)
  assert 'a bug' in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path):
  """A folder that holds 3 MB."""
  command = ['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', str(tmp_path / 'disk')]
  (tmp_path / 'disk').mkdir()
  if not shutil.which('mount') or subprocess.run(command, capture_output=True).returncode:
    pytest.skip('no right to mount a tmpfs')
  yield tmp_path / 'disk'
  subprocess.run(['umount', '--lazy', str(tmp_path / 'disk')], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full(small_disk, caplog, capfd):
  big = make_state(2, width=8000)  # 4 MB with its moments and average.
  with contextlib.closing(opened(small_disk)) as saver:
    saver.save(1, make_state(1), EXTRA)
    saver.save(2, big, EXTRA)
    saver.save(3, make_state(3), EXTRA)
    with pytest.raises(Unavailable, match='step 4 cannot be saved.*that of step 3'):
      saver.save_last(4, big, EXTRA)
    saver.save_last(5, make_state(5), EXTRA)
  assert there(small_disk) == ['3', '5']
  assert not [r for r in caplog.records if r.exc_info]
  assert 'Traceback' not in capfd.readouterr().err
  (small_disk / 'filler').write_bytes(b'')
  with (small_disk / 'filler').open('ab', buffering=0) as file, pytest.raises(OSError):
    while True:
      file.write(bytes(4096))
  with pytest.raises(Unavailable, match='No space left'):
    opened(small_disk)
