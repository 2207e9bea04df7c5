"""Two processes of a run: when one ends, so does the other, with one line and the same code."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import started
from vmae_jax import lock

PROGRAM = """
import os, sys, time
from vmae_jax import cli, peers
from vmae_jax.errors import Unavailable, UserError

def together(index):
  from vmae_jax.runs.agreement import gather
  end = time.monotonic() + 120  # So that nothing is left running if the test fails.
  while time.monotonic() < end:
    gather(None)

def apart(index):
  time.sleep(100)

def mistake(index):
  if index == 1:
    raise UserError('a mistake')
  together(index)

def outage(index):
  if index == 0:
    raise Unavailable('an outage')
  together(index)

def bug(index):
  if index == 1:
    raise ValueError('a bug')
  together(index)

def crash(index):
  if index == 1:
    os.abort()
  together(index)

def claim(index):
  from vmae_jax.runs.claim import claimed
  with claimed(sys.argv[2 + index]):
    print('claimed', flush=True)

def main(argv):
  peers.HEARTBEAT, peers.WAIT = 10, int(os.environ.get('WAIT', 300))
  peers.join()
  from vmae_jax.runs.agreement import gather
  gather(None)
  print('joined', flush=True)
  globals()[argv[1]](int(os.environ['JAX_PROCESS_ID']))

cli.run(main, absl_flags=False, trains=True)
"""


def start(*args, count=2):
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  processes = []
  for i in range(count):
    env = started.environment(
      JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=i
    )
    command = [sys.executable, '-c', PROGRAM, *map(str, args)]
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes.append(subprocess.Popen(command, env=env, **pipe))
  return processes


def ends(processes):
  """Exit codes and stderr without the lines of JAX's own log."""
  errors = [process.communicate(timeout=120)[1] for process in processes]
  return [process.returncode for process in processes], errors


@pytest.fixture(scope='module', autouse=True)
def alone():
  """A process that waits for one that never comes; in the background, as this takes long."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('WAIT', '5')
    processes = start('together', count=1)
  yield processes
  processes[0].kill()


@pytest.mark.parametrize('what', ['together', pytest.param('apart', marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_other(what):
  runs = start(what), start(what)  # In one the first process is lost, in the other the second.
  for process in (*runs[0], *runs[1]):
    assert 'joined\n' in iter(process.stdout.readline, '')
  time.sleep(0.5)
  began = time.monotonic()
  for victim in (0, 1):
    runs[victim][victim].kill()
  for victim in (0, 1):
    codes, errors = ends(runs[victim])
    assert codes[1 - victim] == 74, errors
    assert 'unavailable: a process of this run is gone' in errors[1 - victim]
    assert 'Traceback' not in errors[1 - victim] and time.monotonic() - began < 60


@pytest.mark.parametrize(
  ('what', 'code', 'line'),
  [
    ('mistake', 2, 'error: a mistake (process 1 on '),
    ('outage', 74, 'unavailable: an outage (process 0 on '),
    ('bug', 1, 'ended by ValueError: a bug (process 1 on '),
  ],
)
def test_one_process_ends_all(what, code, line):
  codes, errors = ends(start(what))
  assert codes == [code, code], errors
  assert sum(line in text for text in errors) == 1, errors
  assert sum('Traceback' in text for text in errors) == (what == 'bug')


def test_an_abort_with_another_cause_continues():
  codes, errors = ends(start('crash'))
  assert codes == [74, -signal.SIGABRT], errors


def test_a_folder_that_one_process_does_not_see(tmp_path):
  codes, errors = ends(start('claim', tmp_path / 'here', tmp_path / 'there'))
  assert codes == [2, 2], errors
  assert 'is not the same folder in all processes of this run: 1 (' in errors[0]
  assert os.listdir(tmp_path / 'here') == []  # Neither the lock nor the trial file is left.


def test_a_folder_in_use_ends_both(tmp_path):
  with lock.held(tmp_path):
    codes, errors = ends(start('claim', tmp_path, tmp_path))
  assert codes == [2, 2], errors
  assert f'is in use by process {os.getpid()} on ' in errors[0]


def test_processes_that_do_not_join_are_reported(alone):
  codes, (error,) = ends(alone)
  assert codes == [74], error
  assert 'unavailable: not all processes of this run have come within 5 s' in error
