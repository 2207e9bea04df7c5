"""Clips are a function of (seed, epoch, sample, repeat); bad videos are replaced."""

import dataclasses

import numpy as np
import pytest

from tests.data.clips_on_disk import write_video
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.crop import centre_box, crop_resize
from vmae_jax.data.sources import Entry, FileSource
from vmae_jax.errors import UserError

SAMPLER = ClipSampler(frames=4, size=16, stride=2, flip=True, repeats=3, seed=5)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('videos')
  paths = [write_video(folder / f'{i}.mp4', frames=20 + i) for i in range(6)]
  (folder / 'broken.mp4').write_bytes(b'no video')
  paths[2] = str(folder / 'broken.mp4')
  paths[4] = str(folder / 'missing.mp4')
  return FileSource(tuple(Entry(path, label=i) for i, path in enumerate(paths)))


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
def test_crops(source, crop):
  assert dataclasses.replace(SAMPLER, crop=crop)(source, 0, 1)['video'].shape[0] == 3


def test_windows_are_the_videos_own_frames_under_the_same_crop(source):
  plain = dataclasses.replace(SAMPLER, stride=3)
  clips = dataclasses.replace(plain, window=5)(source, 0, 1)
  np.testing.assert_array_equal(clips['video'], plain(source, 0, 1)['video'])
  assert clips['window'].shape == (3, 2, 5, 16, 16, 3)
  # Two frames a slot, three apart: a window's first and fourth frames are the slot's own.
  slots = clips['video'].reshape(3, 2, 2, 16, 16, 3)
  np.testing.assert_array_equal(clips['window'][:, :, [0, 3]], slots)
  assert not np.array_equal(clips['window'][:, :, 1], clips['window'][:, :, 0])


def test_at_a_videos_end_its_last_frame_stays_in_the_window(source):
  sampler = dataclasses.replace(SAMPLER, stride=5, crop='centre', flip=False, window=12)
  with source.open(1) as video:
    assert video.num_frames == 21
    last = crop_resize(video.read([20])[0], centre_box(video.height, video.width), 16)
  window = sampler(source, 0, 1)['window'][0]
  assert np.array_equal(window[1, -1], window[1, -2]) and np.array_equal(window[1, -1], last)
  assert not np.array_equal(window[0, -1], window[0, -2])


@pytest.mark.parametrize('bad, reason', [(2, 'Invalid data'), (4, 'file is missing')])
def test_replacement(source, bad, reason):
  labels = set()
  for epoch in range(8):
    clips = SAMPLER(source, epoch, bad)
    assert clips['replaced'] and clips['label'] not in (2, 4)
    name, why = clips['failures'][0]
    assert name == source.name(bad) and reason in why
    again = SAMPLER(source, epoch, bad)
    assert again['label'] == clips['label'] and again['failures'] == clips['failures']
    np.testing.assert_array_equal(clips['video'], again['video'])
    labels.add(clips['label'])
  assert len(labels) > 1


def test_nothing_but_broken(source):
  broken = FileSource((source.entries[2], source.entries[4]))
  with pytest.raises(UserError, match='16 videos in a row cannot be read, such as .*missing.mp4'):
    SAMPLER(broken, 0, 1)


def test_mistakes():
  with pytest.raises(UserError, match="data.crop: there is no 'center'"):
    ClipSampler(crop='center')
  with pytest.raises(UserError, match='data.repeats is 0'):
    ClipSampler(repeats=0)
