"""Runs and tables; speed is not asserted."""

import subprocess
import sys

import psutil
import pytest

from tests.benchmark import loader
from tests.data.clips_on_disk import write_video
from vmae_jax.data.sources import Entry, FileSource


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Two videos, of which one cannot be read."""
  folder = tmp_path_factory.mktemp('videos')
  (folder / 'broken.mp4').write_bytes(b'no video')
  names = [write_video(folder / 'good.mp4', frames=20), str(folder / 'broken.mp4')]
  return FileSource(tuple(Entry(name) for name in names))


def test_speed(source):
  rows = loader.benchmark_speed(source, workers=[0], threads=[1], rounds=2, seconds=0.0)
  assert [(row['threads'], row['repeats']) for row in rows] == [(1, 1), (1, 4)]
  check_rows(rows)


def test_speed_of_other_processes(source):
  rows = loader.benchmark_speed(
    source, workers=[0, 1], threads=[1], rounds=1, seconds=0.0, repeats=[1]
  )
  assert [row['workers'] for row in rows] == [0, 1]
  check_rows(rows)


def check_rows(rows):
  for row in rows:
    assert 0 < row['slowest'] <= row['clips_per_second'] <= row['fastest']
    assert row['clips_per_cpu_second'] > 0


def test_memory_of_children_counts():
  program = 'x = bytearray(b"x" * 300_000_000); print(flush=True); input()'
  with subprocess.Popen(
    [sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  ) as child:
    child.stdout.readline()
    # The system may take pages from this process meanwhile.
    own = psutil.Process().memory_full_info()
    grown = loader.host_memory() - getattr(own, 'pss', own.rss)
    cpu = loader._cpu_seconds()
    child.communicate(b'\n')
  assert 290e6 < grown < 400e6
  assert cpu > loader._cpu_seconds()  # That of the child is gone with it.


def test_memory(source, monkeypatch):
  asked = []

  def leaking():
    """Grows by 1,000 bytes at each batch."""
    asked.append(None)
    return 10_000_000 + 1_000 * len(asked)

  monkeypatch.setattr(loader, 'host_memory', leaking)
  result = loader.benchmark_memory(source, workers=0, threads=2, batches=10)
  assert len(asked) == 10 and (result['batches'], result['clips']) == (10, 80)
  # Medians of batches 1 and 2, 3 and 4, ...
  assert result['bytes'] == [10_000_000 + 1_000 * n + 500 for n in (1, 3, 5, 7, 9)]
  assert result['growth_bytes'] == 8_000
  assert result['unreadable'] == 1


@pytest.mark.parametrize('workers', [0, 1])
def test_whose_memory(source, monkeypatch, workers):
  def children():
    return len(psutil.Process().children(recursive=True))

  before = children()
  monkeypatch.setattr(loader, 'host_memory', children)  # Asked while the loader runs.
  result = loader.benchmark_memory(source, workers=workers, threads=1, batches=5)
  assert min(result['bytes']) > before if workers else max(result['bytes']) == before


def test_speed_table():
  rows = [
    dict(workers=0, threads=1, repeats=1, clips_per_second=20.0, slowest=19.0, fastest=21.04),
    dict(workers=2, threads=8, repeats=4, clips_per_second=140.0, slowest=99.0, fastest=150.0),
  ]
  text = loader.speed_table([row | {'rounds': 3, 'clips_per_cpu_second': 18.25} for row in rows])
  assert 'medians of 3 rounds' in text
  assert '| 0 | 1 | 1 | 20.0 | 19.0 to 21.0 | 18.2 |' in text
  assert '| 2 | 8 | 4 | 140.0 | 99.0 to 150.0 | 18.2 |' in text


def test_memory_table():
  marks = [500_000_000, 510_000_000, 510_000_000, 505_000_000, 1_502_000_000]
  result = dict(workers=0, threads=2, clips=16000, bytes=marks, growth_bytes=1_002_000_000)
  other = result | {'workers': 1, 'growth_bytes': -3_000_000}
  text = loader.memory_table([r | {'unreadable': 0} for r in (result, other)])
  assert '| until clip 3,200 | 6,400 | 9,600 | 12,800 | 16,000 | growth |' in text
  assert '| 0 | 2 | 500 | 510 | 510 | 505 | 1,502 | +1,002 |' in text
  assert '| 1 | 2 | 500 | 510 | 510 | 505 | 1,502 | -3 |' in text
  assert 'cannot be read' not in text
  assert '3 videos cannot be read' in loader.memory_table([result | {'unreadable': 3}])
