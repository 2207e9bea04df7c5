"""A lock on a folder: refused while its holder is alive, taken over when it is dead."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vmae_jax import lock, storage
from vmae_jax.errors import UserError

HOLD = (
  'import sys, time; from vmae_jax import lock\n'
  'with lock.held(sys.argv[1]): print("held", flush=True); time.sleep(60)'
)


@pytest.fixture
def holder(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, tmp_path], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def foreign(folder: Path, **changes) -> Path:
  """Writes the lock of a process on another machine."""
  text = {'host': 'far', 'pid': 7, 'birth': '1', 'pids': 'x', 'since': 'noon', 'key': 'k'}
  (folder / '.lock').write_text(json.dumps(text | changes))
  return folder / '.lock'


def test_held_and_freed(tmp_path):
  for _ in range(2):
    with lock.held(tmp_path):
      with pytest.raises(UserError, match=f'in use by process {os.getpid()} on .* since 20'):
        with lock.held(tmp_path):
          pass
    assert not list(tmp_path.iterdir())
  with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
    raise ZeroDivisionError
  assert not list(tmp_path.iterdir())
  with pytest.raises(FileNotFoundError), lock.held(tmp_path / 'none'):
    pass


def test_a_live_holder_is_named_and_a_killed_one_gives_way(tmp_path, holder, capsys):
  with pytest.raises(UserError, match=f'process {holder.pid} on .*: wait for it or stop') as e:
    with lock.held(tmp_path):
      pass
  assert '\n' not in str(e.value)
  holder.send_signal(signal.SIGKILL)
  while Path(f'/proc/{holder.pid}/stat').read_text().split()[2] != 'Z':  # Nobody has waited.
    time.sleep(0.01)
  capsys.readouterr()
  with lock.held(tmp_path):
    told = capsys.readouterr().err
  assert told.count('\n') == 1 and f'process {holder.pid} on' in told and 'dead' in told


def test_a_reused_process_number(tmp_path):
  foreign(tmp_path, pid=os.getpid(), birth='1', pids=lock._pids())
  with lock.held(tmp_path):
    pass


def test_the_block_left_in_a_forked_child(tmp_path):
  code = (
    'import os, sys; from vmae_jax import lock\n'
    'with lock.held(sys.argv[1]):\n'
    '  if os.fork() == 0: sys.exit()\n'
    '  os.wait(); print(os.listdir(sys.argv[1]))'
  )
  output = subprocess.run(
    [sys.executable, '-c', code, tmp_path], capture_output=True, text=True, check=True
  ).stdout
  assert output == "['.lock']\n" and not list(tmp_path.iterdir())


def test_another_host(tmp_path, monkeypatch, capsys):
  """Refused if its holder renews it, taken over if it does not for long."""
  monkeypatch.setattr(lock, 'BEAT', 0.02)
  monkeypatch.setattr(lock, 'PAUSE', 0.05)
  monkeypatch.setattr(lock, 'SILENCE', 20.0)
  path = foreign(tmp_path)
  beat = threading.Timer(0.2, os.utime, [path])
  beat.start()
  with pytest.raises(UserError, match='process 7 on far since noon'), lock.held(tmp_path):
    pass
  monkeypatch.setattr(lock, 'SILENCE', 0.2)
  for text in (path.read_text(), ''):  # The second died before it wrote its name.
    path.write_text(text)
    with lock.held(tmp_path):
      assert json.loads(path.read_text())['pid'] == os.getpid()
    assert 'which is dead' in capsys.readouterr().err


def test_freed_while_waiting(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'BEAT', 0.02)
  path = foreign(tmp_path)
  threading.Timer(0.1, path.unlink).start()
  with lock.held(tmp_path):
    pass


def test_the_lock_is_renewed(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'BEAT', 0.01)
  with lock.held(tmp_path):
    os.utime(tmp_path / '.lock', (0, 0))
    end = time.monotonic() + 20
    while (tmp_path / '.lock').stat().st_mtime == 0 and time.monotonic() < end:
      time.sleep(0.01)
    assert (tmp_path / '.lock').stat().st_mtime > 0


def test_a_lock_that_was_taken_ends_the_process(tmp_path):
  code = HOLD.replace('\n', '; lock.BEAT = 0.05\n', 1)
  command = [sys.executable, '-c', code, tmp_path]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process.stdout.readline()
  foreign(tmp_path)
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 74 and 'another process has taken the lock' in errors


def test_two_take_a_dead_lock(tmp_path, monkeypatch):
  """The other process removes this one's lock, which it takes for the dead one, and keeps it."""
  foreign(tmp_path, pid=2**22 + 1, pids=lock._pids())
  other = {'pid': os.getppid(), 'birth': lock._birth(os.getppid()), 'pids': lock._pids()}
  monkeypatch.setattr(lock.time, 'sleep', lambda _: foreign(tmp_path, **other))
  with pytest.raises(UserError, match=f'process {os.getppid()} on far'), lock.held(tmp_path):
    pass


def test_in_a_bucket(memory, monkeypatch, capsys):
  monkeypatch.setattr(lock, 'BEAT', 0.02)
  folder, path = 'memory://bucket/run', '/bucket/run/.lock'
  with lock.held(folder):
    with pytest.raises(UserError, match=f'^{folder} is in use by process {os.getpid()}'):
      with lock.held(folder):
        pass
    memory.pipe('/bucket/run/other', b'')
    before = storage.stamp(f'memory:/{path}')
    end = time.monotonic() + 20
    while storage.stamp(f'memory:/{path}') == before and time.monotonic() < end:
      time.sleep(0.01)
    assert storage.stamp(f'memory:/{path}') != before  # It is renewed.
  assert not memory.exists(path)
  monkeypatch.setattr(lock, 'PAUSE', 0.05)
  monkeypatch.setattr(lock, 'SILENCE', 0.2)
  memory.pipe(path, b'{"host": "far", "pid": 7, "birth": "1", "pids": "x", "since": "noon"}')
  with lock.held(folder):
    assert json.loads(memory.cat(path))['pid'] == os.getpid()
  assert 'process 7 on far since noon, which is dead' in capsys.readouterr().err


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOTSUP])
def test_a_disk_without_exclusive_files(tmp_path, monkeypatch, capsys, number):
  def refuse(*_, **__):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(storage, 'create', refuse)
  with lock.held(tmp_path):
    assert 'not kept from writing' in capsys.readouterr().err


def test_a_full_disk_leaves_no_lock_without_a_name(tmp_path):
  code = (
    'import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
    'resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n'
  )
  command = [sys.executable, '-c', code + HOLD, tmp_path]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert 'OSError' in done.stderr and not list(tmp_path.iterdir())
