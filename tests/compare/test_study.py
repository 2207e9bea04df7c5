"""A study from the first run to its tables, with a stop in between."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import compare as compare_config
from configs import motionmae
from tests import started
from vmae_jax.compare import study as study_module
from vmae_jax.compare.measures import Measures
from vmae_jax.compare.study import Study, run_study
from vmae_jax.config_file import load_config
from vmae_jax.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from vmae_jax.method.build import build_method

STUDY = """
import ml_collections
from configs import finetune, mam2, videomae

SET = 'frames=4,size=16,clips=24'

def get_config(arg=''):
  c = ml_collections.ConfigDict()
  c.arms = {'pixels': videomae.get_config('smoke'), 'MAM2': mam2.get_config('smoke')}
  c.arms.MAM2.tokenizer.path = ''
  for config in c.arms.values():
    config.data.train, config.data.size, config.data.frames = f'synthetic:train,{SET}', 16, 4
    config.data.repeats, config.data.crop, config.batch_size = 1, 'centre', 4
    config.steps, config.checkpoint.every_steps, config.checkpoint.keep_every_steps = 4, 2, 2
    config.log.pictures_every_steps = 1000
    if arg == 'faster':
      config.optimizer.base_lr = 1.0
  labels = {
    x: [f'synthetic:{split},{SET},label={x}' for split in ('train', 'val')]
    for x in ('motion', 'look')
  }
  c.baseline, c.seeds = 'pixels', (0,) if arg else (0, 1)
  slow = {'motion': [('slow', labels['motion'][1] + ',speed=0.5')]}
  c.measures = dict(labels=labels, probes=('knn',), batch_size=8, held_out=slow)
  tuned = finetune.get_config('smoke')
  tuned.data.train, tuned.data.val = labels['motion']
  tuned.data.size, tuned.data.frames, tuned.model.position_grid = 16, 4, (2, 2, 2)
  tuned.steps, tuned.batch_size, tuned.test.batch_size = 1, 4, 8
  c.finetuning = {'motion, all': tuned}
  c.tokenizer = dict(videos=f'synthetic:train,{SET}', factor=8, codes=8, size=16)
  c.tokenizer.update(steps=2, batch=8, stride=1, seed=0)
  return c
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'study.py'
  path.write_text(STUDY)
  return str(path)


