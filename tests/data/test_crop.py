"""Boxes lie in the picture and have the released sizes; resampling is Pillow's."""

import numpy as np
import pytest
from PIL import Image

from vmae_jax.data import crop


def _boxes(function, n=2000, **arguments):
  rng = np.random.default_rng(0)
  return [function(rng=rng, **arguments) for _ in range(n)]


def test_multi_scale_golden():
  boxes = _boxes(crop.multi_scale_box, height=256, width=340, size=224)
  # 256 x (1, .875, .75, .66), widths and heights at most one step apart.
  sides = [256, 224, 192, 168]
  pairs = {(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) < 2}
  assert {(w, h) for _, _, w, h in boxes} == pairs and len(pairs) == 10
  places = {(x, y) for x, y, w, h in boxes if (w, h) == (192, 192)}
  x, y = (340 - 192) // 4, (256 - 192) // 4
  steps = {(i, j) for i in (0, 2, 4) for j in (0, 2, 4)} | {(i, j) for i in (1, 3) for j in (1, 3)}
  assert places == {(i * x, j * y) for i, j in steps}


def test_multi_scale_takes_the_exact_size_if_it_is_near():
  sides = {w for _, _, w, _ in _boxes(crop.multi_scale_box, height=258, width=300, size=224)}
  assert sides == {258, 224, 193, 170}  # int(258 * .875) = 225.
  sides = {w for _, _, w, _ in _boxes(crop.multi_scale_box, height=227, width=300, size=224)}
  assert max(sides) == 227  # Three pixels are too many.
  sides = {w for _, _, w, _ in _boxes(crop.multi_scale_box, height=222, width=300, size=224)}
  assert max(sides) == 222  # 224 would not fit.


@pytest.mark.parametrize('height, width', [(256, 340), (340, 256), (30, 400), (16, 16), (5, 3)])
def test_boxes_lie_inside(height, width):
  boxes = [crop.centre_box(height, width)]
  boxes += _boxes(crop.multi_scale_box, 200, height=height, width=width, size=24)
  boxes += _boxes(crop.resized_box, 200, height=height, width=width)
  for x, y, w, h in boxes:
    assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height


def test_resized_box():
  boxes = np.array(_boxes(crop.resized_box, height=240, width=320))
  share = boxes[:, 2] * boxes[:, 3] / (240 * 320)
  aspect = boxes[:, 2] / boxes[:, 3]
  assert 0.49 < share.min() < 0.52 and 0.95 < share.max() < 1.01
  assert 0.74 < aspect.min() < 0.8 and 1.3 < aspect.max() < 1.34
  # A picture that no allowed box fits: the largest of the most extreme aspect.
  assert _boxes(crop.resized_box, 1, height=30, width=400) == [(180, 0, 40, 30)]


def test_resized_boxes_are_as_often_wide_as_high():
  """Uniform in the logarithm, whose mean is 0; uniform from 3 / 4 to 4 / 3 it would be 0.027."""
  boxes = np.array(_boxes(crop.resized_box, height=300, width=300, area=(0.5, 0.7)))
  aspect = np.log(boxes[:, 2] / boxes[:, 3])
  assert abs(aspect.mean()) < 0.012 and abs(aspect.std() - np.log(16 / 9) / 12**0.5) < 0.01
  assert (boxes[:, 2] * boxes[:, 3]).mean() / 300**2 == pytest.approx(0.6, abs=0.005)


def test_centre_box():
  assert crop.centre_box(240, 320) == (40, 0, 240, 240)


@pytest.mark.parametrize('box', [(3, 5, 40, 30), (0, 0, 64, 48), (8, 8, 24, 24), (1, 2, 10, 12)])
def test_crop_resize_is_pillow(box):
  frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
  got = [crop.crop_resize(frame, box, 24) for frame in frames]
  x, y, w, h = box
  for frame, image in zip(frames, got, strict=True):
    want = Image.fromarray(frame).crop((x, y, x + w, y + h)).resize((24, 24), Image.BILINEAR)
    np.testing.assert_array_equal(image, want)


