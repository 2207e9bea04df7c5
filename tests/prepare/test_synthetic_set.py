"""The synthetic set as files."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.shards_on_disk import main
from vmae_jax.data.sources import open_source
from vmae_jax.data.synthetic import LABELS, MOTIONS, SyntheticSource
from vmae_jax.errors import UserError
from vmae_jax.prepare import synthetic_set


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sets') / 'motion'
  options = {'train': 24, 'val': 13, 'frames': 8, 'size': 32, 'seed': 2, 'workers': 1}
  assert synthetic_set.write_set(folder, **options)
  return folder, options


def test_lists_and_files(written):
  folder, options = written
  assert (folder / 'classes.txt').read_text().split() == list(MOTIONS)
  assert json.loads((folder / 'set.json').read_text())['seed'] == options['seed']
  assert [path.name for path in folder.parent.iterdir()] == ['motion']
  for split in ('train', 'val'):
    source = SyntheticSource(split, clips=options[split], frames=8, size=32, seed=2)
    lines = [line.split() for line in (folder / f'{split}.txt').read_text().splitlines()]
    assert len(lines) == options[split]
    for i, (name, label) in enumerate(lines):
      assert (name, int(label)) == (source.name(i), source.label(i))
      assert Path(name).parts[:2] == (split, MOTIONS[int(label)])
      with av.open(str(folder / name)) as container:
        decoded = [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]
      drawn = source.open(i).read(range(8))
      error = np.abs(np.stack(decoded).astype(int) - drawn).mean()
      other = np.abs(np.stack(decoded).astype(int) - drawn[::-1]).mean()
      assert error < 10 and error < other  # In this order, too.


@pytest.mark.parametrize('split', ['train', 'val'])
def test_lists_of_both_labels_name_the_same_videos(written, split):
  folder, options = written
  motion, look = (open_source(str(folder / part / f'{split}.txt')) for part in ('', 'look'))
  assert len(motion) == len(look) == options[split]
  for i in range(len(look)):
    assert Path(motion.name(i)).samefile(look.name(i))
    assert look.label(i) == i // len(MOTIONS) % 12
  assert (motion.class_names, look.class_names) == tuple(LABELS.values())


def test_keeps_the_same_set(written):
  folder, options = written
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
  assert not synthetic_set.write_set(folder, **options)
  assert before == {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def test_refuses_another_set(written):
  folder, options = written
  with pytest.raises(UserError, match='seed 2, not 3'):
    synthetic_set.write_set(folder, **{**options, 'seed': 3})


def test_refuses_a_folder_of_something_else(tmp_path):
  (tmp_path / 'mine').write_text('precious')
  for taken in (tmp_path, tmp_path / 'mine'):
    with pytest.raises(UserError, match='not empty'):
      synthetic_set.write_set(taken)
  assert (tmp_path / 'mine').read_text() == 'precious'


def test_the_command_reports_what_is_in_its_way(tmp_path):
  there = tmp_path / 'set' / 'set.json'
  there.parent.mkdir()
  there.write_text('{')
  for out, message in (
    (there / 'more', 'more cannot be .*Not a directory'),
    (there.parent, 'set.json is damaged'),
  ):
    with pytest.raises(UserError, match=message):
      main('synthetic', f'--out={out}', '--train=1', '--val=1')
  assert there.read_text() == '{'


@pytest.mark.parametrize(
  ('name', 'value'),
  [('train', 0), ('val', -1), ('frames', 0), ('size', 33), ('size', 8), ('seed', -1)]
  + [('workers', 0)],
)
def test_refuses_bad_numbers(tmp_path, name, value):
  with pytest.raises(UserError, match=name):
    synthetic_set.write_set(tmp_path / 'a', **{name: value})
  assert not list(tmp_path.iterdir())


def test_leaves_nothing_half_done(tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError('disk full')

  monkeypatch.setattr(synthetic_set.json, 'dumps', fail)
  with pytest.raises(OSError, match='disk full'):
    synthetic_set.write_set(tmp_path / 'a', train=1, val=1, frames=1, size=16, workers=1)
  assert not list(tmp_path.iterdir())


def test_starts_without_jax():
  code = 'import sys, vmae_jax.prepare; assert not {"jax", "torch", "tensorflow"} & {*sys.modules}'
  subprocess.run([sys.executable, '-c', code], check=True)
