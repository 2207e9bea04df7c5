"""Fine-tuning's configs and mistakes, told as a user meets them."""

import subprocess
import sys

import pytest

from configs import finetune as configs
from configs import videomae
from tests import started
from vmae_jax import config as config_lib
from vmae_jax import config_finetuning
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.method.supervised import build_supervised
from vmae_jax.training import loop

SMOKE = f'{started.ROOT}/configs/finetune.py:smoke'
ARGUMENTS = [
  *(
    f'{size},{data}' for size in ('tiny', 's', 'b', 'l', 'h', 'giant') for data in ('k400', 'ssv2')
  ),
  *(f'b,{data}' for data in (*configs.RECIPES, 'hmdb51')),
  *('demo', 'videos', 'smoke'),
]


@pytest.mark.parametrize('arg', ARGUMENTS)
def test_config(arg):
  config = configs.get_config(arg)
  config_finetuning.check(config, devices=1)
  assert build_supervised(config, classes=5).model.classes == 5
  with config.unlocked():  # The grid of pre-training's clips of the same size.
    config.model.positions = 'interpolate'
  clip = config.data.frames, config.data.size, config.data.size
  grid = tuple(n // p for n, p in zip(clip, config.model.patch, strict=True))
  assert tuple(config.model.position_grid) == grid


# Argument -> clips in a step, peak and last learning rate, passes over the videos, layer decay,
# drop path, segments: the tables of the papers' scripts.
TABLE = {
  's,k400': (768, 7.5e-4, 1.5e-6, 150, 0.75, 0.1, 5),
  'b,k400': (768, 7.5e-4, 1.5e-6, 75, 0.75, 0.1, 5),
  'l,k400': (256, 1e-3, 0.5e-6, 35, 0.75, 0.1, 5),
  'h,k400': (1024, 2e-3, 2e-5, 50, 0.75, 0.2, 5),
  'b,k400_800': (512, 2e-3, 2e-6, 100, 0.75, 0.1, 5),
  's,ssv2': (768, 1.5e-3, 1.5e-6, 40, 0.7, 0.1, 2),
  'b,ssv2': (768, 7.5e-4, 1.5e-6, 30, 0.75, 0.1, 2),
  'b,ssv2_800': (512, 1e-3, 2e-6, 50, 0.75, 0.1, 2),
  'b,ucf101': (256, 2.5e-4, 5e-6, 100, 0.7, 0.2, 5),
  'b,k400_mgmae': (1024, 1.4e-3, 2e-6, 90, 0.75, 0.1, 5),
  'b,ssv2_mgmae': (512, 2e-3, 1e-6, 25, 0.65, 0.1, 2),
  'b,ssv2_mme': (896, 8.75e-4, 1.75e-6, 30, 0.75, 0.1, 2),
  'b,k400_mme': (768, 1.5e-3, 1.5e-6, 75, 0.75, 0.1, 7),
}


@pytest.mark.parametrize('arg', ARGUMENTS)
def test_frames_and_resampling_are_the_released_ones_under_the_papers_names(arg):
  data = configs.get_config(arg).data
  if arg in ('demo', 'videos', 'smoke'):
    assert (data.sampling, data.resampling) == ('dense', 'antialiased')
  else:
    sampling = 'segment' if 'ssv2' in arg else 'linspace'
    assert (data.sampling, data.resampling) == (sampling, 'bilinear')


def test_an_unknown_resampling():
  config = configs.get_config('b,k400')
  config.data.resampling = 'cubic'
  with pytest.raises(UserError, match="data.resampling: there is no 'cubic'"):
    config_finetuning.check(config, devices=1)


def test_what_an_older_run_did():
  implied = config_finetuning.implied().data
  assert (implied.order, implied.released_end) == ('added', True)
  assert implied.resampling == 'antialiased'


@pytest.mark.parametrize('arg', TABLE)
def test_the_papers_numbers(arg):
  c = configs.get_config(arg)
  videos = 240_000
  steps = loop.count_steps(c, videos=videos)
  schedule = loop.make_schedule(c, steps=steps, videos=videos)
  warmup = round(5 * videos * c.data.repeats / c.batch_size)
  passes = steps * c.batch_size / c.data.repeats / videos
  found = (
    *(c.batch_size, float(schedule(warmup - 1)), float(schedule(steps)), passes),
    *(c.optimizer.layer_decay, c.model.drop_path, c.test.segments),
  )
  assert found == pytest.approx(TABLE[arg], rel=1e-3)
  assert float(schedule(0)) == 0 and float(schedule(warmup)) == pytest.approx(found[1])
  assert schedule(warmup // 2) < found[1]
  assert (c.test.crops, c.mixing.smoothing, c.mixing.mixup, c.mixing.cutmix) == (3, 0.1, 0.8, 1.0)
  assert (c.optimizer.b1, c.optimizer.b2, c.optimizer.weight_decay) == (0.9, 0.999, 0.05)
  ssv2 = 'ssv2' in arg
  assert (c.data.flip, c.data.sampling) == ((False, 'segment') if ssv2 else (True, 'linspace'))
  assert c.data.crop_area[0] == (0.25 if 'mme' in arg else 0.08)


def test_configs_of_pretraining_and_finetuning_are_told_apart():
  with pytest.raises(UserError, match="'videomae'.* is not for fine-tuning"):
    config_finetuning.check(videomae.get_config('smoke'), devices=1)
  with pytest.raises(UserError, match="'finetuning'.* is not for pre-training"):
    config_lib.check(configs.get_config('smoke'), devices=1)


VALUES = [
  ('model.drop_path', 1.0, 'model.drop_path is 1.0: it must be at most 0.99'),
  ('mixing.smoothing', -0.1, 'mixing.smoothing is -0.1: it must be at least 0'),
  ('optimizer.layer_decay', 0.0, 'optimizer.layer_decay is 0.0'),
  ('test.segments', 0, 'test.segments is 0: it must be at least 1'),
  ('model.positions', 'learn', "model.positions: there is no 'learn'"),
  ('model.position_grid', (8, 14), r'model.position_grid is \(8, 14\): it takes three'),
  ('data.crop_area', (0.5, 0.1), 'data.crop_area is'),
  ('init_share', 1.5, 'init_share is 1.5: it must be at most 1'),
  ('data.repeats', 3, 'batch_size 8 is no multiple of 3'),
]


@pytest.mark.parametrize('key, value, message', VALUES)
def test_values(key, value, message):
  config = load_config(SMOKE)
  *block, name = key.split('.')
  node = config[block[0]] if block else config
  with config.unlocked():
    node[name] = value
  with pytest.raises(UserError, match=message):
    config_finetuning.check(config, devices=1)


MISTAKES = [
  ('--config.mixing.mixupp=1', "Did you mean 'mixup'?"),
  ('--config.masking.ratio=0.9', "'masking'"),
  ('--config.data.val=', 'give --config.data.val=LIST'),
  ('--config.init_from=nowhere', "there is no 'nowhere'"),
  ('--config.steps=0', 'is a test alone: give --config.init_from'),
  ('--config.data.train=train.txt', 'train.txt has only one class'),
  ('--config.data.val=val.txt', 'val.txt: the label 40 of'),
]


def test_mistakes_are_reported_in_one_line(tmp_path):
  """All in one process, as each start of Python takes seconds."""
  (tmp_path / 'a.mp4').touch()
  (tmp_path / 'train.txt').write_text('a.mp4 0\na.mp4 0\n')
  (tmp_path / 'val.txt').write_text('a.mp4 0\na.mp4 40\n')
  program = f"""
import sys
from absl import flags
from absl.testing import flagsaver
from vmae_jax import cli, finetune
for argument in {[argument for argument, _ in MISTAKES]}:
  sys.argv = ['finetune', '--config={SMOKE}', '--workdir=run', argument]
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    try:
      cli.run(finetune.main)
    except SystemExit as e:
      assert e.code == 2, e.code
"""
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=started.environment(),
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  lines = done.stderr.splitlines()
  assert len(lines) == len(MISTAKES), done.stderr
  for line, (argument, part) in zip(lines, MISTAKES, strict=True):
    assert line.startswith('error: ') and part in line, (argument, line)
  assert not (tmp_path / 'run').exists()
