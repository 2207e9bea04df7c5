"""The method that configs/README.md writes out is one."""

import re
import runpy

import jax
import jaxtyping
import numpy as np
import pytest

from tests import started
from vmae_jax.config_file import load_config
from vmae_jax.masking import MASKINGS
from vmae_jax.method.losses import LOSSES
from vmae_jax.motion.flow import Flow
from vmae_jax.targets import TARGETS
from vmae_jax.training.pretraining import train
from vmae_jax.visualize.predictions import PICTURES


@pytest.fixture
def own(tmp_path, monkeypatch):
  for table in MASKINGS, TARGETS, LOSSES, PICTURES:
    for name in ('columns', 'speed', 'charbonnier'):
      monkeypatch.setitem(table, name, None)  # So that they are gone afterwards.
  text = (started.ROOT / 'configs/README.md').read_text()
  path = tmp_path / 'my_method.py'
  path.write_text(re.search(r'```python\n(.*?)```', text, re.S)[1])
  assert len([line for line in path.read_text().splitlines() if line.strip()]) < 60
  return path


def test_it_trains_and_draws(own, tmp_path, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
  config = load_config(f'{own}:smoke')
  config.steps, config.batch_size, config.log.pictures = 1, 4, 1
  state = train(config, str(tmp_path / 'run'))
  assert state.step == 1 and state.skipped == 0
  assert list(tmp_path.glob('run/pictures/step0000001_speed_speed_clip0.png'))


def test_its_own_two_asserts(own):
  made = runpy.run_path(str(own))
  mask = made['columns'](jax.random.key(0), None, None, grid=(2, 3, 8), ratio=0.5)
  hidden = np.zeros(48)
  hidden[np.asarray(mask.masked)] = 1
  assert (hidden.reshape(6, 8).sum(1) == 4).all()
  assert (hidden.reshape(6, 8) == hidden[:8]).all()
  flow = Flow(jax.numpy.full((1, 3, 8, 8, 2), 2**0.5), made['steps'](4))
  found = made['speed'](jax.numpy.zeros((1, 4, 8, 8, 3)), None, flow=flow, patch=(2, 4, 4))
  np.testing.assert_allclose(found, np.full((1, 8, 1), 0.5), rtol=1e-6)
