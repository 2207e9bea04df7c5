"""Runs and tables; speed is not asserted."""

import pytest

from tests.data.clips_on_disk import write_video
from vmae_jax.benchmark import loader
from vmae_jax.data.sources import Entry, FileSource


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Two videos, of which one cannot be read."""
  folder = tmp_path_factory.mktemp('videos')
  (folder / 'broken.mp4').write_bytes(b'no video')
  names = [write_video(folder / 'good.mp4', frames=20), str(folder / 'broken.mp4')]
  return FileSource(tuple(Entry(name) for name in names))


def test_speed(source):
  rows = loader.benchmark_speed(source, threads=[1, 2], rounds=2, seconds=0.0)
  assert [(row['threads'], row['repeats']) for row in rows] == [(1, 1), (2, 1), (1, 4), (2, 4)]
  for row in rows:
    assert 0 < row['slowest'] <= row['clips_per_second'] <= row['fastest']
    assert row['clips_per_cpu_second'] > 0


def test_memory(source, monkeypatch):
  kept = []
  real = loader.psutil.Process

  class Leaking:
    """Sees 1,000 bytes more at each batch."""

    def memory_info(self):
      kept.append(real().memory_info())
      return kept[0]._replace(rss=10_000_000 + 1_000 * len(kept))

  monkeypatch.setattr(loader.psutil, 'Process', Leaking)
  result = loader.benchmark_memory(source, threads=2, batches=10)
  assert len(kept) == 10
  # Medians of batches 1 and 2, 3 and 4, ...
  assert result['bytes'] == [10_000_000 + 1_000 * n + 500 for n in (1, 3, 5, 7, 9)]
  assert result['growth_bytes'] == 8_000
  assert result['unreadable'] == 1


def test_speed_table():
  rows = [
    dict(threads=1, repeats=1, clips_per_second=20.0, slowest=19.0, fastest=21.04),
    dict(threads=8, repeats=4, clips_per_second=140.0, slowest=99.0, fastest=150.0),
  ]
  text = loader.speed_table([row | {'rounds': 3, 'clips_per_cpu_second': 18.25} for row in rows])
  assert 'medians of 3 rounds' in text
  assert '| 1 | 1 | 20.0 | 19.0 to 21.0 | 18.2 |' in text
  assert '| 8 | 4 | 140.0 | 99.0 to 150.0 | 18.2 |' in text


def test_memory_table():
  marks = [500_000_000, 510_000_000, 510_000_000, 505_000_000, 1_502_000_000]
  result = dict(threads=2, batches=2000, bytes=marks, growth_bytes=1_002_000_000, unreadable=0)
  text = loader.memory_table(result)
  assert '| until batch | 400 | 800 | 1,200 | 1,600 | 2,000 | growth |' in text
  assert '| resident (MB) | 500 | 510 | 510 | 505 | 1,502 | +1,002 |' in text
  assert 'cannot be read' not in text
  assert '3 videos cannot be read' in loader.memory_table(result | {'unreadable': 3})
