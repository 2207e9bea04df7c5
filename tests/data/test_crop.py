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


def test_centre_box():
  assert crop.centre_box(240, 320) == (40, 0, 240, 240)


@pytest.mark.parametrize('box', [(3, 5, 40, 30), (0, 0, 64, 48), (8, 8, 24, 24), (1, 2, 10, 12)])
@pytest.mark.parametrize('flip', [False, True])
def test_crop_resize_is_pillow(box, flip):
  frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
  got = [crop.crop_resize(frame, box, 24, flip=flip) for frame in frames]
  x, y, w, h = box
  for frame, image in zip(frames, got, strict=True):
    want = Image.fromarray(frame).crop((x, y, x + w, y + h)).resize((24, 24), Image.BILINEAR)
    want = want.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else want
    np.testing.assert_array_equal(image, want)
