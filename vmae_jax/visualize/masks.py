"""Masks of objects: painted from a description, and drawn over their frames.

`paint` makes the first mask of a video to segment from a description such as:

    box 40,30 120,160; polygon 10,10 60,12 35,80 + box 50,70 60,90

Points are x,y in pixels from the frame's upper left corner. A semicolon starts the next object,
a plus adds a shape to the same object. Where objects overlap, the later one is on top.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from vmae_jax.errors import UserError
from vmae_jax.types import UInt8
from vmae_jax.visualize.curves import COLOURS
from vmae_jax.visualize.images import font, labelled_rows

MAX_OBJECTS = 32
SHAPES = ('box', 'polygon')
_HOW = (
  "write 'box X,Y X,Y' (two opposite corners) or 'polygon X,Y X,Y X,Y ...', with ; before the "
  'next object.'
)
_RULER, _TICKS = 34, 8  # Width of a ruler in pixels, and the most steps along it.
COLUMNS = 6  # Frames in the picture of a clip.
WIDTH = 240  # Width of each of them in pixels.
_SAFE = (COLOURS[4], COLOURS[5], *COLOURS[1:4], COLOURS[0], '#F0E442')  # Light ones first.


def palette() -> UInt8[np.ndarray, '256 3']:
  """The colours of DAVIS and PASCAL VOC: bits of the index, in turn for red, green and blue."""
  index = np.arange(256)
  colours = np.zeros((256, 3), int)
  for bit in range(8):
    for channel in range(3):
      colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
  return colours.astype(np.uint8)


def paint(text: str, *, height: int, width: int) -> UInt8[np.ndarray, 'H W']:
  """The object of each pixel, numbered from 1; 0 is background.

  `text` has the form that the top of this file describes.

  Raises:
    UserError: the text cannot be read, a shape lies outside the frame, or an object is covered.
  """
  objects = [part for part in text.split(';') if part.strip()]
  if not objects:
    raise UserError(f'the mask has no object: {_HOW}')
  if len(objects) > MAX_OBJECTS:
    raise UserError(f'the mask has {len(objects)} objects: at most {MAX_OBJECTS} are possible.')
  image = Image.new('L', (width, height))
  draw = ImageDraw.Draw(image)
  for number, part in enumerate(objects, 1):
    for shape in part.split('+'):
      kind, points = _parse(shape)
      for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
          raise UserError(
            f'the point {x:g},{y:g} of {shape.strip()!r} lies outside the frame, which is '
            f'{width} x {height} pixels (x counts to the right, y downwards).'
          )
      if kind == 'box':
        (left, top), (right, bottom) = np.min(points, 0), np.max(points, 0)
        draw.rectangle((left, top, right - 1, bottom - 1), fill=number)
      else:
        draw.polygon(points, fill=number)
  mask = np.array(image)
  if hidden := sorted(set(range(1, len(objects) + 1)) - set(np.unique(mask).tolist())):
    raise UserError(
      f'object {hidden[0]} ({objects[hidden[0] - 1].strip()!r}) has no pixel of its own: make it '
      'larger, or write it after those that cover it.'
    )
  return mask


def _parse(shape: str) -> tuple[str, list[tuple[float, float]]]:
  """The kind of a shape and its points."""
  kind, *words = shape.split() or ['']
  numbers = [re.fullmatch(r'(-?\d+(?:\.\d+)?),(-?\d+(?:\.\d+)?)', word) for word in words]
  if kind not in SHAPES or not all(numbers):
    raise UserError(f'{shape.strip()!r} is not a shape: {_HOW}')
  points = [(float(match[1]), float(match[2])) for match in numbers]
  if kind == 'box':
    (x, y), (x2, y2) = points if len(points) == 2 else ((0, 0), (0, 0))
    if abs(x2 - x) < 1 or abs(y2 - y) < 1:
      raise UserError(f'{shape.strip()!r}: a box has two corners, at least a pixel apart.')
  elif len(points) < 3:
    raise UserError(f'{shape.strip()!r}: a polygon has at least three points.')
  return kind, points


def ruled(frame: UInt8[np.ndarray, 'H W 3'], *, width: int = 640) -> UInt8[np.ndarray, 'H2 W2 3']:
  """A frame at another width, with rulers in its own pixels from which to read points."""
  factor = width / frame.shape[1]
  size = width, round(frame.shape[0] * factor)
  page = Image.new('RGB', (size[0] + 2 * _RULER, size[1] + 2 * _RULER), (255, 255, 255))
  page.paste(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), (_RULER, _RULER))
  draw, plain = ImageDraw.Draw(page, 'RGBA'), font(13)
  least = max(frame.shape[:2]) / _TICKS
  step = next(k * 10**e for e in range(9) for k in (1, 2, 5) if k * 10**e >= least)
  ink, line = (25, 25, 25, 255), (255, 255, 255, 90)
  for value in range(0, frame.shape[1] + 1, step):
    x = _RULER + value * factor
    draw.line((x, _RULER, x, _RULER + size[1]), fill=line)
    draw.text((x, _RULER - 5), str(value), fill=ink, font=plain, anchor='ms')
  for value in range(0, frame.shape[0] + 1, step):
    y = _RULER + value * factor
    draw.line((_RULER, y, _RULER + size[0], y), fill=line)
    draw.text((_RULER - 5, y), str(value), fill=ink, font=plain, anchor='rm')
  return np.asarray(page)


def safe_colours() -> UInt8[np.ndarray, '256 3']:
  """A palette of black and seven colours, in turn, that are distinct for any colour vision."""
  seven = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _SAFE], np.uint8)
  return np.concatenate([np.zeros((1, 3), np.uint8), seven[np.arange(255) % len(seven)]])


def overlay(
  frame: UInt8[np.ndarray, 'H W 3'],
  mask: UInt8[np.ndarray, 'H W'],
  *,
  colours: UInt8[np.ndarray, '256 3'] | None = None,
) -> UInt8[np.ndarray, 'H W 3']:
  """The frame with each object tinted and outlined in its colour; 0 is no object.

  The default colours are those of mask files, DAVIS's palette.
  """
  around = np.pad(mask, 1, mode='edge')
  neighbours = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
  edge = np.any([part != mask for part in neighbours], axis=0)
  colours = (palette() if colours is None else colours)[mask]
  half = ((frame.astype(np.uint16) + colours) // 2).astype(np.uint8)
  covered = np.where(edge[..., None], colours, half)
  return np.where(mask[..., None] > 0, covered, frame)


def strip(
  frames: Sequence[UInt8[np.ndarray, 'H W 3']],
  rows: Mapping[str, Sequence[UInt8[np.ndarray, 'H W']]],
  *,
  names: Sequence[str],
  title: str,
  caption: str,
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """A row of frames under masks for each entry (label -> masks) of `rows`; `names` stand above."""
  height, width, _ = frames[0].shape
  size = WIDTH, max(1, round(height * WIDTH / width))
  small = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in frames]
  pictures = {
    label: [
      overlay(frame, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))
      for frame, mask in zip(small, masks, strict=True)
    ]
    for label, masks in rows.items()
  }
  return labelled_rows(pictures, columns=names, title=title, caption=caption)
