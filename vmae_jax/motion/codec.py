"""Flow from the codec's motion vectors, which a decoder gives with its frames at no cost.

For most blocks, an encoder stores the place in another frame that they are copied from. This is not
the true motion (a blank wall may be copied from anywhere), but close to it, and needs no work on
the device.

How vectors become flow, where there is a choice:

- They become velocities on a coarse grid, in cells per frame of the video. A vector points from a
  block to its place in the reference; it is divided by the number of frames to the reference, which
  is negative for an earlier one. A block with several vectors has their mean.
- Decoders give the direction of a reference, but not its number: it is taken to be the nearest
  frame on that side that others may refer to. (H.264 allows any of up to 16; encoders mostly choose
  the nearest.)
- Flow from one frame of a clip to the next is the velocity in the later one, as most vectors point
  back in time, times the number of frames of the video between them: velocities are taken to be
  constant over a stride. Flow over several frames is the sum; backward flow is the negative.
- A cell without vectors (blocks, or whole frames, that are coded by themselves) gets the mean of
  the 3 x 3 cells around it; if these have none, the value at its place in the nearest frame of the
  clip; if no frame has one, 0. `known` says which cells have their own.
- libav gives vectors for H.264, MPEG-1, 2 and 4, H.263 and related codecs, but not for H.265, VP8,
  VP9 and AV1. There are none for pictures, either, or for videos whose frames have to be counted
  (`data.video`) although their codec reorders them.
"""

import bisect
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import av
import jax
import jax.numpy as jnp
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import PictureType

from vmae_jax.types import Array, Bool, Float, Int

BLOCK = 8  # Side in pixels of the smallest blocks that libav reports; one of 16 counts as four.


class Blocks(NamedTuple):
  """Velocities of the blocks of a frame.

  Attributes:
    values: (x, y), to the right and downwards, in pixels per frame of the video; NaN where a block
      has no vector.
    top, left: The pixel of the picture at which the blocks begin.
  """

  values: Float[np.ndarray, 'y x 2']
  top: int = 0
  left: int = 0

  def turned(self, size: tuple[int, int], swap: bool, flips: tuple[bool, bool]) -> 'Blocks':
    """The blocks of the picture as it is shown.

    Args:
      size: Height and width of the stored picture.
      swap: Whether rows and columns are swapped; this comes first.
      flips: Whether top and bottom, and left and right, are then mirrored.
    """
    values, begins = self.values, []
    if swap:
      values, size = values.transpose(1, 0, 2)[..., ::-1], size[::-1]
    for axis, flip in enumerate(flips):
      begins.append(size[axis] - BLOCK * values.shape[axis] if flip else 0)
      if flip:  # Mirrored rows change the sign of y, mirrored columns that of x.
        values = np.flip(values, axis) * np.where([axis == 1, axis == 0], -1, 1)
    return Blocks(values, *begins)


