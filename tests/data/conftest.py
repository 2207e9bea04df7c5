"""Shards here and elsewhere."""

import pytest
from fsspec import filesystem

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import at_once, make
from vmae_jax.data import prepare_shards, remote
from vmae_jax.data.layouts import Listed


@pytest.fixture
def memory():
  fs = filesystem('memory')
  yield fs
  fs.rm('/', recursive=True)


@pytest.fixture
def shards(tmp_path, memory, monkeypatch):
  """The same five videos in a folder of shards here and at memory://bucket/shards."""
  monkeypatch.setattr(prepare_shards, 'run_all', at_once)
  videos = []
  for i in range(5):
    path = write_video(tmp_path / f'{i}.mp4', frames=20 + i, height=48, width=56)
    videos.append(Listed(f'v{i}', path, label=i % 2))
  make(tmp_path / 'shards', videos, shard_videos=2)
  memory.put(str(tmp_path / 'shards'), '/bucket/shards', recursive=True)
  return str(tmp_path / 'shards'), 'memory://bucket/shards'


@pytest.fixture
def no_pause(monkeypatch):
  monkeypatch.setattr(remote, 'PAUSE', 0.0)
