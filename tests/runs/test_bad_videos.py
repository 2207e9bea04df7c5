"""Each bad video is named once, over restarts."""

import csv

from vmae_jax.runs.bad_videos import BadVideos


def test_record(tmp_path, monkeypatch):
  path = str(tmp_path / 'bad_videos.csv')
  bad_videos = BadVideos(path)
  assert bad_videos.record({}, 0) == 0
  assert not (tmp_path / 'bad_videos.csv').exists()
  failures = {'a, b.mp4': 'empty file'}
  assert bad_videos.record(failures, 7) == 1
  assert bad_videos.record(failures, 8) == 0
  # After a restart the loader meets them in another order.
  bad_videos = BadVideos(path)
  failures = {'c.mp4': 'no video stream', 'a, b.mp4': 'empty file'}
  assert bad_videos.record(failures, 9) == 1
  with monkeypatch.context() as patch:  # The file is not read again.
    patch.setattr(csv, 'reader', None)
    failures |= {'d.mp4': 'empty file'}
    assert bad_videos.record(failures, 10) == 1
  with open(path, newline='') as f:
    assert list(csv.reader(f)) == [
      ['path', 'reason', 'first seen step'],
      ['a, b.mp4', 'empty file', '7'],
      ['c.mp4', 'no video stream', '9'],
      ['d.mp4', 'empty file', '10'],
    ]
