"""Averages, counts and messages of a run, also over restarts."""

import errno
import json
import os
import types

import jax
import jax.numpy as jnp
import optax
import pytest

from tests import started
from vmae_jax import sharding
from vmae_jax.config_file import load_config
from vmae_jax.data.loader import Loader
from vmae_jax.errors import UserError
from vmae_jax.method.state import init_state
from vmae_jax.runs.metrics import read_metrics
from vmae_jax.runs.run_log import RunLog

STEPS = 12


class NoVideos(Loader):
  failures, wait_seconds = {}, 0.0

  def __init__(self):
    pass


LOADER = NoVideos()


def opened(workdir, *, start=0, kept=None, videos=1000, clip_flops=1, weighted=False, **overrides):
  config = load_config(started.SMOKE)
  config.log.every_steps = 4
  config.update_from_flattened_dict(overrides)
  return RunLog(
    config,
    str(workdir),
    clip_flops=clip_flops,
    schedule=lambda count: 0.5 * count,
    steps=STEPS,
    start=start,
    videos=videos,
    kept=kept or {},
    weighted=weighted,
  )


def dispatch(log, step, *, loss=0.1, skipped=0, in_a_row=0, bad=0):
  metrics = {'loss': loss, 'grad_norm': 2 * loss}
  metrics |= {'skipped': skipped, 'skipped_in_a_row': in_a_row, 'bad_clips': bad}
  log.dispatched(step, {name: jnp.float32(value) for name, value in metrics.items()}, LOADER)


def lines(workdir):
  return [
    {k: record[k] for k in ('step', 'loss', 'grad_norm', 'learning_rate', 'skipped')}
    for record in read_metrics(workdir)
  ]


def finish(log):
  log.fetch()
  log.finish(init_state({}, optax.sgd(0.1), ema=0.0), {'top1': 0.5})
  log.close()


def test_short_runs_have_lines_more_often(tmp_path, monkeypatch):
  for steps, every in {12: 1, 400: 20, 3600: 50}.items():
    monkeypatch.setitem(globals(), 'STEPS', steps)
    log = opened(tmp_path / str(steps), **{'log.every_steps': 0})
    assert log.every == every
    log.close()


@pytest.mark.parametrize('end', range(1, STEPS))
def test_lines_after_a_restart_are_those_of_an_unbroken_run(end, tmp_path):
  def losses(first, last):
    return [(step, 0.1 * step**2) for step in range(first, last + 1)]

  unbroken, log = tmp_path / 'unbroken', opened(tmp_path / 'unbroken')
  for step, loss in losses(1, STEPS):
    dispatch(log, step, loss=loss)
  finish(log)
  broken, log = tmp_path / 'broken', opened(tmp_path / 'broken')
  for step, loss in losses(1, end):
    dispatch(log, step, loss=loss)
  kept = json.loads(json.dumps(log.keep()))
  for step, loss in losses(end + 1, min(STEPS - 1, end + 5)):  # Lost with the process.
    dispatch(log, step, loss=loss)
  log.close()
  log = opened(broken, start=end, kept=kept)
  for step, loss in losses(end + 1, STEPS):
    dispatch(log, step, loss=loss)
  finish(log)
  assert [line['step'] for line in lines(broken)] == [4, 8, 12]
  assert lines(broken) == lines(unbroken)


def test_a_skipped_step_does_not_void_the_line(tmp_path):
  """Losses 1, NaN, 3, 5: the mean is 3; three updates were made, so the third rate was used."""
  log = opened(tmp_path)
  dispatch(log, 1, loss=1)
  dispatch(log, 2, loss=float('nan'), skipped=1, in_a_row=1)
  dispatch(log, 3, loss=3, skipped=1)
  dispatch(log, 4, loss=5, skipped=1)
  log.fetch()
  (line,) = lines(tmp_path)
  assert line == {'step': 4, 'loss': 3, 'grad_norm': 6, 'learning_rate': 1.0, 'skipped': 1}
  for step in range(5, 9):  # The optimizer's count does not grow; its next rate is 1.5.
    dispatch(log, step, loss=float('inf'), skipped=step - 3, in_a_row=step - 4)
  log.fetch()
  text = (tmp_path / 'metrics.jsonl').read_text().splitlines()[1]
  assert json.loads(text)['loss'] is None and json.loads(text)['learning_rate'] == 1.5


def test_the_summary_is_valid_json(tmp_path):
  def refuse(constant):
    raise AssertionError(constant)

  log = opened(tmp_path)
  for step in range(9, STEPS + 1):
    dispatch(log, step, loss=float('nan'), skipped=step - 8, in_a_row=step - 8)
  finish(log)
  summary = json.loads((tmp_path / 'summary.json').read_text(), parse_constant=refuse)
  assert summary['loss'] is None and summary['top1'] == 0.5
  finish(opened(tmp_path, start=STEPS))  # A start after the last step.


