"""A file that crashes or hangs the decoder costs its own line of the report only."""

import os
import time

from tests.data.clips_on_disk import write_video
from vmae_jax.data import examine as module
from vmae_jax.data.examine import examine, examine_all


def test_examine(tmp_path):
  path = write_video(tmp_path / 'v.mp4')
  found = examine(path)
  assert (found.reason, found.frames, found.width, found.height) == ('', 30, 64, 48)
  assert found.codec == 'h264' and len(found.content_hash) == 32
  (tmp_path / 'bad.mp4').write_bytes(b'x')
  assert examine(str(tmp_path / 'bad.mp4')).reason
  assert examine(str(tmp_path / 'none.mp4')).reason == 'No such file or directory'


def _serve_badly(pipe):
  """A worker whom some files kill and others hang."""
  while True:
    path = pipe.recv()
    if 'crash' in path:
      os._exit(11)
    if 'hang' in path:
      time.sleep(60)
    pipe.send(module.Finding(path, frames=1))


def test_crash_and_hang(monkeypatch):
  monkeypatch.setattr(module, '_serve', _serve_badly)
  paths = ['a', 'crash', 'b', 'hang', 'c', 'd']
  found = {f.path: f for f in examine_all(paths, workers=1, seconds=1.0)}
  assert set(found) == set(paths)
  assert found['crash'].reason == 'crashes the decoder (exit 11)'
  assert found['hang'].reason == 'not decoded after 1 s'
  assert all(found[path].frames == 1 and not found[path].reason for path in 'abcd')