def start(spec, *flags):
  command = [sys.executable, '-m', 'vmae_jax.compare', spec, *flags]
  return subprocess.Popen(
    command,
    env=started.environment(),
    cwd=started.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_a_study_continues_after_a_stop(file, tmp_path):
  workdir = tmp_path / 'study'
  process = start(f'{file}:one', f'--workdir={workdir}')
  for line in process.stdout:
    if 'MAM2, seed 0' in line:
      process.send_signal(signal.SIGTERM)
      break
  output = process.communicate(timeout=300)[0]
  assert process.returncode == EXIT_PREEMPTED, output
  first = workdir / 'pixels' / '0' / 'result.json'
  before = first.stat().st_mtime_ns
  started.wait_for([start(f'{file}:one', f'--workdir={workdir}')])
  assert first.stat().st_mtime_ns == before  # What was done is not done again.

  results = json.loads((workdir / 'results.json').read_text())
  seeds = {arm: found['seeds'] for arm, found in results['arms'].items()}
  assert seeds == {'pixels': [0], 'MAM2': [0], 'untrained': [0]}
  assert list(results['arms']['pixels']['curve']) == ['2', '4']
  assert 'motion, all/fine-tuned/-1' in results['arms']['MAM2']['differences']
  assert '| MAM2 | 1 |' in (workdir / 'results.md').read_text()
  assert {p.name for p in workdir.glob('*.png')} == {
    'look-motion.png',
    'curves.png',
    'gain-motion.png',
  }
  (output,) = started.wait_for(
    [start(f'{file}:faster', f'--workdir={workdir}')], code=EXIT_USER_ERROR
  )
  assert 'holds a run with another config: optimizer.base_lr was ' in output


def test_runs_with_other_measures_are_measured_again(file, tmp_path):
  study = Study(load_config(file))
  study.finetuning = {}  # It runs in other processes, see above.
  path = tmp_path / 'untrained' / '0' / 'result.json'
  path.parent.mkdir(parents=True)
  config = json.loads(study.config('untrained', 0).to_json())
  del config['data']['seconds']  # As if the run were older than this key.
  config['log']['every_steps'] = 7  # Nothing that is computed.
  path.write_text(json.dumps({'config': config, 'measures': {}, 'measured': {}}))
  run_study(study, tmp_path, only='untrained,0')
  result = json.loads(path.read_text())
  assert result['measures'] == study.asked() and list(result['measured']) == ['0']


def test_fine_tuning_is_added_to_measured_runs(file, tmp_path, monkeypatch):
  """Runs are not measured again; a study with fewer measures keeps the others."""
  asked = []

  def finetune(config, workdir):
    asked.append((config.init_from, config.seed))
    (Path(workdir) / 'summary.json').parent.mkdir(parents=True)
    (Path(workdir) / 'summary.json').write_text('{"test_top1": 0.25}')

  monkeypatch.setattr(study_module, 'finetune', finetune)
  study = Study(load_config(file))
  tuned, study.finetuning = study.finetuning, {}
  run_study(study, tmp_path, only='untrained,1')
  path = tmp_path / 'untrained' / '1' / 'result.json'
  before = json.loads(path.read_text())
  monkeypatch.setattr(Measures, 'of_fresh', None)
  study.finetuning = tuned
  run_study(study, tmp_path, only='untrained,1')
  after = json.loads(path.read_text())
  assert after['measures'] == study.asked() and asked == [('', 1)]
  assert after['measured']['0'].pop('motion, all') == {'fine-tuned': {'-1': 0.25}}
  assert after['measured'] == before['measured']
  study.finetuning = {}
  run_study(study, tmp_path, only='untrained,1')
  assert 'motion, all' in json.loads(path.read_text())['measured']['0'] and len(asked) == 1


def test_runs_are_listed_seed_by_seed(file):
  runs = list(Study(load_config(file)).runs())
  assert runs == [(arm, seed) for seed in (0, 1) for arm in ('pixels', 'MAM2', 'untrained')]


def test_arms_of_a_seed_start_with_the_same_encoder():
  study = Study(compare_config.get_config('demo'))
  encoders = {}
  for arm in study.arms:
    config = study.config(arm, 3)
    if config.method == 'mam2':
      config.tokenizer.path = 'untrained'
    method = build_method(config)
    encoder = jax.jit(lambda key, method=method: method.init(key)['encoder'])
    encoders[arm] = encoder(jax.random.key(config.seed))
  for encoder in encoders.values():
    jax.tree.map(np.testing.assert_array_equal, encoder, encoders['pixels'])


def test_targets_of_another_clip():
  config = motionmae.get_config('smoke')
  own = build_method(config)
  config.heads.motion.other_clip = True
  control = build_method(config)
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (8, 8, 32, 32, 3)).astype(np.uint8)
  batch = {'video': jnp.asarray(video)} | dict.fromkeys(
    ('epoch', 'sample', 'repeat'), jnp.arange(8)
  )
  params = jax.jit(own.init)(jax.random.key(0))
  there, other = (
    jax.jit(lambda m=m: m.forward(params, batch, m.frozen).targets)() for m in (own, control)
  )
  np.testing.assert_array_equal(other['pixels'].values, there['pixels'].values)
  # Of the other video: both have four clips, which stand side by side.
  np.testing.assert_array_equal(
    other['motion'].values, there['motion'].values[jnp.array([4, 5, 6, 7, 0, 1, 2, 3])]
  )
  config.optimizer.accumulate = 2
  with pytest.raises(UserError, match='are from one video'):
    build_method(config)


def test_mistakes(file, tmp_path):
  config = load_config(file)
  with pytest.raises(UserError, match="--only: there is no 'pixel,0'"):
    run_study(Study(config), tmp_path, only='pixel,0')
  config.baseline = 'pixel'
  with pytest.raises(UserError, match="baseline: there is no 'pixel'"):
    Study(config)
  del config.seeds
  with pytest.raises(UserError, match="'seeds'"):
    Study(config)
