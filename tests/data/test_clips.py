"""Clips are a function of (seed, epoch, sample, repeat), and are what crosses to the devices."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from tests.data.clips_on_disk import some_broken
from vmae_jax.data import crop as crops
from vmae_jax.data.augment import RandAugment
from vmae_jax.data.clips import ClipSampler, ViewSampler
from vmae_jax.data.crop import centre_box, crop_resize
from vmae_jax.data.frames import Frames
from vmae_jax.errors import UserError

SAMPLER = ClipSampler(frames=4, size=16, stride=2, flip=True, repeats=3, seed=5)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return some_broken(tmp_path_factory.mktemp('videos'))


def test_shape_and_determinism(source):
  clips = SAMPLER(source, 0, 1)
  assert clips['video'].shape == (3, 4, 16, 16, 3) and clips['video'].dtype == np.uint8
  assert clips['label'] == 1 and not clips['replaced'] and clips['failures'] == []
  np.testing.assert_array_equal(clips['video'], SAMPLER(source, 0, 1)['video'])


def test_each_number_matters(source):
  base = SAMPLER(source, 0, 1)['video']
  for other in (
    SAMPLER(source, 1, 1)['video'],
    SAMPLER(source, 0, 3)['video'],
    dataclasses.replace(SAMPLER, seed=6)(source, 0, 1)['video'],
  ):
    assert not np.array_equal(base, other)
  repeats = dataclasses.replace(SAMPLER, repeats=20)(source, 0, 1)['video']
  assert len({clip.tobytes() for clip in repeats}) > 15  # Few boxes exist in small pictures.


def test_a_repeat_does_not_depend_on_their_number(source):
  one = dataclasses.replace(SAMPLER, repeats=1)(source, 0, 1)['video']
  np.testing.assert_array_equal(one[0], SAMPLER(source, 0, 1)['video'][0])


def test_repeats_share_frames(source):
  plain = dataclasses.replace(SAMPLER, crop='centre', flip=False)
  video = plain(source, 0, 1)['video']
  np.testing.assert_array_equal(video[0], video[2])


def test_flip_mirrors_half(source):
  base = dataclasses.replace(SAMPLER, crop='centre', repeats=200)
  straight = dataclasses.replace(base, flip=False, repeats=1)(source, 0, 1)['video'][0]
  mirrored = [not np.array_equal(clip, straight) for clip in base(source, 0, 1)['video']]
  assert 70 < sum(mirrored) < 130
  for clip, is_mirrored in zip(base(source, 0, 1)['video'], mirrored, strict=True):
    np.testing.assert_array_equal(clip[:, :, ::-1] if is_mirrored else clip, straight)


@pytest.mark.parametrize('sampling', ['dense', 'segment'])
def test_evaluation_is_the_same_in_every_epoch(source, sampling):
  sampler = dataclasses.replace(SAMPLER, train=False, repeats=1, sampling=sampling)
  one = sampler(source, 0, 1)['video']
  np.testing.assert_array_equal(one, sampler(source, 3, 1)['video'])
  np.testing.assert_array_equal(one, dataclasses.replace(sampler, seed=1)(source, 0, 1)['video'])


@pytest.mark.parametrize('crop', ['multi_scale', 'resized', 'centre'])
def test_crops(crop):
  sampler = dataclasses.replace(SAMPLER, crop=crop, area=(0.3, 0.4))
  boxes = np.array([sampler._draw_box(48, 64, 0, i, 0)[1] for i in range(200)])
  width, height = boxes[:, 2], boxes[:, 3]
  if crop == 'centre':
    assert (boxes == [8, 0, 48, 48]).all()
  elif crop == 'multi_scale':
    assert set(width) == set(height) == {48, 42, 36, 31}  # 48 x (1, 0.875, 0.75, 0.66).
  else:
    share = width * height / (48 * 64)
    assert 0.28 < share.min() < 0.32 and 0.38 < share.max() < 0.42


def test_windows_are_the_videos_own_frames_under_the_same_crop(source):
  plain = dataclasses.replace(SAMPLER, stride=3)
  clips = dataclasses.replace(plain, window=5)(source, 0, 1)
  np.testing.assert_array_equal(clips['video'], plain(source, 0, 1)['video'])
  assert clips['window'].shape == (3, 2, 5, 16, 16, 3)
  # Two frames a slot, three apart: a window's first and fourth frames are the slot's own.
  slots = clips['video'].reshape(3, 2, 2, 16, 16, 3)
  np.testing.assert_array_equal(clips['window'][:, :, [0, 3]], slots)
  assert not np.array_equal(clips['window'][:, :, 1], clips['window'][:, :, 0])


def test_windows_repeat_the_last_frame_of_a_video(source):
  sampler = dataclasses.replace(SAMPLER, stride=5, crop='centre', flip=False, window=12)
  with source.open(1) as video:
    assert video.num_frames == 21
    last = crop_resize(video.read([20])[0], centre_box(video.height, video.width), 16)
  window = sampler(source, 0, 1)['window'][0]
  assert np.array_equal(window[1, -1], window[1, -2]) and np.array_equal(window[1, -1], last)
  assert not np.array_equal(window[0, -1], window[0, -2])


class Large(Frames):
  """A video of large frames, made when they are decoded."""

  num_frames, rate = 100, 25.0

  def images(self, wanted):
    return ((i, np.full((1000, 2000, 3), i, np.uint8)) for i in wanted)


class LargeSource:
  class_names = ()

  def __len__(self):
    return 1

  def name(self, i):
    return 'large'

  def label(self, i):
    return 0

  def open(self, i):
    return Large()


@pytest.mark.parametrize('kind', ['clips', 'augmented', 'views'])
def test_frames_are_never_held_together(kind):
  if kind == 'views':
    sampler = ViewSampler(frames=16, size=64, segments=2, crops=3, repeats=6)
  else:
    augment = RandAugment(4, 7.0, 0.5, 1.0) if kind == 'augmented' else None
    sampler = ClipSampler(frames=16, size=64, repeats=2, crop='resized', augment=augment)
  tracemalloc.start()
  sampler(LargeSource(), 0, 0)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5 * 6e6  # A frame takes 6 MB, the 16 of a clip 96 MB.


class Sized:
  """A source that says how large its pictures are."""

  def __init__(self, source, largest):
    self._source, self.largest = source, largest

  def __len__(self):
    return len(self._source)

  def __getattr__(self, name):
    return getattr(self._source, name)


def drawn(sampler, source, *, whole=False, sample=1):
  rows, *shape = sampler.shape(source, whole=whole)
  pixels = [np.full((*shape, 3), 77, np.uint8) for _ in range(rows)]
  return pixels, sampler.draw(source, 0, sample, pixels)


# With 30, some boxes would exceed the room of a clip.
@pytest.mark.parametrize('size', [40, 30])
def test_a_decoded_video_is_copied_once_for_all_its_clips(source, size):
  """Where each device has all of them; where devices share a visit the clips are the same."""
  sized, sampler = Sized(source, (48, 64)), dataclasses.replace(SAMPLER, size=size, repeats=4)
  (pixels,), about = drawn(sampler, sized, whole=True)
  assert pixels.shape == (4, 48, 64, 3)  # Fewer than four clips of 48 x 48.
  clips = crops.resize_visit(pixels, about['box'], size=size)
  np.testing.assert_array_equal(clips, sampler(sized, 0, 1)['video'])
  larger = Sized(source, (20, 40))  # Smaller than the pictures are.
  with pytest.raises(UserError, match='64 x 48, are larger than its set says'):
    drawn(dataclasses.replace(SAMPLER, repeats=40), larger, whole=True)


def test_frames_of_clip_and_window_are_copied_once(source):
  sampler = dataclasses.replace(SAMPLER, frames=8, stride=4, window=7, repeats=1)
  assert sampler.shape(source)[1] == 4 * 7  # The eight frames of the clip are among them.
  for sample in (0, 1, 3, 5):  # Of 20 to 25 frames, less than the 32 of a clip.
    clips = sampler(source, 0, sample)
    assert clips['video'].shape == (1, 8, 16, 16, 3)
    np.testing.assert_array_equal(clips['window'][0, :, 0], clips['video'][0, ::2])
  for stride, window, slot in ((1, 4, 2), (2, 9, 3), (4, 7, 2), (3, 2, 1)):
    some = dataclasses.replace(sampler, stride=stride, window=window, slot=slot)
    room = some.shape(source)[1]
    needed = [
      len(np.unique(some.wanted(n, np.random.default_rng(k))))
      for n in range(1, 90)
      for k in range(9)
    ]
    assert max(needed) == room
  segments = dataclasses.replace(sampler, sampling='segment', stride=1)
  assert segments(source, 0, 1)['window'].shape == (1, 4, 7, 16, 16, 3)


@pytest.mark.parametrize(
  'largest, side', [(None, 18), ((17, 40), 17), ((300, 400), 22), ((9, 9), 16)]
)
def test_what_does_not_fit_is_resized_on_the_host(source, largest, side):
  sampler = dataclasses.replace(SAMPLER, repeats=1, crop='centre', flip=False)
  where = source if largest is None else Sized(source, largest)
  assert sampler.shape(where) == (1, 4, side, side)
  (pixels,), about = drawn(sampler, where)
  assert about['box'].tolist() == [[0, 0, 16, 16, 0]]  # Pictures of 64 x 48.
  with source.open(1) as video:
    frames = sampler.wanted(video.num_frames, np.random.default_rng([5, 0, 1, 0]))
    for frame, cut in zip(video.read(frames), pixels, strict=True):
      np.testing.assert_array_equal(crop_resize(frame, centre_box(48, 64), 16), cut[:16, :16])