def _frame(height, width):
  """Waves and noise, so that where one samples makes a difference."""
  y, x = np.mgrid[:height, :width]
  waves = np.sin(x / 7)[..., None] * np.cos(y / 9)[..., None] * [60, 42, -30]
  noise = np.random.default_rng(0).normal(0, 25, (height, width, 3))
  return np.clip(128 + waves + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('box', [(3, 5, 80, 60), (0, 0, 96, 72), (8, 8, 24, 20), (1, 2, 7, 1)])
def test_bilinear_is_pillows_transform(box):
  """Which samples at the same points, between the four nearest pixels, but cuts decimals off."""
  frame, (x, y, w, h) = _frame(72, 96), box
  cut = Image.fromarray(frame[y : y + h, x : x + w])
  if h > 1:  # Pillow leaves out what lies within half a pixel of the edge where there is no more.
    want = cut.transform((24, 24), Image.Transform.EXTENT, (0, 0, w, h), Image.Resampling.BILINEAR)
    got = crop.crop_resize(frame, box, 24, resampling='bilinear').astype(int)
    difference = got - np.asarray(want)
    assert difference.min() >= 0 and difference.max() <= 1 and difference.any()


@pytest.mark.full
@pytest.mark.parametrize('box', [(3, 5, 80, 60), (0, 0, 96, 72), (8, 8, 24, 20), (1, 2, 7, 1)])
def test_bilinear_is_torchs_interpolate(box):
  import torch

  frame, (x, y, w, h) = _frame(72, 96), box
  cut = torch.from_numpy(frame[y : y + h, x : x + w].astype(np.float32)).permute(2, 0, 1)[None]
  want = torch.nn.functional.interpolate(cut, (24, 24), mode='bilinear', align_corners=False)
  got = crop.crop_resize(frame, box, 24, resampling='bilinear')
  assert np.abs(got - want[0].permute(1, 2, 0).numpy()).max() < 0.51  # Rounded, else equal.


@pytest.mark.full
@pytest.mark.parametrize('size', [(24, 32), (48, 20), (100, 130), (36, 48), (72, 96)])
def test_bilinear_is_opencvs_resize(size):
  import cv2

  frame = _frame(72, 96)
  want = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
  got = crop.resize(frame, size, resampling='bilinear')
  assert np.abs(got.astype(int) - want).max() <= 1  # Its weights have 11 bits.


def _pillow(frames, box, size, resampling):
  x, y, w, h, flip = map(int, box)
  cut = [crop.resize(f[y : y + h, x : x + w], (size, size), resampling=resampling) for f in frames]
  return np.stack(cut)[:, :, :: -1 if flip else 1]


@pytest.mark.parametrize('resampling', crop.RESAMPLINGS)
@pytest.mark.parametrize('size', [16, 33])
def test_cut_outs_are_resized_as_pillow_does_it(size, resampling):
  """Every width and height up to twice the size, smaller ones too, at both ends of the picture."""
  rng = np.random.default_rng(size)
  most = 2 * size + 3
  frames = rng.integers(0, 256, (2, most, most, 3), dtype=np.uint8)
  frames[1] = 255 * (frames[1] > 127)  # Overshoots nowhere.
  boxes = []
  for side in range(1, most + 1):
    other = int(rng.integers(1, most + 1))
    boxes += [(0, most - other, side, other, 0), (most - side, 0, side, other, 1)]
  clips = crop.resize_visit(frames, np.int32(boxes), size=size, resampling=resampling)
  for clip, box in zip(clips, boxes, strict=True):
    expected = _pillow(frames, box, size, resampling)
    assert np.abs(clip.astype(int) - expected).max() <= 1, box


@pytest.mark.parametrize('halves', [False, True])
def test_devices_resize_to_the_same_pixels(halves):
  """In float32 and in bfloat16, in batches that the devices share."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (11, 2, 40, 50, 3), dtype=np.uint8)
  boxes = np.int32([(i, 3, 20 + i, 30 - i, i % 2) for i in range(21)] + [(0, 0, 0, 0, 0)])
  alone = [
    crop.resize_visit(x, box, size=32)
    for x, box in zip(pixels, boxes.reshape(11, 2, 5), strict=True)
  ]
  together = np.asarray(crop.resize_batch(pixels, boxes, size=32, halves=halves))
  np.testing.assert_array_equal(together, np.concatenate(alone))
  assert not together[-1].any()  # A box of no size.
