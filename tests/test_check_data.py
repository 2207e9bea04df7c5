"""The report on a list of videos."""

import csv
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.data.clips_on_disk import write_video
from vmae_jax.check_data import _write, judge
from vmae_jax.data.sources import Entry, FileSource, open_source
from vmae_jax.prepare.examine import Finding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.prepare_shards import write_shards


def _run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'vmae_jax.check_data', *arguments],
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )


def test_paths_in_a_bucket_stay_what_they_are(tmp_path):
  there = 's3://bucket/a.mp4'
  source = FileSource((Entry(there, 0, tail=' 0'),))
  _write(str(tmp_path), source, {there: Finding(there, frames=9, rate=25.0)}, 4)
  assert (tmp_path / 'clean.txt').read_text() == f'{there} 0\n'


def test_folders_of_frames_stay_folders(tmp_path):
  path = f'{tmp_path}/bear/'
  source = FileSource((Entry(path, tail=' -1'),))
  _write(str(tmp_path), source, {path: Finding(path, frames=90, rate=24.0)}, 4)
  assert (tmp_path / 'clean.txt').read_text() == f'{path} -1\n'


def test_report(tmp_path):
  folder, out = tmp_path / 'my videos', tmp_path / 'out'
  folder.mkdir()
  write_video(folder / 'good 1.mp4', frames=30, height=64)
  (folder / 'twin.mp4').write_bytes((folder / 'good 1.mp4').read_bytes())
  write_video(folder / 'short.mp4', frames=5, height=64)
  write_video(folder / 'tiny.mp4', frames=30, height=16)
  (folder / 'broken.mp4').write_bytes(b'x')
  lines = ['good 1.mp4,0', 'broken.mp4,1', 'short.mp4,1', 'none.mp4,1', 'tiny.mp4,0', 'twin.mp4,0']
  (folder / 'list.csv').write_text('\n'.join(lines))
  (folder / 'classes.txt').write_text('run\nwalk\n')
  done = _run(str(folder / 'list.csv'), f'--out={out}', '--frames=4', '--stride=5', '--workers=2')
  assert done.returncode == 0, done.stderr
  assert '2 ok, 1 odd, 1 short, 2 broken' in done.stdout
  assert 'same content: ' in done.stdout and 'another has too: 1' in done.stdout
  with open(out / 'report.csv', newline='') as f:
    rows = {os.path.basename(row['path']): row for row in csv.DictReader(f)}
  status = {name: row['status'] for name, row in rows.items()}
  assert status == {
    'good 1.mp4': 'ok',
    'broken.mp4': 'broken',
    'short.mp4': 'short',
    'none.mp4': 'broken',
    'tiny.mp4': 'odd',
    'twin.mp4': 'ok',
  }
  good = rows['good 1.mp4']
  assert (good['frames'], good['rate'], good['seconds']) == ('30', '25.0', '1.2')
  assert good['hash'] == rows['twin.mp4']['hash'] != rows['tiny.mp4']['hash']
  clean = open_source(str(out / 'clean.txt'))
  names = [os.path.basename(clean.name(i)) for i in range(len(clean))]
  assert names == ['good 1.mp4', 'short.mp4', 'tiny.mp4', 'twin.mp4']
  assert [clean.label(i) for i in range(4)] == [0, 1, 0, 0]
  assert clean.class_names == ('run', 'walk')
  assert all(os.path.isfile(clean.name(i)) for i in range(4))
  assert (out / 'clean.txt').read_text().startswith(f'{folder}/good 1.mp4,0\n')
  assert 'classes: 2, of 1 to 3' in (out / 'datasheet.txt').read_text()
  assert Image.open(out / 'contact_sheet.png').width > 800


def test_shards(tmp_path):
  """A record whose bytes changed on the disk is found; shards get no clean list."""
  videos = []
  for i in range(3):
    path = write_video(tmp_path / f'{i}.mp4', frames=30, height=64, width=64 + 2 * i)
    videos.append(Listed(f'v{i}', path, label=i % 2))
  options = dict(about={}, classes=['run', 'walk'], encoding=None, workers=1, seconds=60.0)
  shards, out = tmp_path / 'shards', tmp_path / 'out'
  manifest = write_shards(videos, shards, **options)
  path = shards / manifest['shards'][0]['name']
  content = path.read_bytes()
  data = (tmp_path / '1.mp4').read_bytes()
  at = content.index(data) + 40
  path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
  done = _run(str(shards), f'--out={out}', '--frames=4', '--stride=5', '--workers=1')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('2 ok, 0 odd, 0 short, 1 broken\nbroken: ')
  with open(out / 'report.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  assert [row['path'] for row in rows] == [f'{shards}:v{i}' for i in range(3)]
  assert [row['status'] for row in rows] == ['ok', 'broken', 'ok']
  assert (rows[2]['frames'], rows[2]['width'], rows[2]['codec']) == ('30', '68', 'h264')
  assert (out / 'classes.txt').read_text() == 'run\nwalk\n'
  assert (out / 'contact_sheet.png').exists() and not (out / 'clean.txt').exists()


def test_mistakes(tmp_path):
  done = _run(str(tmp_path / 'none.csv'), f'--out={tmp_path}')
  assert done.returncode == 2
  assert done.stderr.startswith('error: there is no list') and done.stderr.count('\n') == 1


@pytest.mark.parametrize(
  'entry, found, status',
  [
    (Entry('a'), dict(), 'ok'),
    (Entry('a', start=40), dict(), 'short'),
    (Entry('a', count=63), dict(), 'short'),
    (Entry('a', start=36, count=99), dict(), 'ok'),
    (Entry('a', start=100), dict(), 'broken'),
    (Entry('a'), dict(reason='no'), 'broken'),
    (Entry('a'), dict(rate=0.0), 'odd'),
    (Entry('a'), dict(rate=1000.0), 'odd'),
    (Entry('a'), dict(width=2000), 'odd'),
  ],
)
def test_judge(entry, found, status):
  whole = dict(frames=100, rate=25.0, width=320, height=240) | found
  assert judge(entry, Finding('a', **whole), span=64)[0] == status
