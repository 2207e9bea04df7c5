"""Boxes (x, y, width, height) in a picture, cutting them out, and resizing them.

The devices resize cut-outs in the way in which Pillow does it on the host. All arithmetic is on
whole numbers below 2**24, which float32 holds exactly: weights are multiples of 2**-15, pixels are
uint8. So a clip has the same pixels on every kind of device, alone or in a batch. They differ by at
most one level from Pillow's, whose weights have 22 bits.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from vmae_jax.errors import VideoError
from vmae_jax.sharding import batch_sharding, platform
from vmae_jax.types import Array, Int, UInt8

Box = tuple[int, int, int, int]
Frame = UInt8[np.ndarray, 'H W 3']  # RGB in [0, 255].

RESAMPLINGS = ('antialiased', 'bilinear')
BITS = 15  # Of the weights of pixels.
AT_ONCE = 8  # Visits that are resized together: a bound on memory for intermediate results.

ASPECTS = (3 / 4, 4 / 3)  # Least and greatest width / height of a `resized_box`.
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
  which saves the resampling; unlike in the released code, only if that fits into the picture.

  `height` and `width` are the picture's, `size` is the side of the clips.
  """
  base = min(height, width)
  sides = [int(base * scale) for scale in SCALES]
  sides = [size if abs(side - size) < 3 and size <= base else side for side in sides]
  pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
  w, h = pairs[rng.integers(len(pairs))]
  x, y = OFFSETS[rng.integers(len(OFFSETS))]
  return (width - w) // 4 * x, (height - h) // 4 * y, w, h


def resized_box(
  height: int, width: int, *, rng: np.random.Generator, area: tuple[float, float] = (0.5, 1.0)
) -> Box:
  """Draws a box of random area and aspect at a random place (RandomResizedCrop).

  Its share of the picture is drawn uniformly between the bounds `area`, its width / height
  uniformly in the logarithm, from 3 / 4 to 4 / 3. If none of ten boxes fits, the largest centred
  one is taken whose aspect is allowed.
  """
  for _ in range(10):
    pixels = height * width * rng.uniform(*area)
    aspect = math.exp(rng.uniform(*map(math.log, ASPECTS)))
    w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
    if 0 < w <= width and 0 < h <= height:
      return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
  w = min(width, round(height * ASPECTS[1]))
  h = min(height, round(width / ASPECTS[0]))
  return (width - w) // 2, (height - h) // 2, w, h


def centre_box(height: int, width: int) -> Box:
  """The largest square in the middle."""
  side = min(height, width)
  return (width - side) // 2, (height - side) // 2, side, side


def crop_resize(
  frame: Frame, box: Box, size: int, *, resampling: str = 'antialiased'
) -> UInt8[np.ndarray, 'size size 3']:
  """Cuts a box out of a frame and resamples it, and no pixels around it, to a square of `size`."""
  x, y, w, h = box
  return resize(frame[y : y + h, x : x + w], (size, size), resampling=resampling)


