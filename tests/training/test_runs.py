"""Whole runs: resumed, preempted, killed, on other meshes and in several processes."""

import gzip
import json
import os
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from tests import kills, started
from vmae_jax import lock, storage
from vmae_jax.evaluation.encoder import load_encoder
from vmae_jax.interchange.runs import load_run
from vmae_jax.runs.checkpoint import find_checkpoint, load_config

STEPS, EVERY = 6, 3


@pytest.fixture(scope='session')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='session')
def unbroken(tmp_path_factory, cache):
  """A run on one device without interruption."""
  workdir = tmp_path_factory.mktemp('unbroken') / 'run'
  started.run(workdir, 'optimizer.ema=0.9', 'log.profile=3', env=started.environment(cache=cache))
  return workdir


def half(unbroken, tmp_path):
  """The same run as if it was killed right after the checkpoint at half of its steps."""
  workdir = tmp_path / 'run'
  shutil.copytree(unbroken, workdir)
  shutil.rmtree(workdir / 'checkpoints' / str(STEPS))
  return workdir


def test_a_run_leaves_what_it_promises(unbroken):
  for name in ('config.json', 'environment.json', 'metrics.jsonl', 'summary.json', 'loss.png'):
    assert (unbroken / name).stat().st_size > 100, name
  assert list(unbroken.glob('events.out.tfevents.*')) and list(unbroken.glob('pictures/*.png'))
  losses = started.losses(unbroken)
  assert list(losses) == list(range(1, STEPS + 1)) and np.isfinite(list(losses.values())).all()


def test_three_steps_are_traced(unbroken):
  (path,) = unbroken.glob('plugins/profile/*/*.trace.json.gz')
  with gzip.open(path) as f:
    events = json.load(f)['traceEvents']
  marks = [event for event in events if event.get('name') == 'train']
  assert [int(mark['args']['step_num']) for mark in marks] == [3, 4, 5]
  assert list(path.parent.glob('*.xplane.pb'))


def test_resumed_is_bit_identical(unbroken, tmp_path, cache):
  workdir = half(unbroken, tmp_path)
  started.forget(workdir, 'augment', 'data.seconds', 'tracking.camera')  # As in an older run.
  compiled = {path.name for path in cache.glob('*-cache')}
  output = started.run(workdir, 'optimizer.ema=0.9', env=started.environment(cache=cache))
  assert 'going on from the checkpoint of step 3' in output
  # A second start compiles neither the step nor the pictures again.
  anew = {path.name for path in cache.glob('*-cache')} - compiled
  assert any(name.startswith('jit_step') for name in compiled)
  assert not [name for name in anew if not name.startswith('jit__digest')], anew
  started.assert_same_state(unbroken, workdir, STEPS)
  assert started.losses(unbroken) == started.losses(workdir)


# Checkpoints fall between log lines.
LAST = 30
LONG = (
  *(f'steps={LAST}', 'checkpoint.every_steps=5', 'checkpoint.keep=100', 'log.every_steps=7'),
  *('log.pictures_every_steps=1000', 'log.pictures=1', 'batch_size=4', 'data.repeats=2'),
)


@pytest.fixture(scope='module')
def long(tmp_path_factory, cache):
  """A longer run without interruption."""
  workdir = tmp_path_factory.mktemp('long') / 'run'
  started.run(workdir, *LONG, env=started.environment(cache=cache))
  return workdir


@pytest.mark.parametrize(
  'number', [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_stopped_and_started_again_is_bit_identical(number, long, tmp_path, cache):
  env = started.environment(cache=cache)
  broken = tmp_path / 'broken'
  process = started.start(broken, *LONG, env=env)
  deadline = time.monotonic() + 300
  while not (broken / 'checkpoints' / '10').is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(number)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL), output
  if number == signal.SIGTERM:
    assert 'is saved in' in output and 'Traceback' not in output
  assert not (broken / 'checkpoints' / str(LAST)).exists()
  started.run(broken, *LONG, env=env)
  started.assert_same_state(long, broken, LAST)
  assert started.metrics(long) == started.metrics(broken)


@pytest.mark.full
@pytest.mark.slow
def test_in_a_bucket_it_is_bit_identical_after_a_kill_in_a_save(
  unbroken, gs, store, tmp_path, cache
):
  url, env = 'gs://bucket/run', started.environment(cache=cache)
  command = ('optimizer.ema=0.9', 'log.profile=3')
  process = started.start(url, *command, env=env)
  deadline = time.monotonic() + 300
  while not any('checkpoints/3/state/' in name for name in store.names()):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.002)
  process.kill()
  process.communicate()
  whole = 'run/checkpoints/3/commit_success.txt'
  assert 'run/.lock' in store.names() and whole not in store.names()
  process = started.start(url, *command, env=env)
  while whole not in store.names():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.002)
  store.answer = 503  # A short outage, which is not even logged.
  time.sleep(3)
  store.answer = 0
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0 and 'NOT saved' not in output, output
  gs.get('bucket/run', copy := str(tmp_path / 'copy'), recursive=True)
  started.assert_same_state(unbroken, copy, STEPS)
  assert started.metrics(unbroken) == started.metrics(copy)
  assert leaves_of(copy) == leaves_of(unbroken)
  config = load_config(url)
  assert config == load_config(str(unbroken)) and find_checkpoint(url).name == str(STEPS)
  for read in (lambda path: load_run(path)[0], lambda path: load_encoder(path, pool='mean')[1]):
    for found, right in zip(*map(jax.tree.leaves, map(read, (url, str(unbroken)))), strict=True):
      np.testing.assert_array_equal(found, right)


