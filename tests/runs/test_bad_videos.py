"""Each bad video is listed once, also over restarts."""

import csv

import numpy as np
import pytest
from scipy import stats

from vmae_jax.errors import UNAVAILABLE
from vmae_jax.runs.bad_videos import CHANCE, BadVideos, count_unavailable, too_many


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


def test_in_a_bucket(memory):
  path = 'memory://bucket/bad_videos.csv'
  bad_videos = BadVideos(path)
  bad_videos.record({'a': 'x'}, 1)
  bad_videos.flush()
  bad_videos = BadVideos(path)
  bad_videos.record({'a': 'x', 'b\udcff': 'y'}, 2)
  bad_videos.flush()
  assert memory.cat('/bucket/bad_videos.csv').splitlines() == [
    b'path,reason,first seen step',
    *(b'a,x,1', b'b\xff,y,2'),
  ]


def test_outages_are_counted_apart(tmp_path):
  for name, reason in (('', 'no answer'), ('-1', 'no answer'), ('-12', 'damaged')):
    table = BadVideos(f'{tmp_path}/bad_videos{name}.csv')
    table.record({'a': UNAVAILABLE + reason if reason != 'damaged' else reason, 'b': 'empty'}, 1)
  assert count_unavailable(str(tmp_path)) == 2


@pytest.mark.parametrize('share', [0.01, 0.05, 0.5])
@pytest.mark.parametrize('visits', [7, 100, 999])
def test_no_run_is_stopped_by_chance(share, visits):
  """Exact tails of the binomial distribution, within the first epoch."""
  stopping = [bad for bad in range(visits + 1) if too_many(bad, visits, videos=1000, share=share)]
  assert stopping == list(range(stopping[0], visits + 1)) if stopping else share == 0.5
  if stopping:
    assert stats.binom.sf(stopping[0] - 1, visits, share) < CHANCE
    assert stats.binom.sf(stopping[0] - 1, visits, min(0.9, 3 * share)) > CHANCE / 1e6


def test_a_batch_alone_does_not_stop_a_run():
  """4.5 % of 10,000 videos are broken and 5 % may be: 6.5 % of the first 1,024 do not stop it."""
  assert not too_many(67, 1024, videos=10_000, share=0.05)
  assert too_many(200, 1024, videos=10_000, share=0.05)
  order = np.random.default_rng(0).permutation(10_000) < 450
  bad = np.cumsum(np.tile(order, 3))
  assert not any(too_many(int(b), i, videos=10_000, share=0.05) for i, b in enumerate(bad, 1))


def test_whole_epochs_leave_nothing_to_chance():
  assert not too_many(5, 100, videos=100, share=0.05)
  assert too_many(6, 100, videos=100, share=0.05)
  assert not too_many(11, 201, videos=100, share=0.05)
  assert not too_many(15, 300, videos=100, share=0.05) and too_many(16, 300, videos=100, share=0.05)


def test_shares_at_the_bounds():
  assert too_many(1, 5, videos=100, share=0.0) and not too_many(0, 5, videos=100, share=0.0)
  assert not too_many(100, 100, videos=100, share=1.0)
  assert too_many(20, 20, videos=100, share=0.05)
