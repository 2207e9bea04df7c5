"""How a verb ends: one line on stderr and an exit code."""

import os
import socket
import subprocess
import sys

import pytest

from tests import started
from vmae_jax import cli
from vmae_jax.errors import Preempted, Unavailable, UserError, is_outage


def caused(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  ('error', 'code', 'line'),
  [
    (UserError('wrong'), 2, 'error: wrong\n'),
    (caused(UserError('no file'), FileNotFoundError(2, 'No such file')), 2, 'error: no file\n'),
    (caused(UserError('no room'), OSError(28, 'No space')), 74, 'unavailable: no room\n'),
    (Unavailable('no room'), 74, 'unavailable: no room\n'),
    (OSError(28, 'No space', 'a/b'), 74, "unavailable: [Errno 28] No space: 'a/b'\n"),
    (Preempted('saved'), 75, 'stopped: saved\n'),
    (KeyboardInterrupt(), 130, 'stopped: interrupted\n'),
  ],
)
def test_exit_codes(error, code, line, capsys):
  def main(argv):
    raise error

  with pytest.raises(SystemExit) as ended:
    cli.run(main, absl_flags=False)
  assert ended.value.code == code and capsys.readouterr().err == line


def test_a_home_in_the_value_of_a_flag(monkeypatch):
  """Shells do not expand it there; without this a folder called ~ would be made."""
  monkeypatch.setenv('HOME', '/home/me')
  monkeypatch.setattr(sys, 'argv', ['verb', '--out=~/a b', '--filter=~x', 'x=~/a'])
  found = []
  cli.run(found.extend, absl_flags=False)
  assert found == ['verb', '--out=/home/me/a b', '--filter=~x', 'x=~/a']


def test_a_bug_is_not_an_outage():
  def main(argv):
    raise FileNotFoundError(2, 'No such file', 'ours')

  with pytest.raises(FileNotFoundError):
    cli.run(main, absl_flags=False)


@pytest.mark.parametrize(
  ('error', 'outage'),
  [
    (ValueError('RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database'), True),
    (ValueError('DATA_LOSS: Error reading: "x" [os_error_code=\'5\']'), True),
    (ValueError('NOT_FOUND: Error reading "x" [os_error_code=\'2\']'), False),
    (ValueError('shapes do not fit'), False),
    (TimeoutError(), True),
    (PermissionError(13, 'Permission denied'), False),
  ],
)
def test_outages(error, outage):
  assert is_outage(error) == outage


def test_verbs_that_only_write_to_a_disk_refuse_buckets():
  with pytest.raises(UserError, match='--out=gs://bucket/a: this verb only writes to a disk'):
    cli.here('gs://bucket/a')
  assert str(cli.here('a/b')) == 'a/b'
  verbs = {path.name: path.read_text() for path in (started.ROOT / 'vmae_jax').glob('*.py')}
  unsafe = {name for name, text in verbs.items() if 'Path(_OUT.value' in text}
  assert unsafe == {'estimate.py', 'benchmark.py'}  # These call `check_file`.


@pytest.mark.parametrize('device', ['cuda', 'tpu'])
def test_nothing_trains_on_the_cpu_by_accident(device, tmp_path):
  """Without a GPU, JAX silently ignores cuda and uses the CPU."""
  if device == 'cuda' and os.path.exists('/dev/nvidiactl'):
    pytest.skip('there is a GPU')
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  env = started.environment(
    JAX_PLATFORMS=f'{device},cpu',
    JAX_COORDINATOR_ADDRESS=address,
    JAX_NUM_PROCESSES=1,
    JAX_PROCESS_ID=0,
  )
  child = started.start(tmp_path / 'run', env=env, flags=['--distributed'])
  out = child.communicate()[0]
  assert child.returncode == cli.EXIT_UNAVAILABLE, out
  assert f'unavailable: JAX_PLATFORMS asks for {device} on ' in out
  assert not (tmp_path / 'run').exists()


def test_a_config_is_read_without_the_loaders_libraries():
  """They take seconds to import, and define flags that error messages would list."""
  program = 'import sys, vmae_jax.config; print({"grain", "orbax", "flax"} & set(sys.modules))'
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=started.environment(),
    cwd=started.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.stdout == 'set()\n', done.stderr
