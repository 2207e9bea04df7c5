"""Rows of launch/measure.sh: their order, what is kept, where time ends."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from tests import started
from tests.benchmark import measure


def test_every_size_method_and_peer_has_a_row():
  rows = measure.commands(devices=4, large=True, smoke=False, torch=True)
  assert len(rows) == 2 + 6 + 3 * 5  # Parity and attention, two peers, methods.
  assert list(rows)[:3] == ['videomae b', 'parity', 'attention']
  assert rows['mme l'][1:] == [
    f'--config={started.ROOT}/configs/mme.py:l,k400',
    '--batch=128',
    '--steps=10',
  ]
  assert rows['beside torch_compiled s'][2:4] == ['--sizes=s', '--batch=128']
  without = measure.commands(devices=1, large=False, smoke=False, torch=False)
  assert len(without) == 17 and '--batch=8' in without['mam2 l']


def test_rows_are_kept_tried_again_and_given_up(monkeypatch):
  clock, ran = [0.0], []
  monkeypatch.setattr(measure.time, 'monotonic', lambda: clock[0])

  def run(command, *, timeout, **_):
    ran.append(command[2])
    clock[0] += 4
    if command[2] == 'slow':
      raise subprocess.TimeoutExpired(command, timeout)
    if command[2] == 'broken':
      return SimpleNamespace(returncode=1, stderr='Traceback\nValueError: no\n')
    path = command[-1].removeprefix('--out=')
    open(path, 'w').write(json.dumps({'ms': 1}))
    return SimpleNamespace(returncode=0)

  monkeypatch.setattr(measure.subprocess, 'run', run)
  rows = {name: [name] for name in ('kept', 'again', 'broken', 'slow', 'late')}
  kept = {'kept': {'ms': 2}, 'again': {'error': 'out of time'}}
  seen = [dict(results) for results in measure.measure(rows, kept, seconds=10)]
  assert ran == ['again', 'broken', 'slow'] and [len(x) for x in seen] == [2, 3, 4]
  errors = {'broken': {'error': 'ValueError: no'}, 'slow': {'error': 'out of time'}}
  assert seen[-1] == {'kept': {'ms': 2}, 'again': {'ms': 1}} | errors


@pytest.mark.slow
def test_all_of_it_at_the_size_of_a_smoke_run(tmp_path):
  command = ['bash', f'{started.ROOT}/launch/measure.sh', '--smoke', f'--out={tmp_path}/out.json']
  done = subprocess.run(command, env=started.environment(2), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / 'out.json').read_text())['rows']
  assert not [name for name, row in rows.items() if 'error' in row], rows
  assert set(rows) == {'parity', 'attention', *(f'{m} smoke' for m in measure.METHODS)}
  assert rows['parity']['float32']['gradients_apart'] < 1e-5
  assert rows['parity']['bfloat16']['gradients_apart'] < 0.1
  assert {'step', 'hand-over'} <= rows['mme smoke']['rows'].keys()
  assert json.loads(done.stdout)['rows'] == rows
  again = subprocess.run(command, env=started.environment(2), capture_output=True, text=True)
  assert '7 of 7' in again.stderr and '...' not in again.stderr
