"""RandAugment of whole clips."""

import numpy as np
import pytest

from vmae_jax.data.augment import OPERATIONS, RandAugment
from vmae_jax.data.augment import apply as apply_drawn
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.frames import ArrayVideo


def clip(frames=3, height=20, width=30):
  y, x = np.mgrid[:height, :width]
  rgb = np.stack([x * 8, y * 12, (x + y) * 4 + 20], -1) % 250
  return np.stack([rgb + t for t in range(frames)]).astype(np.uint8)


def apply(name, strength, video=None):
  video = clip() if video is None else video
  return np.stack([apply_drawn([(name, strength)], frame) for frame in video])


def test_there_are_the_fifteen_operations_of_the_recipe():
  assert len(OPERATIONS) == 15


def test_strengths_and_chances():
  augment = RandAugment(4, 7.0, 0.5, 0.5)
  drawn = [augment.draw(np.random.default_rng(i)) for i in range(2000)]
  counts = np.array([len(d) for d in drawn])
  assert counts.max() == 4 and counts.mean() == pytest.approx(2, abs=0.1)
  strengths = np.array([s for d in drawn for _, s in d])
  assert np.abs(strengths).mean() == pytest.approx(0.7, abs=0.01)
  assert np.abs(strengths).std() == pytest.approx(0.05, abs=0.01)
  assert (strengths > 0).mean() == pytest.approx(0.5, abs=0.04)
  names, often = np.unique([name for d in drawn for name, _ in d], return_counts=True)
  assert len(names) == 15 and often.min() > 0.7 * often.mean()


def test_pointwise_operations_at_the_recipes_strength():
  video = clip()
  np.testing.assert_array_equal(apply('invert', 0.7), 255 - video)
  np.testing.assert_array_equal(apply('posterize', 0.7), video & 0b11000000)  # 4 - 2 bits.
  solarized = np.where(video < 77, video, 255 - video)  # 256 - int(0.7 * 256)
  np.testing.assert_array_equal(apply('solarize', -0.7), solarized)
  added = np.where(video < 128, np.minimum(255, video.astype(int) + 77), video)
  np.testing.assert_array_equal(apply('solarize_add', 0.7), added)
  brighter = np.minimum(255, np.floor(video * (1 + 0.63)))
  assert np.abs(apply('brightness', 0.7).astype(int) - brighter).max() <= 1
  darker = np.floor(video * (1 - 0.63))
  assert np.abs(apply('brightness', -0.7).astype(int) - darker).max() <= 1


def test_geometry_is_the_same_in_all_frames():
  video = clip()
  moved = apply('translate_x', 0.5)  # 0.225 of 30 columns: 6.75, content moves left.
  assert (moved[:, :, -5:] == 128).all()  # Grey comes in.
  six = apply('translate_x', 6 / (0.45 * 30))
  np.testing.assert_allclose(six[:, :, :24], video[:, :, 6:], atol=1)
  down = apply('translate_y', -4 / (0.45 * 20))
  np.testing.assert_allclose(down[:, 4:], video[:, :-4], atol=1)
  for name in ('rotate', 'shear_x', 'shear_y'):
    out = apply(name, 0.7)
    grey = (out == 128).all(-1)
    assert grey.any() and (grey == grey[:1]).mean() > 0.99
    assert (apply(name, 0.0) == video).all()


@pytest.mark.parametrize(
  'name, row, column',
  [
    ('rotate', 20 - 15 * np.sin(np.pi / 6), 20 + 15 * np.cos(np.pi / 6)),
    ('shear_x', 20, 35 - 0.3 * 20),
    ('shear_y', 20 - 0.3 * 35, 35),
  ],
)
def test_geometry_at_full_strength(name, row, column):
  """30 degrees about the middle, or 0.3: where a white dot at row 20, column 35 goes."""
  frame = np.full((41, 41, 3), 128, np.uint8)
  frame[19:22, 34:37] = 255
  moved = apply_drawn([(name, 1.0)], frame)[..., 0]
  place = np.argwhere(moved > 192).mean(0)
  np.testing.assert_allclose(place, [row, column], atol=0.6)


def test_colours_and_sharpness():
  """A factor of 1.63 or 0.37: on the distance to grey, to the mean, to a blurred picture."""
  frame = np.random.default_rng(0).integers(100, 140, (40, 40, 3)).astype(np.uint8)
  grey = np.repeat(frame[..., :1], 3, -1)
  for strength, factor in ((0.7, 1.63), (-0.7, 0.37)):
    color, contrast, sharpness = (
      apply_drawn([(name, strength)], frame).astype(float)
      for name in ('color', 'contrast', 'sharpness')
    )
    spread = [np.ptp(x, axis=-1).mean() for x in (color, frame.astype(float))]
    assert spread[0] / spread[1] == pytest.approx(factor, abs=0.05)
    assert np.abs(apply_drawn([('color', strength)], grey).astype(int) - grey).max() <= 1
    assert contrast.std() / frame.std() == pytest.approx(factor, abs=0.05)
    assert (sharpness.std() > frame.std()) == (factor > 1)
    assert sharpness.mean() == pytest.approx(frame.mean(), abs=1)
    flat = np.full_like(frame, (90, 120, 150))
    np.testing.assert_array_equal(apply_drawn([('sharpness', strength)], flat), flat)
  stretched = apply_drawn([('auto_contrast', 0.7)], frame)
  assert (stretched.min(), stretched.max()) == (0, 255)
  dark = (255 * np.random.default_rng(0).random((40, 40, 3)) ** 2).astype(np.uint8)
  even, same = (np.median(apply(name, 0.7, dark[None])) for name in ('equalize', 'auto_contrast'))
  assert abs(even - 127) < 8 and abs(same - np.median(dark)) < 8


def test_a_clip_is_a_function_of_its_generator():
  augment = RandAugment(4, 7.0, 0.5, 0.5)
  one, same, other = (augment.draw(np.random.default_rng(seed)) for seed in (5, 5, 6))
  assert one == same != other
  assert apply_drawn(one, clip()[0]).dtype == np.uint8


class Source:
  class_names = ()

  def __len__(self):
    return 1

  def name(self, i):
    return 'still'

  def label(self, i):
    return 0

  def open(self, i):
    return ArrayVideo(clip(8))


def sampler(**options):
  return ClipSampler(frames=4, size=16, stride=1, crop='resized', repeats=2, **options)


def test_each_repeat_is_augmented_on_its_own_and_tests_are_not():
  augment = RandAugment(4, 7.0, 0.5, 1.0)
  plain = sampler()(Source(), 0, 0)['video']
  changed = sampler(augment=augment)(Source(), 0, 0)['video']
  assert (plain != changed).any((1, 2, 3, 4)).all()
  at_test = sampler(augment=augment, train=False)(Source(), 0, 0)['video']
  np.testing.assert_array_equal(at_test, sampler(train=False)(Source(), 0, 0)['video'])
  assert (at_test[0] == at_test[1]).all()


def test_the_crops_share_of_the_picture():
  whole = sampler(area=(1.0, 1.0))(Source(), 0, 0)['video']
  small = sampler(area=(0.08, 0.08))(Source(), 0, 0)['video']
  # A smaller box is magnified: neighbours differ less.
  assert (
    np.abs(np.diff(small.astype(int), axis=3)).mean()
    < np.abs(np.diff(whole.astype(int), axis=3)).mean()
  )