def test_the_summary_of_a_run_that_was_at_its_end(tmp_path):
  log = opened(tmp_path)
  for step in range(1, STEPS + 1):
    dispatch(log, step, loss=step)
  finish(log)
  (tmp_path / 'summary.json').unlink()
  finish(opened(tmp_path, start=STEPS))
  assert json.loads((tmp_path / 'summary.json').read_text())['loss'] == 10.5  # Of 9 to 12.


def test_too_many_bad_videos_stop_a_run(tmp_path):
  log = opened(tmp_path)
  dispatch(log, 1, bad=8)
  with pytest.raises(UserError, match=r'100.0% of the videos .* \(5.0%\): .*data.changed=True'):
    for step in range(2, STEPS):
      dispatch(log, step, bad=8 * step)


def test_bad_videos_of_another_list_do_not_count(tmp_path):
  log = opened(tmp_path, start=5, kept={'counted_from': [5, 40]})
  for step in range(6, STEPS):
    dispatch(log, step, bad=40)
  assert log.keep()['counted_from'] == [5, 40]


def test_an_epoch_that_began_with_other_videos_is_not_a_whole_one(tmp_path):
  """Ten visits, two a step, of ten videos: they may meet the broken one twice, or never."""
  log = opened(tmp_path, start=2, videos=10, kept={'counted_from': [2, 0]})
  dispatch(log, 7, bad=4)
  log.fetch()
  weighted = opened(tmp_path / 'weighted', videos=10, weighted=True)
  dispatch(weighted, 5, bad=4)
  weighted.fetch()
  whole = opened(tmp_path / 'whole', videos=10)
  dispatch(whole, 5, bad=4)
  with pytest.raises(UserError, match='10.0% of the videos'):
    whole.fetch()


def test_a_full_disk_is_logged_once(tmp_path, caplog, monkeypatch):
  log = opened(tmp_path)

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  for _ in range(3):
    with log.logging_write_errors('pictures'):
      full()
  assert [r.getMessage() for r in caplog.records] == [
    'pictures cannot be written: [Errno 28] No space left on device. The run goes on.'
  ]
  with pytest.raises(ValueError), log.logging_write_errors('pictures'):
    raise ValueError('a bug')
  # Lines of metrics that waited are in the files once there is room.
  log.writer._lines._file, there = types.SimpleNamespace(write=full), log.writer._lines._file
  for step in range(1, 9):
    dispatch(log, step)
  log.fetch()
  assert len(caplog.records) == 2 and 'metrics.jsonl cannot be written: No space' in caplog.text
  assert read_metrics(tmp_path) == []
  log.writer._lines._file = there
  for step in range(9, STEPS + 1):
    dispatch(log, step)
  finish(log)
  assert [line['step'] for line in lines(tmp_path)] == [4, 8, 12]


@pytest.mark.parametrize(
  'kind, mfu',  # At 10 clips/s of 98.9 TFLOP: all of an H200.
  [('NVIDIA H200', 1.0), ('NVIDIA H100 PCIe', 989 / 756), ('NVIDIA Z1', None)],
)
def test_mfu_and_a_device_without_one(kind, mfu, tmp_path, monkeypatch, capsys):
  mesh, state = sharding.make_mesh(), init_state({'a': jnp.ones(2)}, optax.sgd(0.1), ema=0.0)
  log = opened(tmp_path, clip_flops=989 * 10**11)
  device = types.SimpleNamespace(platform='gpu', device_kind=kind)
  monkeypatch.setattr(jax, 'devices', lambda: [device])
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  log.describe(state, mesh)
  lines = capsys.readouterr().err.splitlines()
  told = [line for line in lines if 'MFU' in line]
  assert told == (
    [] if mfu else ['no MFU is shown: the peak of NVIDIA Z1 is not in vmae_jax/chips.py']
  )
  speed = log._speed((0, 0.0, 0.0), (5, 4.0, 0.0))  # 40 clips in 4 seconds.
  assert speed.get('mfu') == (mfu and pytest.approx(mfu))
  log.close()


def test_the_first_step_and_about_twenty_lines_are_printed(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr('tests.runs.test_run_log.STEPS', 400)
  log = opened(tmp_path)
  log.describe(init_state({}, optax.sgd(0.1), ema=0.0), sharding.make_mesh())
  for step in range(1, 401):
    dispatch(log, step)
  finish(log)
  told = [line for line in capsys.readouterr().err.splitlines() if line]
  assert 'compiling ...' in told and any(x.startswith('step 1 ended after') for x in told)
  assert 18 <= sum(line.startswith('step ') and '/400' in line for line in told) <= 22
  assert len(read_metrics(tmp_path)) == 100  # Every four steps, as the config says.
