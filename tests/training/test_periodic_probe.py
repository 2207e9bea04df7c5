"""The probe during training: when it is due, and that it equals `probe` of that checkpoint."""

import json
import types

import jax
import jaxtyping
import numpy as np
import pytest

from tests import started
from tests.data.clips_on_disk import write_video
from tests.evaluation.checkpoints import write_checkpoint
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.evaluation.probing import PeriodicProbe, probe
from vmae_jax.sharding import make_mesh
from vmae_jax.training.pretraining import train


def test_the_periodic_probe_equals_the_probe_of_the_checkpoint(tmp_path, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # As in test_finetuning.
  for i in range(4):
    write_video(tmp_path / f'{i}.mp4', frames=12, height=32, width=32)
  lines = [f'{i % 4}.mp4 {i % 2}\n' for i in range(20)]
  sets = {'train': lines, 'val': lines[:6]}
  for name, rows in sets.items():
    (tmp_path / f'{name}.txt').write_text(''.join(rows))
  train_set, val_set = (str(tmp_path / f'{name}.txt') for name in sets)
  output = started.run(
    tmp_path / 'run',
    f'data.train={train_set}',
    f'probe.train={train_set}',
    f'probe.val={val_set}',
    'batch_size=10',  # Two steps an epoch.
    'data.repeats=1',
    'optimizer.accumulate=1',
    'probe.every_epochs=2',
    'probe.batch_size=7',  # Raised to whole devices.
    'checkpoint.every_steps=4',
    'steps=6',
    env=started.environment(2),
  )
  said = [line for line in output.splitlines() if 'probe, top-1: k-NN' in line]
  assert [line.split(':')[0] for line in said] == ['step 4', 'step 6']  # The last one always.
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  found = probe(str(tmp_path / 'run'), train=train_set, val=val_set, untrained=False)
  for name, result in found['accuracy']['pre-trained'].items():
    assert summary[f'probe_{name}'] == pytest.approx(result['top1'])


def test_the_moving_average_is_probed_if_there_is_one(tmp_path, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
  for i in range(2):
    write_video(tmp_path / f'{i}.mp4', frames=12, height=32, width=32)
  (tmp_path / 'list.txt').write_text(''.join(f'{i % 2}.mp4 {i % 2}\n' for i in range(20)))
  config, params = write_checkpoint(tmp_path / 'run')
  config.probe.train = config.probe.val = str(tmp_path / 'list.txt')
  due = PeriodicProbe(config, make_mesh(devices=jax.devices()[:1]), steps=1, videos=20)
  log = types.SimpleNamespace(
    fetch=lambda: None,
    writer=types.SimpleNamespace(write_scalars=lambda *_: None),
    progress=types.SimpleNamespace(print=lambda _: None),
  )
  broken = jax.tree.map(lambda x: x * np.nan, params)
  for last, average in ((broken, params), (params, None)):
    state = types.SimpleNamespace(params={'encoder': last}, ema=average and {'encoder': average})
    assert due(1, state, log, lambda: False).keys() == {'probe_knn', 'probe_linear'}


def test_the_periodic_probe_needs_labelled_videos(tmp_path):
  config = load_config(started.SMOKE)
  config.probe.every_epochs = 1.0
  with pytest.raises(UserError, match='give labelled videos as probe.train and probe.val'):
    train(config, str(tmp_path / 'run'))
  write_video(tmp_path / '0.mp4', frames=12, height=32, width=32)
  (tmp_path / 'list.txt').write_text('0.mp4\n')
  config.probe.train = config.probe.val = str(tmp_path / 'list.txt')
  with pytest.raises(UserError, match='list.txt has no labels'):
    train(config, str(tmp_path / 'run'))
  (tmp_path / 'list.txt').write_text('0.mp4 0\n0.mp4 1\n')
  with pytest.raises(UserError, match='has 2 clips: a trained probe needs at least 10'):
    train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
