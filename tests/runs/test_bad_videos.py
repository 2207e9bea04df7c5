"""Each bad video is named once, over restarts."""

import csv

from vmae_jax.runs.bad_videos import record


def test_record(tmp_path):
  path = str(tmp_path / 'bad_videos.csv')
  assert record(path, {}, 0) == 0
  assert not (tmp_path / 'bad_videos.csv').exists()
  failures = {'a, b.mp4': 'empty file'}
  assert record(path, failures, 7) == 1
  assert record(path, failures, 8) == 0
  # After a restart the loader meets them in another order.
  assert record(path, {'c.mp4': 'no video stream', 'a, b.mp4': 'empty file'}, 9) == 1
  with open(path, newline='') as f:
    assert list(csv.reader(f)) == [
      ['path', 'reason', 'first seen step'],
      ['a, b.mp4', 'empty file', '7'],
      ['c.mp4', 'no video stream', '9'],
    ]
