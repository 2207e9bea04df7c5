"""Which frames and crops a multi-view test takes."""

import numpy as np
import pytest

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data.clips import ViewSampler
from vmae_jax.data.crop import crop_resize, view_boxes
from vmae_jax.data.sampling import dense_views, segment_views
from vmae_jax.data.sources import Entry, FileSource
from vmae_jax.errors import UserError


def test_dense_windows_over_every_fourth_frame():
  found = dense_views(300, frames=16, stride=4, segments=5)
  assert found.shape == (5, 16) and (np.diff(found, axis=1) == 4).all()
  # 75 frames are left of 300, windows start at i * 59 / 4 of them.
  np.testing.assert_array_equal(found[:, 0], [0, 56, 116, 176, 236])
  assert found[-1, -1] == 296


def test_a_short_video_repeats_its_last_frame():
  found = dense_views(10, frames=6, stride=4, segments=3)
  np.testing.assert_array_equal(found, [[0, 4, 8, 8, 8, 8]] * 3)


def test_one_dense_segment_is_the_middle():
  np.testing.assert_array_equal(dense_views(20, frames=4, stride=2, segments=1), [[6, 8, 10, 12]])


def test_segment_views_are_the_published_ones():
  """SSv2: {floor(tick x)} and {floor(tick / 2 + tick x)}, sorted and dealt out in turn."""
  n = 50
  tick = n / 16
  x = np.arange(16)
  both = np.sort(np.concatenate([(tick * x).astype(int), (tick / 2 + tick * x).astype(int)]))
  found = segment_views(n, frames=16, segments=2)
  np.testing.assert_array_equal(found, [both[0::2], both[1::2]])
  np.testing.assert_array_equal(
    segment_views(n, frames=16, segments=1)[0], (tick / 2 + tick * x).astype(int)
  )
  assert segment_views(3, frames=16, segments=2).max() == 2


def test_three_squares_along_the_longer_side():
  assert view_boxes(240, 320, crops=3) == [(0, 0, 240, 240), (40, 0, 240, 240), (80, 0, 240, 240)]
  assert view_boxes(320, 240, crops=3)[2] == (0, 80, 240, 240)
  assert view_boxes(320, 240, crops=1) == [(0, 40, 240, 240)]
  assert view_boxes(240, 240, crops=3) == [(0, 0, 240, 240)] * 3


def views(segments, crops, **options):
  return ViewSampler(
    frames=4, size=16, stride=3, segments=segments, crops=crops, repeats=segments * crops, **options
  )


@pytest.mark.parametrize('sampling', ['dense', 'segment'])
def test_views_are_those_frames_and_crops(sampling, tmp_path):
  path = write_video(tmp_path / 'a.mp4', frames=25, height=32, width=48)
  source = FileSource((Entry(path, label=3),))
  clips = views(2, 3, sampling=sampling)(source, 0, 0)
  assert clips['label'] == 3 and not clips['replaced'] and clips['failures'] == []
  frames = np.stack(decode_all(path))
  if sampling == 'dense':
    indices = dense_views(25, frames=4, stride=3, segments=2)
  else:
    indices = segment_views(25, frames=4, segments=2)
  expected = [
    [crop_resize(frame, box, 16) for frame in frames[index]]
    for index in indices
    for box in view_boxes(32, 48, crops=3)
  ]
  np.testing.assert_array_equal(clips['video'], expected)


def test_a_broken_video_is_marked_and_not_replaced(tmp_path):
  (tmp_path / 'b.mp4').write_bytes(b'x')
  good = write_video(tmp_path / 'a.mp4')
  source = FileSource((Entry(good, label=0), Entry(str(tmp_path / 'b.mp4'), label=1)))
  clips = views(2, 1)(source, 0, 1)
  assert clips['replaced'] and clips['label'] == 1 and not clips['video'].any()
  assert clips['failures'][0][0].endswith('b.mp4')


def test_no_view_at_all():
  with pytest.raises(UserError, match='test.segments is 0'):
    views(0, 3)


@pytest.mark.full
@pytest.mark.parametrize('height, width', [(60, 80), (81, 60), (75, 100), (30, 41), (48, 48)])
@pytest.mark.parametrize('crops', [1, 3])
def test_bilinear_views_are_those_of_videomaes_test(height, width, crops):
  """The shorter side to 48 by cv2, then squares: at int(k * step), or CenterCrop's round."""
  import cv2

  frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
  long = int(48 * max(height, width) / min(height, width))
  small = cv2.resize(frame, (long, 48) if width > height else (48, long))
  if crops == 1:
    starts = [int(round((long - 48) / 2.0))]
  else:
    starts = [int(k * (1.0 * (long - 48) / (crops - 1))) for k in range(crops)]
  want = [small[:, s : s + 48] if width > height else small[s : s + 48] for s in starts]
  sampler = ViewSampler(frames=1, size=48, crops=crops, repeats=crops, resampling='bilinear')
  got = np.stack(sampler._squares(frame)).astype(int)
  assert np.abs(got - np.stack(want)).max() <= 1


def test_linspace_is_tested_on_dense_windows(tmp_path):
  source = FileSource((Entry(write_video(tmp_path / 'a.mp4', frames=25)),))
  clips = [views(2, 3, sampling=s)(source, 0, 0)['video'] for s in ('dense', 'linspace')]
  np.testing.assert_array_equal(*clips)


class Bug:
  class_names = ()

  def __len__(self):
    return 3

  def name(self, i):
    return f'video {i}'

  def label(self, i):
    return i

  def open(self, i):
    raise ZeroDivisionError('a decoder\nthat divides')


def test_any_error_of_a_video_marks_it():
  clips = views(2, 1)(Bug(), 0, 1)
  assert clips['failures'] == [('video 1', 'ZeroDivisionError: a decoder that divides')]
