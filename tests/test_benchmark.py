"""`python -m vmae_jax.benchmark`: step and loader of every method are measured correctly."""

import json
import subprocess
import sys

import pytest

from tests import started

# Models that compile in seconds, and videos that take a tenth of a second each, one after another.
PROGRAM = """
import json, sys, time
from absl import flags
from absl.testing import flagsaver
from vmae_jax import benchmark, chips, cli
from vmae_jax.data.clips import ClipSampler
from vmae_jax.models.sizes import SIZES

one = dict(width=16, depth=1, heads=2, mlp=32)
SIZES['demo'] = one | dict(decoder=one)
chips.CHIPS['cpu'] = chips.Chip(1e12, 'a test')
draw = ClipSampler.draw

def slowly(*arguments):
  time.sleep(0.1)
  return draw(*arguments)

ClipSampler.draw = slowly
for arguments in json.load(sys.stdin):
  sys.argv = ['benchmark', *arguments]
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    try:
      cli.run(benchmark.main)
    except SystemExit as e:
      assert e.code == 2, arguments
"""
SMALL = ('--steps=3', '--batch=2')
SMALL += ('--config.data.threads=1', '--config.data.repeats=1', '--config.data.frames=4')
CONFIGS = ('videomae', 'mam2')
OTHERS = ('motionmae', 'mgmae', 'mme', 'finetune')
VIDEOMAE = '--config=configs/videomae.py:smoke'
MISTAKES = {  # Flags -> their error message.
  (): 'give --config=FILE',
  (VIDEOMAE, '--batch=3', '--config.data.repeats=1'): 'batch_size 3 is no',
  (VIDEOMAE, '--out=nowhere/a.json'): '--out=nowhere/a.json',
  (VIDEOMAE, '--steps=0'): 'steps',
  (VIDEOMAE, 'step'): "'step' is",
  (VIDEOMAE, 'loader', '--feed=raw', '--config.data.train='): 'name the videos',
  (VIDEOMAE, 'loader', '--feed=shards'): 'synthetic:train is not a folder of shards',
}


def run(calls):
  """The output of several calls of the command, all in one process with two devices."""
  return subprocess.run(
    [sys.executable, '-c', PROGRAM],
    input=json.dumps(calls),
    env=started.environment(devices=2),
    cwd=started.ROOT,
    capture_output=True,
    text=True,
    timeout=1200,
  )


def measure(names, folder, *, more=()):
  """Config -> its JSON; and the finished process, which also made other calls."""
  calls = [
    (f'--config=configs/{name}.py:smoke', f'--out={folder}/{name}.json', *SMALL) for name in names
  ]
  done = run([*calls, *more])
  assert done.returncode == 0, done.stderr
  return {name: json.loads((folder / f'{name}.json').read_text()) for name in names}, done


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  more = [(VIDEOMAE, *SMALL, '--config.data.train='), *MISTAKES]
  return measure(CONFIGS, tmp_path_factory.mktemp('measured'), more=more)


@pytest.mark.slow
def test_other_methods(tmp_path):
  results, _ = measure(OTHERS, tmp_path)
  assert all(len(result['rows']) == 4 for result in results.values())
  mme = results['mme']  # Flow and histograms.
  assert 0 < mme['target_flops'] < mme['clip_flops']


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config(measured, name):
  result = measured[0][name]
  assert result['mesh'] == {'data': 2, 'fsdp': 1, 'tensor': 1} and result['batch_size'] == 2
  assert result['packages']['jax'] and result['peak_bytes'] > 2**27
  rows = result['rows']
  assert list(rows) == ['hand-over', 'step', 'loader', 'training']
  for row in rows.values():
    assert row['fastest'] <= row['seconds'] <= row['slowest']
    assert row['clips_per_second'] == pytest.approx(2 / row['seconds'])
  step = rows['step']
  assert step['mfu'] == pytest.approx(step['teraflops_per_second'] / 2)  # Two devices of 1 TFLOP/s.
  flops = step['clips_per_second'] * result['clip_flops']
  assert step['teraflops_per_second'] == pytest.approx(flops / 1e12)


@pytest.mark.parametrize('name', CONFIGS)
def test_what_decoding_takes(measured, name):
  rows = measured[0][name]['rows']
  assert rows['loader']['seconds'] > 0.9 * 2 * 0.1
  assert rows['hand-over']['fastest'] < 0.1  # No video is read again.
  assert rows['training']['seconds'] > 0.9 * 2 * 0.1
  assert rows['step']['data_wait'] == 0
  if rows['step']['seconds'] < 0.1:  # Otherwise the step hides decoding.
    assert 0.2 < rows['training']['data_wait'] <= 1


def test_frozen_networks_are_counted_separately(measured):
  results = measured[0]
  for name, result in results.items():  # A tokenizer; pixels need no product.
    if name == 'mam2':
      assert 0 < result['target_flops'] < result['clip_flops']
    else:
      assert result['target_flops'] == 0


def test_what_is_printed(measured):
  text = measured[1].stdout
  assert 'videomae, size demo: 2 clips a step, mesh data 2 x fsdp 1 x tensor 1 of cpu' in text
  for part in ('GFLOP a clip: the model ', 'peak memory of this process ', 'means of 3 '):
    assert text.count(part) == len(CONFIGS) + 1, text
  assert text.count('clips/s for each of') == len(CONFIGS) and 'no MFU' not in text
  assert 'loader and training were left out: data.train names no videos' in text


def test_mistakes(measured):
  lines = [line for line in measured[1].stderr.splitlines() if line.startswith('error: ')]
  for line, part in zip(lines, MISTAKES.values(), strict=True):
    assert part in line, line