def block_motion(frame: av.VideoFrame, gaps: tuple[int, int], *, codec: str) -> Blocks:
  """The motion of a decoded frame, as the frame is stored.

  Args:
    frame: From a decoder with the option export_side_data=mvs.
    gaps: The number of frames from the reference that is shown before the frame, and to the one
      after it; 0 if there is none.
    codec: The decoder's name. In B-frames of MPEG-4, vectors of 0 are ignored, since libav also
      gives them for blocks in direct mode.
  """
  rows, columns = (-(-n // 16) * 16 // BLOCK for n in (frame.height, frame.width))
  side_data = frame.side_data.get(Type.MOTION_VECTORS)
  if side_data is None:
    return Blocks(np.full((rows, columns, 2), np.nan, np.float32))
  found = side_data.to_ndarray()
  frames = np.where(found['source'] < 0, -gaps[0], gaps[1])  # From the frame to the reference.
  vector = np.stack([found['motion_x'], found['motion_y']]) / np.maximum(found['motion_scale'], 1)
  use = frames != 0
  if codec == 'mpeg4' and frame.pict_type == PictureType.B:
    use &= vector.any(axis=0)
  velocity = vector / np.where(use, frames, 1)
  # A vector belongs to one, two or four blocks.
  down, right = np.array([(0, 0, 1, 1), (0, 1, 0, 1)], np.int16)
  y, x = (
    ((found[f'dst_{x}'] - (found[side] >> 1)) // BLOCK)[:, None] + more
    for x, side, more in (('y', 'h', down), ('x', 'w', right))
  )
  use = use[:, None] & (found['h'][:, None] > BLOCK * down) & (found['w'][:, None] > BLOCK * right)
  use &= (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
  at, number = (y.astype(int) * columns + x)[use], rows * columns
  values = np.broadcast_to(velocity[..., None], (2, *use.shape))[:, use]
  sums = np.stack([np.bincount(at, v, number) for v in values], -1).astype(np.float32)
  with np.errstate(invalid='ignore'):
    sums /= np.bincount(at, minlength=number)[:, None]
  return Blocks(sums.reshape(rows, columns, 2))


def cut_motion(
  frames: Sequence[Blocks | None], box: tuple[int, int, int, int], *, flip: bool, cells: int
) -> Float[np.ndarray, 'T c c 2']:
  """The motion of a clip that is cropped from pictures and resized.

  Args:
    frames: The blocks of each frame, as the picture is shown; None if it has none.
    box: x, y, width and height of the crop.
    flip: Whether the clip is mirrored left and right.
    cells: The number of cells along each side of the clip.

  Returns:
    Float16: velocity in cells per frame of the video, the mean over the area of each cell; NaN
    where no block in the cell has a vector.
  """
  out = np.full((len(frames), cells, cells, 2), np.nan, np.float16)
  there = [i for i, blocks in enumerate(frames) if blocks is not None]
  if not there:
    return out
  x, y, w, h = box
  values = np.stack([frames[i].values for i in there])
  _, top, left = frames[there[0]]

  def share(start: int, length: int, first: int, count: int) -> Float[np.ndarray, 'c q']:
    """How many pixels of each cell lie in each block, along one axis."""
    cell = start + np.arange(cells + 1) * length / cells
    block = first + BLOCK * np.arange(count + 1)
    ends = np.minimum(cell[1:, None], block[1:]) - np.maximum(cell[:-1, None], block[:-1])
    return np.maximum(ends, 0).astype(np.float32)

  down, across = share(y, h, top, values.shape[1]), share(x, w, left, values.shape[2])
  has = ~np.isnan(values[..., 0])
  planes = [np.where(has, values[..., 0], 0), np.where(has, values[..., 1], 0), has]
  right, lower, area = (down @ plane.astype(np.float32) @ across.T for plane in planes)
  if flip:
    right, lower, area = -right[..., ::-1], lower[..., ::-1], area[..., ::-1]
  with np.errstate(invalid='ignore', divide='ignore'):
    out[there] = np.stack([right / area * (cells / w), lower / area * (cells / h)], -1)
  return out


def reference_gaps(
  packets: Sequence[av.Packet], context: av.VideoCodecContext, *, timed: bool
) -> list[tuple[int, int]]:
  """For each packet, the frames from the reference before it and to the one after it; 0 if none.

  H.264 marks the frames that are references (nal_ref_idc). In other codecs with vectors all frames
  are, except B-frames, which are shown before a frame that is decoded earlier.

  Args:
    packets: All packets of the stream, in its order.
    context: Their decoder.
    timed: Whether time stamps tell in which order frames are shown; else it is that of packets.
  """
  shown = list(range(len(packets)))
  if timed:
    shown = np.argsort(np.argsort([packet.pts for packet in packets])).tolist()
  latest = itertools.accumulate(shown, max)
  refers = [place == last for place, last in zip(shown, latest, strict=True)]
  if context.codec.canonical_name == 'h264':
    head = bytes(context.extradata or b'')[:5]
    length = (head[4] & 3) + 1 if len(head) == 5 and head[0] == 1 else 0
    refers = [_h264_refers(memoryview(packet), length) for packet in packets]
  gaps, references = [], []
  for place, refer in zip(shown, refers, strict=True):
    at = bisect.bisect(references, place)
    before = place - references[at - 1] if at else 0
    gaps.append((before, references[at] - place if at < len(references) else 0))
    if refer:
      references.insert(at, place)
  return gaps


def _h264_refers(data: memoryview, length: int) -> bool:
  """Whether nal_ref_idc of the first slice is not 0.

  Units begin with their length in `length` bytes or, if this is 0, with a start code.
  """
  if length:
    starts, at = [], 0
    while at + length < len(data):
      starts.append(at + length)
      at += length + int.from_bytes(data[at : at + length])
  else:
    starts = (found.end() for found in re.finditer(b'\0\0\1(?=.)', data, re.DOTALL))
  slices = (data[at] for at in starts if data[at] & 31 in (1, 2, 5))
  return bool(next(slices, 0) & 0x60)


def codec_flow(
  clip: Any,
  *,
  pairs: tuple[tuple[int, int], ...],
  vectors: Float[Array, 'b T c c 2'],
  times: Int[Array, 'b T'],
) -> Float[Array, 'b q c c 2']:
  """Flow between frames of a clip; see the top of this file.

  Args:
    clip: Not used.
    pairs: Frames (i, j): from i to j.
    vectors: What `cut_motion` gives.
    times: The number in the video of each frame of the clip.
  """
  frames = jnp.diff(times, axis=1, prepend=times[:, :1])[..., None, None, None]
  moved = jnp.cumsum(filled(vectors.astype(jnp.float32)) * frames, axis=1)
  i, j = np.array(pairs).T
  return moved[:, j] - moved[:, i]


def known(vectors: Float[Array, '*b 2']) -> Bool[Array, '*b']:
  """Whether each cell has vectors of its own."""
  return jnp.isfinite(vectors[..., 0])


def filled(vectors: Float[Array, 'b T c c 2']) -> Float[Array, 'b T c c 2']:
  """Vectors with missing values filled in; see the top of this file."""
  has = known(vectors)[..., None]
  both = jnp.concatenate([jnp.where(has, vectors, 0), has], axis=-1)
  for axis in (2, 3):  # Sums of 3 x 3.
    wide = jnp.pad(both, [(int(k == axis),) * 2 for k in range(5)])
    n = both.shape[axis]
    both = sum(jax.lax.slice_in_dim(wide, s, s + n, axis=axis) for s in range(3))
  around = both[..., :2] / jnp.where(both[..., 2:] == 0, jnp.nan, both[..., 2:])
  vectors = jnp.where(has, vectors, around)

  def nearest(vectors, reverse):
    """For each cell the nearest earlier (later) frame's vector, and that frame's distance."""

    def step(carried, frame):
      value, age = carried
      has = known(frame)[..., None]
      carried = jnp.where(has, frame, value), jnp.where(has, 0, age + 1)
      return carried, carried

    first = vectors[:, 0]
    start = jnp.full_like(first, jnp.nan), jnp.full_like(first[..., :1], jnp.inf)
    found = jax.lax.scan(step, start, vectors.swapaxes(0, 1), reverse=reverse)[1]
    return (x.swapaxes(0, 1) for x in found)

  (earlier, ago), (later, ahead) = (nearest(vectors, reverse) for reverse in (False, True))
  return jnp.nan_to_num(jnp.where(ahead < ago, later, earlier))
