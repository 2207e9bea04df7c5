"""Clips of whole videos."""

import threading
import time

import numpy as np
import pytest

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.frames import Frames
from vmae_jax.data.sources import Entry, FileSource
from vmae_jax.errors import UserError, VideoError
from vmae_jax.evaluation import windows as module
from vmae_jax.evaluation.windows import Windows, read_windows


def make(**changes):
  options = dict(frames=4, stride=2, hop=5, sampling='dense', size='32')
  return Windows(**options | changes)


def starts(windows, count):
  return [int(x[0]) for x in windows.indices(count)]


def test_windows_cover_the_video():
  windows = make()  # One spans 7 frames.
  assert starts(windows, 17) == [0, 5, 10]
  assert starts(windows, 18) == [0, 5, 10, 11]
  assert starts(windows, 7) == [0] and starts(windows, 8) == [0, 1]
  assert windows.indices(17)[1].tolist() == [5, 7, 9, 11]
  for count in range(1, 40):
    for hop in (1, 3, 7):
      found = make(hop=hop).indices(count)
      assert found[0][0] == 0 and found[-1][-1] == count - 1
      assert len({int(x[0]) for x in found}) == len(found)


def test_a_video_shorter_than_a_window_repeats_its_last_frame():
  assert [x.tolist() for x in make().indices(4)] == [[0, 2, 3, 3]]


@pytest.mark.parametrize('sampling', ['dense', 'segment'])
def test_the_middle_clip_is_that_of_evaluation(sampling, tmp_path):
  source = FileSource((Entry(write_video(tmp_path / 'a.mp4', frames=40)),))
  windows = make(hop=0, sampling=sampling)
  found, end = read_windows(source, [0], windows, threads=1)
  sampler = ClipSampler(frames=4, size=32, stride=2, sampling=sampling, train=False)
  np.testing.assert_array_equal(found.clip, sampler(source, 0, 0)['video'][0])
  assert end == module.Found(0)


def test_whole_frames(tmp_path):
  path = write_video(tmp_path / 'a.mp4', frames=9)
  source = FileSource((Entry(path),))
  found = [x for x in read_windows(source, [0], make(size='48x64'), threads=1) if x.reason == '']
  np.testing.assert_array_equal(found[0].clip, np.stack(decode_all(path))[[0, 2, 4, 6]])
  (one, *_) = read_windows(source, [0], make(size='24x64'), threads=1)
  assert one.clip.shape == (4, 24, 64, 3)


@pytest.mark.parametrize('size', ['', '0', 'x32', '32x', '32 x 32', '-8'])
def test_sizes(size):
  with pytest.raises(UserError, match='size .* is neither'):
    make(size=size)


def test_windows_that_slide_have_a_stride():
  with pytest.raises(UserError, match='drop --sampling=segment'):
    make(sampling='segment')
  make(sampling='segment', hop=0)


class Shown:
  """A source of videos whose frames show the video's number; some break."""

  class_names = ()

  def __init__(self, lengths, breaks=()):
    self.lengths, self.breaks, self.open_now, self.read_clips = lengths, breaks, set(), []

  def __len__(self):
    return len(self.lengths)

  def name(self, i):
    return f'{i}'

  def label(self, i):
    return -1

  def open(self, i):
    source = self

    class Video(Frames):
      num_frames, rate = source.lengths[i], 25.0

      def images(self, wanted):
        if i in source.breaks and max(wanted) > 20:
          raise VideoError('a frame is damaged')
        source.read_clips.append(i)
        time.sleep(0.001 * (7 * i % 5))
        return ((k, np.full((32, 32, 3), i, np.uint8)) for k in wanted)

      def __enter__(self):
        source.open_now.add(i)
        return self

      def __exit__(self, *_):
        source.open_now.discard(i)

    return Video()


@pytest.mark.parametrize('threads', [1, 3, 20])
def test_order_does_not_depend_on_threads(threads):
  source = Shown([40, 7, 90, 12, 33, 1, 60], breaks=(4,))
  found = list(read_windows(source, [1, 2, 3, 4, 5, 6], make(), threads=threads))
  expected = [(i, s) for i in (1, 2, 3, 5, 6) for s in starts(make(), source.lengths[i])]
  assert [(x.video, x.start) for x in found if x.clip is not None and x.video != 4] == expected
  assert all((x.clip == x.video).all() for x in found if x.clip is not None)
  ends = [(x.video, x.reason) for x in found if x.clip is None]
  assert ends == [(i, 'a frame is damaged' * (i == 4)) for i in (1, 2, 3, 4, 5, 6)]


def test_memory_is_bounded():
  source = Shown([1000, 1000, 1000])
  found = read_windows(source, range(3), make(), threads=2)
  next(found)
  time.sleep(0.3)
  assert len(source.read_clips) <= 2 * (module.AHEAD + 2) and 2 not in source.read_clips
  found.close()
  assert source.open_now == set()
  assert not [t for t in threading.enumerate() if 'ThreadPool' in t.name and t.is_alive()]


def test_a_bug_is_not_a_broken_video():
  source = Shown([10])
  source.open = lambda i: 1 / 0
  with pytest.raises(ZeroDivisionError):
    list(read_windows(source, [0], make(), threads=1))
