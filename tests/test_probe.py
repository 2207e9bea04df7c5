"""The probe's entry point, from videos to its table."""

import json
import subprocess
import sys

import jaxtyping
import pytest

from tests import started
from tests.data.clips_on_disk import write_video
from tests.fresh_run import save_fresh_run
from vmae_jax.evaluation import probing
from vmae_jax.interchange.convert import convert
from vmae_jax.runs.run_dir import remove_unfinished


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A run, and lists of videos."""
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # As in test_finetuning.
  save_fresh_run(tmp_path / 'run')
  for i in range(4):
    write_video(tmp_path / f'{i}.mp4', frames=12, height=32, width=32)
  lines = [f'{i % 4}.mp4 {i % 2}\n' for i in range(20)]
  (tmp_path / 'train.txt').write_text(''.join(lines))
  (tmp_path / 'val.txt').write_text(''.join(lines[:6]))
  return tmp_path


def probe(place, checkpoint, *arguments):
  command = [sys.executable, '-m', 'vmae_jax.probe', f'--checkpoint={checkpoint}']
  command += ['--train=train.txt', '--val=val.txt', '--batch_size=10', *arguments]
  environment = started.environment()
  done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done


def test_all_probes_of_a_run(place):
  probes = '--probes=knn,linear_plain,attentive'
  done = probe(place, 'run', probes, '--epochs=1', '--cache_gb=0')
  titles = 'k-NN top-1  linear without BatchNorm top-1  attentive top-1'
  assert done.stdout.splitlines()[0].strip() == titles
  found = json.loads((place / 'run' / 'probe.json').read_text())
  assert found['clips'] == {'train': 20, 'val': 6} and found['largest_class'] == 0.5
  for row in found['accuracy'].values():
    assert list(row) == ['knn', 'linear_plain', 'attentive']
    assert all(0 <= result['top1'] <= 1 for result in row.values())
    assert row['attentive']['best_top1'] >= row['attentive']['top1']


def test_an_attentive_probe_alone_pools_nothing(place, monkeypatch):
  monkeypatch.setattr(probing, '_features', None)
  monkeypatch.chdir(place)
  given = dict(train='train.txt', val='val.txt', epochs=1, untrained=False)
  found = probing.probe('run', probes=['attentive'], **given)
  assert found['clips'] == {'train': 20, 'val': 6} and found['largest_class'] == 0.5
  assert list(found['accuracy']['pre-trained']) == ['attentive']


def test_a_file_of_weights(place):
  """No file is added to its folder; the JSON says that clips were cut otherwise than in the run."""
  convert(place / 'run', place / 'weights' / 'a.safetensors', to='videomae')
  there = set(place.rglob('*'))
  given = ['--probes=knn', '--stride=1', '--frames=4']
  done = probe(place, 'weights/a.safetensors', *given, '--untrained=False')
  assert set(place.rglob('*')) == there
  done = probe(place, 'weights/a.safetensors', *given, '--out=found.json')
  assert 'clips of 4 frames of 32 x 32, stride 1; weights: as stored' in done.stdout
  found = json.loads((place / 'found.json').read_text())
  assert found['clip'] == {'frames': 4, 'size': 32, 'stride': 1, 'sampling': 'dense'}


@pytest.mark.full
def test_a_run_in_a_bucket(place, gs, store):
  """The run is read there, and the JSON written into its folder."""
  gs.put(str(place / 'run'), 'bucket/run', recursive=True)
  remove_unfinished('gs://bucket/run')  # As training does: a copy from a disk gets Orbax's marks.
  done = probe(place, 'gs://bucket/run', '--probes=knn')
  assert 'written to gs://bucket/run/probe.json' in done.stdout
  assert json.loads(gs.cat('bucket/run/probe.json'))['clips'] == {'train': 20, 'val': 6}