def leaves_of(workdir):
  """The names of its files outside checkpoints/, without numbers."""
  names = storage.walk(str(workdir))
  return {re.sub(r'\d[\d._-]*', '', x) for x in names if not x.startswith('checkpoints/')}


def test_a_second_run_in_a_workdir_is_refused(unbroken, cache):
  with lock.held(unbroken):
    output = started.run(unbroken, env=started.environment(cache=cache), code=2)
  assert f'{unbroken} is in use by process {os.getpid()} on' in output


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_process_ends_the_other_and_both_go_on(victim, tmp_path, cache):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  kwargs = dict(cache=cache, count=2, devices=1)
  started.run_processes(whole, *LONG, **kwargs)
  processes = started.start_processes(broken, *LONG, **kwargs)
  deadline = time.monotonic() + 300
  while not (broken / 'checkpoints' / '10').is_dir():
    assert all(p.poll() is None for p in processes) and time.monotonic() < deadline
    time.sleep(0.01)
  processes[victim].kill()
  output, _ = processes[1 - victim].communicate(timeout=120)
  assert processes[1 - victim].returncode == 74, output
  assert 'unavailable: a process of this run is gone' in output and 'Traceback' not in output
  processes[victim].communicate()
  started.run_processes(broken, *LONG, **kwargs)
  started.assert_same_state(whole, broken, LAST)
  assert started.metrics(whole) == started.metrics(broken)


@pytest.mark.parametrize(
  'method', ['videomae', *(pytest.param(m, marks=pytest.mark.slow) for m in kills.METHODS[1:])]
)
def test_killed_at_random_moments(method, tmp_path, cache):
  """A short version of `python -m tests.kills`."""
  env, draw, kinds = started.environment(cache=cache), random.Random(method), ('save', 'step')
  told = kills.run_with_kills(tmp_path, method, env=env, kills=1, draw=draw, kinds=kinds, steps=9)
  assert len(told) == 1


# Of several processes, Ctrl-C becomes a SIGTERM.
@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_one_of_two_processes_is_told_to_stop_and_both_save(number, long, tmp_path, cache):
  broken = tmp_path / 'broken'
  kwargs = dict(cache=cache, count=2, devices=1)
  processes = started.start_processes(broken, *LONG, **kwargs)
  deadline = time.monotonic() + 300
  while not (broken / 'checkpoints' / '10').is_dir():
    assert all(p.poll() is None for p in processes) and time.monotonic() < deadline
    time.sleep(0.01)
  processes[1].send_signal(number)  # Not the main one.
  for output in started.wait_for(processes, code=75):
    assert 'is saved in' in output and 'Traceback' not in output
  assert not (broken / 'checkpoints' / str(LAST)).exists()
  started.run_processes(broken, *LONG, **kwargs)
  close(long, broken, steps=[7, 14, 21, 28, LAST])


def test_the_checkpoint_before_an_unreadable_one_is_used(unbroken, tmp_path, cache):
  workdir = tmp_path / 'run'
  shutil.copytree(unbroken, workdir)
  for file in (workdir / 'checkpoints' / str(STEPS) / 'state').rglob('*'):
    if file.is_file() and file.parent.name == 'd':
      file.write_bytes(b'')
  output = started.run(workdir, 'optimizer.ema=0.9', env=started.environment(cache=cache))
  assert f'the checkpoint of step {STEPS} cannot be used: ' in output
  assert 'from the checkpoint of step 3' in output
  assert (workdir / 'checkpoints' / f'{STEPS}.damaged').is_dir()
  started.assert_same_state(unbroken, workdir, STEPS)


def test_other_data_are_refused_or_logged(unbroken, tmp_path, cache):
  workdir, env = half(unbroken, tmp_path), started.environment(cache=cache)
  other = ('optimizer.ema=0.9', 'data.train=synthetic:val')
  output = started.run(workdir, *other, env=env, code=2)
  assert 'data.train was "synthetic:train", is "synthetic:val"' in output
  assert 'or set data.changed=True' in output
  output = started.run(workdir, *other, 'data.changed=True', env=env)
  assert 'number of videos was 8192, is ' in output and 'checkpoint of step 3' in output
  # From now on these are its data, whatever the config says.
  output = started.run(workdir, 'optimizer.ema=0.9', env=env, code=2)
  assert 'number of videos was ' in output and ', is 8192' in output


