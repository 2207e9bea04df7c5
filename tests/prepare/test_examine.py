"""A file that crashes or hangs the decoder costs its own line of the report only."""

import os
import time

from tests.data.clips_on_disk import write_video
from vmae_jax.check_data import judge
from vmae_jax.data.sources import Entry, FileSource
from vmae_jax.prepare import examine as module
from vmae_jax.prepare.examine import Finding, examine, examine_all
from vmae_jax.prepare.pool import Lost, run_all


def test_examine(tmp_path):
  path = write_video(tmp_path / 'v.mp4')
  found = examine(path)
  assert (found.reason, found.frames, found.width, found.height) == ('', 30, 64, 48)
  assert found.codec == 'h264' and len(found.content_hash) == 32
  assert found.size == os.path.getsize(path)
  (tmp_path / 'bad.mp4').write_bytes(b'x')
  assert examine(str(tmp_path / 'bad.mp4')).reason
  assert examine(str(tmp_path / 'none.mp4')).reason == 'No such file or directory'


def test_odd(tmp_path):
  found = examine(write_video(tmp_path / 'v.mp4', height=64, options={'x264-params': 'sar=4/3'}))
  assert not found.reason and found.odd == 'pixels 1.33 times as wide as high'
  assert judge(Entry('v.mp4'), found, span=16) == ('odd', found.odd)
  found = examine(write_video(tmp_path / 'one.mp4', frames=1))
  assert judge(Entry('one.mp4'), found, span=16) == ('odd', 'one frame')


def badly(path):
  """A task that kills or hangs its worker."""
  if 'crash' in path:
    os._exit(11)
  if 'hang' in path:
    time.sleep(600)
  return Finding(path, frames=1)


def test_crash_and_hang(monkeypatch):
  monkeypatch.setattr(module, 'examine', badly)
  paths = ['a', 'crash', 'b', 'hang', 'c', 'd', 'a']
  source = FileSource(tuple(map(Entry, paths)))
  everything = list(examine_all(source, workers=1, seconds=4.0))
  found = {f.path: f for f in everything}
  # A file that is named twice is examined once.
  assert set(found) == set(paths) and len(everything) == 6
  assert found['crash'].reason == 'crashes the decoder (exit 11)'
  assert found['hang'].reason == 'not decoded after 4 s'
  assert all(found[path].frames == 1 and not found[path].reason for path in 'abcd')


def test_a_worker_that_dies_in_every_task():
  """More workers than tasks, and no tasks at all."""
  got = dict(run_all(badly, ['crash 1', 'x', 'crash 2'], workers=2, seconds=30.0))
  assert isinstance(got['crash 1'], Lost) and isinstance(got['crash 2'], Lost)
  assert got['x'] == Finding('x', frames=1)
  assert list(run_all(badly, [], workers=2, seconds=1.0)) == []
