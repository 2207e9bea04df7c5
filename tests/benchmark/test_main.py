"""The entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark.test_fits import answer
from tests.data.clips_on_disk import write_video
from vmae_jax.benchmark import fits
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.prepare_shards import write_shards

ROOT = Path(__file__).parents[2]


def _run(folder, *arguments):
  return subprocess.run(
    [sys.executable, '-m', 'vmae_jax.benchmark', *arguments],
    capture_output=True,
    text=True,
    cwd=folder,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )


def test_given_videos(tmp_path):
  (tmp_path / 'videos').mkdir()
  video = Path(write_video(tmp_path / 'video.mp4', frames=4)).read_bytes()
  for i in range(25):
    (tmp_path / 'videos' / f'{i}.mp4').write_bytes(video)
  # In another order than they are done in.
  flags = ('--videos=videos', '--rounds=1', '--seconds=0', '--batches=5', '--workers=0')
  done = _run(tmp_path, 'decode', 'loader', *flags)
  assert done.returncode == 0, done.stderr
  assert done.stdout.index('Host memory') < done.stdout.index('clips per CPU-second')
  assert done.stdout.endswith('written: benchmark.json\n')
  report = json.loads((tmp_path / 'benchmark.json').read_text())
  assert list(report) == ['machine', 'load_average', 'date', 'versions', 'commit', 'results']
  assert list(report['results']) == ['loader', 'decode']
  (decode,) = report['results']['decode']
  assert (decode['what'], decode['videos'], decode['rounds']) == ('videos', 20, 1)
  assert decode['decoders']['vmae_jax']['wrong_frames'] == 0
  loader = report['results']['loader']
  (memory,) = loader['memory']
  assert memory['batches'] == 5 and memory['unreadable'] == 0
  assert {row['repeats'] for row in loader['speed']} == {1, 4}


def test_shards_beside_files(tmp_path):
  (tmp_path / 'videos').mkdir()
  write_video(tmp_path / 'videos' / '0.mp4', frames=4)
  write_shards(
    [Listed('0', str(tmp_path / 'videos' / '0.mp4'), 0)],
    tmp_path / 'shards',
    about={},
    classes=(),
    encoding=None,
    workers=1,
    seconds=60.0,
  )
  done = _run(tmp_path, 'decode', '--videos=videos,shards', '--rounds=1')
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / 'benchmark.json').read_text())['results']['decode']
  assert [result['what'] for result in results] == ['videos', 'shards']
  assert all(result['decoders']['vmae_jax']['wrong_frames'] == 0 for result in results)


@pytest.mark.slow
def test_masks_and_flow(tmp_path):
  (tmp_path / 'videos').mkdir()
  write_video(tmp_path / 'videos' / 'video.mp4', frames=30)
  done = _run(tmp_path, 'masks', 'flow', '--videos=videos', '--clips=8', '--rounds=1')
  assert done.returncode == 0, done.stderr
  assert '| 16 x 64 x 64 | 8 px | true flow |' in done.stdout
  assert '| translation, 8 px | clean |' in done.stdout
  results = json.loads((tmp_path / 'benchmark.json').read_text())['results']
  assert list(results) == ['flow', 'masks'] and len(results['masks']) == 3


def test_fits_goes_on_with_its_file(tmp_path):
  config, settings = fits._config('videomae', 'tiny')
  row = answer(
    method='videomae', size='tiny', topology='local', settings=settings, date='2026-11-22T00:00',
    config=fits._digest(config), versions=fits._versions(['local']),
  )  # fmt: skip
  (tmp_path / 'benchmark.json').write_text(json.dumps({'results': {'fits': [row]}}))
  flags = ('--sizes=tiny', '--methods=videomae', '--topologies=local')
  done = _run(tmp_path, 'fits', *flags)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('1 of 1: videomae, size tiny, on local, data 256, 1,024 clips')
  assert '| local | TINY | data 256,' in done.stdout
  report = json.loads((tmp_path / 'benchmark.json').read_text())
  assert report['results'] == {'fits': [row]} and report['versions']['jax']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('decoed',), "command: there is no 'decoed'. Did you mean 'decode'?"),
    (('decode', '--sizes=s'), '--sizes is no flag of decode'),
    (('--sizes=s,hugo',), "--sizes: there is no 'hugo'"),
    (('loader', '--workers=one'), '--workers: give numbers from 0 on'),
    (('--contenders=vmae_jax,keras',), "--contenders: there is no 'keras'"),
    (('fits', '--methods=videomea'), "--methods: there is no 'videomea'. Did you mean 'videomae'"),
    (('fits', '--topologies=v5e:3x3'), '--topology=v5e:3x3: a v5e slice is one of'),
    (('step', '--topologies=local'), '--topologies is no flag of step'),
    (('decode', '--vidoes=x'), 'there is no flag --vidoes. Did you mean'),
    (('decode', '--videos=nowhere'), "there is no list or folder 'nowhere'"),
    (('decode', '--videos=synthetic:train'), 'does not consist of video files'),
    (('decode', '--videos=list.txt'), 'broken.mp4 cannot be read (empty file)'),
    (('--out=no/where.json',), '--out=no/where.json: give the name of a file'),
  ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message):
  (tmp_path / 'broken.mp4').touch()
  (tmp_path / 'list.txt').write_text('broken.mp4 0\n')
  done = _run(tmp_path, *arguments)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
  assert message in done.stderr
  assert not (tmp_path / 'benchmark.json').exists()


def test_help(tmp_path):
  done = _run(tmp_path, '--help')
  assert not done.stderr
  for word in ('step  ', 'loader  ', 'decode  ', '--videos', '--batches'):
    assert word in done.stdout