MESHES = [
  pytest.param(('mesh.data=8',), marks=pytest.mark.slow),
  pytest.param(('mesh.data=1', 'mesh.fsdp=8'), marks=pytest.mark.slow),  # Like the next one.
  ('mesh.data=2', 'mesh.fsdp=2', 'mesh.tensor=2'),
  pytest.param(
    ('mesh.data=8', 'optimizer.accumulate=1', 'model.scan=True', 'model.remat=dots'),
    marks=pytest.mark.slow,
  ),
]


@pytest.mark.parametrize('mesh', MESHES, ids=lambda mesh: ','.join(mesh))
def test_eight_devices_go_on_after_one_with_equal_losses(mesh, unbroken, tmp_path, cache):
  workdir, limits = half(unbroken, tmp_path), ('data.max_bad_share=0.5', 'optimizer.max_skipped=3')
  env = started.environment(8, cache=cache)
  started.run(workdir, 'optimizer.ema=0.9', *mesh, *limits, env=env)  # Limits may change, too.
  close(unbroken, workdir)


@pytest.mark.slow
def test_eight_devices_go_on_after_four(unbroken, tmp_path, cache):
  four = tmp_path / 'four'
  started.run(four, 'optimizer.ema=0.9', 'mesh.fsdp=2', env=started.environment(4, cache=cache))
  close(unbroken, four)
  shutil.rmtree(four / 'checkpoints' / str(STEPS))
  started.run(four, 'optimizer.ema=0.9', env=started.environment(8, cache=cache))
  close(unbroken, four)


@pytest.mark.parametrize(
  'fresh',
  [pytest.param(True, marks=pytest.mark.slow, id='fresh'), pytest.param(False, id='after one')],
)
def test_two_processes(fresh, unbroken, tmp_path, cache):
  workdir = tmp_path / 'run' if fresh else half(unbroken, tmp_path)
  started.run_processes(
    workdir, 'optimizer.ema=0.9', 'mesh.fsdp=2', cache=cache, count=2, devices=2
  )
  close(unbroken, workdir)


OTHERS = (*kills.METHODS[1:], 'mgm', 'mvd', 'salt', 'trackmae', 'vjepa')


@pytest.mark.slow
@pytest.mark.parametrize('method', OTHERS)
def test_other_methods_resume_bit_identically_and_on_eight_devices(method, tmp_path, cache):
  config = f'{started.ROOT}/configs/{method}.py:smoke'
  few = ('log.pictures_every_steps=1000', 'log.pictures=1', 'batch_size=4', 'data.repeats=2')
  whole, again, env = tmp_path / 'whole', tmp_path / 'run', started.environment(cache=cache)
  started.run(whole, *few, config=config, env=env)
  half(whole, tmp_path)
  started.run(again, *few, config=config, env=env)
  started.assert_same_state(whole, again, STEPS)
  assert started.losses(whole) == started.losses(again)
  shutil.rmtree(again / 'checkpoints' / str(STEPS))
  mesh = ('mesh.data=2', 'mesh.fsdp=2', 'mesh.tensor=2')
  started.run(again, *few, *mesh, config=config, env=started.environment(8, cache=cache))
  close(whole, again)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['videomae', 'motionmae', 'mam2', 'mgmae', 'mme'])
def test_two_and_four_processes(method, tmp_path, cache):
  config, batch = f'{started.ROOT}/configs/{method}.py:smoke', 'batch_size=16'
  one, four = tmp_path / 'one', tmp_path / 'four'
  started.run(one, batch, config=config, env=started.environment(cache=cache))
  started.run_processes(four, batch, config=config, cache=cache, count=4, devices=1)
  close(one, four)
  shutil.rmtree(four / 'checkpoints' / str(STEPS))
  two, alone = tmp_path / 'two', tmp_path / 'alone'
  shutil.copytree(four, two)
  shutil.copytree(four, alone)
  started.run_processes(two, batch, 'mesh.fsdp=2', config=config, cache=cache, count=2, devices=1)
  close(one, two)
  output = started.run(alone, batch, config=config, env=started.environment(cache=cache))
  assert 'going on from the checkpoint of step 3' in output
  close(one, alone)


@pytest.mark.slow  # As tests/method/test_supervised.py.
@pytest.mark.parametrize('fresh', [True, False])
def test_gradients_of_parts_of_a_batch_add_up(fresh, unbroken, tmp_path, cache):
  workdir = tmp_path / 'run' if fresh else half(unbroken, tmp_path)
  overrides = ('optimizer.ema=0.9', 'optimizer.accumulate=4')
  started.run(workdir, *overrides, env=started.environment(cache=cache))
  close(unbroken, workdir)


def close(one, other, steps=range(1, STEPS + 1)):
  a, b = started.losses(one), started.losses(other)
  assert list(a) == list(b) == list(steps)
  np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)
