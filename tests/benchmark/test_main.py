"""The entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.clips_on_disk import write_video

ROOT = Path(__file__).parents[2]


def _run(folder, *arguments):
  return subprocess.run(
    [sys.executable, '-m', 'tests.benchmark', *arguments],
    capture_output=True,
    text=True,
    cwd=folder,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )


@pytest.mark.slow
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