def resize(
  frame: Frame, size: tuple[int, int], *, resampling: str = 'antialiased'
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """Resamples a frame to `size`, its rows and columns.

  'antialiased' averages over all pixels where it shrinks (Pillow's bilinear filter, as in
  VideoMAE's pre-training). 'bilinear' uses only the four nearest pixels, as VideoMAE's fine-tuning
  (F.interpolate) and its tests (cv2.resize) do. The former keeps floats, the latter computes with
  11 bits; here results are rounded to whole numbers, which differ by at most one level.
  """
  if frame.shape[:2] == size:
    return frame
  if resampling == 'antialiased':
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
  top, bottom, down = _neighbours(frame.shape[0], size[0])
  left, right, across = _neighbours(frame.shape[1], size[1])
  rows = frame[top] + down[:, None, None] * (frame[bottom].astype(np.float32) - frame[top])
  start = rows.take(left, axis=1)
  return np.rint(start + across[:, None] * (rows.take(right, axis=1) - start)).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """For each of `new` pixels, its two neighbours among `old` pixels and the second one's share."""
  at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
  first = at.astype(int)
  return first, np.minimum(first + 1, old - 1), (at - first).astype(np.float32)


def view_boxes(height: int, width: int, *, crops: int) -> list[Box]:
  """Squares as high as the shorter side, evenly along the longer one; one is in the middle."""
  side, rest = min(height, width), abs(height - width)
  offsets = [round(rest / 2)] if crops == 1 else [i * rest // (crops - 1) for i in range(crops)]
  return [(x, 0, side, side) if width > height else (0, x, side, side) for x in offsets]


class CutOut(NamedTuple):
  """What is taken of each frame for one clip."""

  of: Callable[[Frame], Frame]  # Cuts it out of a frame.
  box: Box  # The clip's box in the picture.
  # The box in the cut-out that the devices resize, and whether they mirror left and right.
  inner: tuple[int, int, int, int, bool]


def cut_out(
  augment: Callable[[Frame], Frame],
  box: Box,
  flip: bool,
  *,
  room: tuple[int, int],
  size: int,
  resampling: str,
) -> CutOut:
  """A cut-out of one box, already resized if it has more rows or columns than `room`."""
  x, y, w, h = box
  if h <= room[0] and w <= room[1]:
    return CutOut(lambda frame: augment(frame)[y : y + h, x : x + w], box, (0, 0, w, h, flip))
  resized = functools.partial(crop_resize, box=box, size=size, resampling=resampling)
  return CutOut(lambda frame: resized(augment(frame)), box, (0, 0, size, size, flip))


def cut_together(
  drawn: Sequence[tuple[Box, bool]], picture: tuple[int, int], *, room: tuple[int, int]
) -> list[CutOut]:
  """For boxes of a picture, and whether they are mirrored, one cut-out that holds them all."""
  boxes = np.array([box for box, _ in drawn])
  left, top = boxes[:, :2].min(0)
  right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(0)
  if bottom - top > room[0] or right - left > room[1]:
    height, width = picture
    raise VideoError(f'its pictures, {width} x {height}, are larger than its set says')

  of = operator.itemgetter(np.s_[top:bottom, left:right])
  return [CutOut(of, box, (box[0] - left, box[1] - top, *box[2:], flip)) for box, flip in drawn]


def _weights(start, length, *, size: int, count: int, antialiased: bool, xp) -> Any:
  """Int32 'r size count': 2**BITS times the share of pixel k of `count` in pixel i of `size`.

  Pixels outside [start, start + length) have no share; where `length` is 0, no pixel has one.
  """
  i = 2 * xp.arange(size, dtype=np.int32)[:, None] + 1
  k = xp.arange(count, dtype=np.int32) - start[:, None, None]
  n = length[:, None, None]
  # Distances in units of 1 / (2 * size) of a pixel.
  if antialiased:
    reach = 2 * xp.maximum(n, size)
    distance = (2 * k + 1) * size - i * n
  else:
    reach = 2 * size
    distance = 2 * size * k - xp.clip(i * n - size, 0, 2 * size * (n - 1))
  inside = (k >= 0) & (k < n)
  share = xp.where(inside, xp.maximum(reach - abs(distance), 0), 0)
  whole = xp.maximum(share.sum(-1, keepdims=True, dtype=np.int32), 1)
  return ((share << BITS) + whole // 2) // whole


def _weighted(subscripts: str, weights, pixels, *, xp, halves: bool) -> Any:
  """Sums of UInt8 pixels by weights, rounded to UInt8.

  `halves` multiplies in bfloat16, which holds 8 bits, by the upper and the lower bits of weights.
  """
  dtype = jnp.bfloat16 if halves else np.float32
  parts = (weights & ~127, weights & 127) if halves else (weights,)
  pixels = pixels.astype(dtype)
  options = {'preferred_element_type': np.float32} if halves else {}
  products = [
    xp.einsum(subscripts, part.astype(dtype), pixels, optimize=True, **options) for part in parts
  ]
  return xp.floor(sum(products) * np.float32(2**-BITS) + np.float32(0.5)).astype(np.uint8)


def resize_visit(
  pixels, boxes, *, size: int, resampling: str = 'antialiased', xp=np, halves: bool = False
) -> Any:
  """Resizes the clips of one visit, columns first, then rows, as Pillow does.

  Args:
    pixels: UInt8 't h w 3', the cut-out.
    boxes: Int32 'r 5': x, y, width, height and whether to mirror left and right; a box of no
      size gives a black clip.
    size: Side of the clips.
    resampling: One of RESAMPLINGS.
    xp: numpy or jax.numpy.
    halves: Whether to multiply in bfloat16, as tensor cores do; the result is the same.

  Returns:
    UInt8 'r t size size 3'.
  """
  x, y, width, height, flip = (boxes[:, k] for k in range(5))
  options = dict(size=size, antialiased=resampling == 'antialiased', xp=xp)
  across = _weights(x, width, count=pixels.shape[2], **options)
  across = xp.where(flip[:, None, None] != 0, across[:, ::-1], across)
  down = _weights(y, height, count=pixels.shape[1], **options)
  product = functools.partial(_weighted, xp=xp, halves=halves)
  rows = product('rxw,thwc->rthxc', across, pixels)
  return product('ryh,rthxc->rtyxc', down, rows)


@functools.partial(jax.jit, static_argnames=('size', 'resampling', 'mesh', 'halves'))
def resize_batch(
  pixels: UInt8[Array, 'v t h w 3'],
  boxes: Int[Array, 'b 5'],
  *,
  size: int,
  resampling: str = 'antialiased',
  mesh: Mesh | None = None,
  halves: bool | None = None,
) -> UInt8[Array, 'b t size size 3']:
  """`resize_visit` for a batch of v visits of b / v clips each, sharded over the mesh."""
  if halves is None:
    halves = platform() != 'cpu'
  one = functools.partial(resize_visit, size=size, resampling=resampling, xp=jnp, halves=halves)

  def many(pixels, boxes):
    boxes = boxes.reshape(len(pixels), -1, 5)
    clips = jax.lax.map(lambda given: one(*given), (pixels, boxes), batch_size=AT_ONCE)
    return clips.reshape(-1, *clips.shape[2:])

  if mesh is None:
    return many(pixels, boxes)
  rows = batch_sharding(mesh).spec
  return jax.shard_map(many, mesh=mesh, in_specs=(rows, rows), out_specs=rows)(pixels, boxes)
