"""Where a clip is cut out of the picture: boxes (x, y, width, height), and the cutting."""

import math

import numpy as np
from PIL import Image

from vmae_jax.types import UInt8

Box = tuple[int, int, int, int]

SCALES = (1.0, 0.875, 0.75, 0.66)
# Offsets in quarters of the free space: corners, centre, edge middles, quarter points.
OFFSETS = (
  *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
  *((0, 2), (4, 2), (2, 4), (2, 0)),
  *((1, 1), (3, 1), (1, 3), (3, 3)),
)


def multi_scale_box(height: int, width: int, *, size: int, rng: np.random.Generator) -> Box:
  """Draws a box as VideoMAE's pre-training does (GroupMultiScaleCrop).

  The sides are 1, 0.875, 0.75 or 0.66 of the picture's shorter side, width and height at
  most one step apart, at one of 13 fixed places. A side that is nearly `size` becomes `size`,
  which saves the resampling; unlike in the released code only if it fits into the picture.

  Args:
    height: The picture's.
    width: The picture's.
    size: The side of the clips.
    rng: Draws the sides and the place.
  """
  base = min(height, width)
  sides = [int(base * scale) for scale in SCALES]
  sides = [size if abs(side - size) < 3 and size <= base else side for side in sides]
  pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
  w, h = pairs[rng.integers(len(pairs))]
  x, y = OFFSETS[rng.integers(len(OFFSETS))]
  return (width - w) // 4 * x, (height - h) // 4 * y, w, h


def resized_box(
  height: int,
  width: int,
  *,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.5, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
  """Draws a box of random area and aspect at a random place (RandomResizedCrop).

  Args:
    height: The picture's.
    width: The picture's.
    rng: Draws up to ten boxes until one fits; else the largest centred one is taken whose
      aspect is allowed.
    area: Bounds of the box's share of the picture, drawn uniformly.
    ratio: Bounds of width / height, drawn uniformly in the logarithm.
  """
  for _ in range(10):
    pixels = height * width * rng.uniform(*area)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
    if 0 < w <= width and 0 < h <= height:
      return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
  w = min(width, round(height * ratio[1]))
  h = min(height, round(width / ratio[0]))
  return (width - w) // 2, (height - h) // 2, w, h


def centre_box(height: int, width: int) -> Box:
  """The largest square in the middle."""
  side = min(height, width)
  return (width - side) // 2, (height - side) // 2, side, side


def crop_resize(
  frames: UInt8[np.ndarray, 'T H W 3'], box: Box, size: int, flip: bool
) -> UInt8[np.ndarray, 'T size size 3']:
  """Cuts the box out of every frame and resamples it to a square.

  Resampling is Pillow's bilinear one, which averages where it shrinks, as in VideoMAE's
  training; pixels outside the box have no part in it.

  Args:
    frames: RGB in [0, 255].
    box: In pixels, inside the frames.
    size: Side of the result.
    flip: Whether to mirror left and right.
  """
  x, y, w, h = box
  cut = frames[:, y : y + h, x : x + w]
  if (w, h) != (size, size):
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for t, frame in enumerate(cut):
      out[t] = Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)
    cut = out
  return np.ascontiguousarray(cut[:, :, ::-1] if flip else cut)


def resize(
  frames: UInt8[np.ndarray, 'T H W 3'], size: tuple[int, int]
) -> UInt8[np.ndarray, 'T H2 W2 3']:
  """Whole frames at another size, by Pillow's bilinear resampling."""
  if frames.shape[1:3] == size:
    return frames
  images = [Image.fromarray(frame) for frame in frames]
  return np.stack([np.asarray(x.resize(size[::-1], Image.Resampling.BILINEAR)) for x in images])
