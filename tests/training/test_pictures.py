"""Pictures that fail do not end a run."""

import jaxtyping
import numpy as np
import pytest

from tests import started
from vmae_jax.config_file import load_config
from vmae_jax.masking import MASKINGS
from vmae_jax.method.build import build_method
from vmae_jax.runs.metrics import read_metrics
from vmae_jax.sharding import make_mesh
from vmae_jax.targets import TARGETS
from vmae_jax.training.pretraining import train
from vmae_jax.visualize import predictions


def config_of(**heads):
  config = load_config(started.SMOKE)
  config.steps, config.batch_size, config.log.pictures = 2, 8, 1
  config.log.every_steps = config.log.pictures_every_steps = config.checkpoint.every_steps = 1
  config.heads.pixels.update(heads)
  return config


@pytest.fixture(autouse=True)
def plain(monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)


def test_a_target_and_a_masking_of_the_user_train_without_pictures_of_them(tmp_path, monkeypatch):
  monkeypatch.setitem(TARGETS, 'mine', TARGETS['pixels'])
  monkeypatch.setitem(MASKINGS, 'own', MASKINGS['tube'])
  config = config_of(target='mine')
  config.masking.name = 'own'
  train(config, str(tmp_path))
  assert (tmp_path / 'checkpoints' / '2').is_dir() and len(read_metrics(tmp_path)) == 2
  assert not list(tmp_path.glob('pictures/*.png'))


def test_a_picture_that_fails_is_logged(tmp_path, monkeypatch, capsys):
  titles = []

  def broken(shown):
    titles.append(shown.title)
    raise RuntimeError('no font')

  monkeypatch.setitem(predictions.PICTURES, 'pixels', broken)
  config = config_of()
  config.log.held_out = 'synthetic:val'
  train(config, str(tmp_path))
  assert (tmp_path / 'checkpoints' / '2').is_dir()
  told = ''.join(capsys.readouterr())
  assert told.count('no pictures (RuntimeError: no font)') == 3
  assert titles == [f'videomae, step {step}, held-out clip' for step in range(3)]


def test_clips_are_from_all_over_the_list(tmp_path):
  """From a list that is sorted by class: the first, the last and some between."""
  asked = []

  def sampler(source, epoch, sample):
    asked.append(sample)
    return {'video': np.full((1, 8, 32, 32, 3), sample, np.uint8)}

  config, method = config_of(), build_method(config_of())
  config.log.pictures = 4
  drawn = predictions.Pictures(method, range(31), sampler, config, '', make_mesh())
  batch = drawn._batch
  assert asked == [0, 10, 20, 30] == batch['sample'].tolist()
  assert batch['video'][:, 0, 0, 0, 0].tolist() == asked
