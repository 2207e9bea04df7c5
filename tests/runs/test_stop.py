"""Signals, sent to small programs that handle them as the training verbs do."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests import started

PROGRAM = """
import hashlib, os, sys, time
from vmae_jax import cli, lock
from vmae_jax.runs.stop import Stop

def compile():  # No Python handler can interrupt this.
  hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)

def wait():  # Like a callback that swallows exceptions.
  while True:
    try:
      time.sleep(1)
    except BaseException:
      pass

def child():
  pid = os.fork()
  if not pid:
    wait()
  print(pid, flush=True)
  print('child ended by', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

def loop():
  with Stop() as stop:
    for step in range(10**9):
      if stop.asked(step):
        print('saving', flush=True)
        time.sleep(2)
        raise cli.Preempted('saved')
      if not step:
        print('going', flush=True)
      time.sleep(0.01)

def loop_and_compile():
  with Stop() as stop:
    stop.asked(1)
    print('going', flush=True)
    compile()

def main(argv):
  with lock.held(argv[1]):
    print('started', flush=True)
    globals()[argv[2]]()

cli.run(main, absl_flags=False, trains=True)
"""


class Program:
  def __init__(self, folder, what):
    self._process = subprocess.Popen(
      [sys.executable, '-c', PROGRAM, str(folder), what],
      env=started.environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    self.seen('started')

  def seen(self, text):
    """Reads the next line, which must contain a text."""
    line = self._process.stdout.readline()
    assert re.search(text, line), line
    return line

  def send(self, number):
    self._process.send_signal(number)

  def end(self):
    """Its exit code and the rest of its output."""
    output, _ = self._process.communicate(timeout=60)
    return self._process.returncode, output


@pytest.mark.parametrize('what', ['compile', 'wait'])
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_before_the_loop_a_run_ends_at_once(number, code, what, tmp_path):
  program = Program(tmp_path, what)
  program.send(number)
  ended, output = program.end()
  assert ended == code and output.startswith('stopped: ') and output.count('\n') == 1
  assert not os.listdir(tmp_path)  # The lock is free.


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_leaves_time_to_save(first, tmp_path):
  program = Program(tmp_path, 'loop')
  program.seen('going')
  program.send(first)
  if first == signal.SIGINT:
    program.seen('stopping after this step')
  program.seen('saving')
  program.send(signal.SIGTERM)
  assert program.end() == (75, 'stopped: saved\n')


def test_ctrl_c_twice_ends_at_once(tmp_path):
  program = Program(tmp_path, 'loop_and_compile')
  program.seen('going')
  program.send(signal.SIGINT)
  program.seen('stopping after this step; Ctrl-C once more ends at once')
  program.send(signal.SIGINT)
  assert program.end() == (130, 'stopped: interrupted\n')
  assert not os.listdir(tmp_path)


def test_child_processes_handle_their_own_signals(tmp_path):
  program = Program(tmp_path, 'child')
  os.kill(int(program.seen(r'^\d+$')), signal.SIGTERM)
  assert program.end() == (0, 'child ended by -15\n')
