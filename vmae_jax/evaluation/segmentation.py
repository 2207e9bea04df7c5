"""Masks of all frames of a clip, from the mask of the first."""

import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vmae_jax.data.crop import resize
from vmae_jax.errors import UserError
from vmae_jax.evaluation.propagation import CHANNELS, Protocol, decide, propagate, remember_first
from vmae_jax.evaluation.sequences import Clip
from vmae_jax.types import Array, Float, Int, UInt8

# (uint8 clip 'T H W 3', time slot) -> features 'h w d' of that slot.
FrameFeatures = Callable[[UInt8[np.ndarray, 'T H W 3'], int], Float[Array, 'h w d']]


def input_size(height: int, width: int, *, size: str, patch: tuple[int, int]) -> tuple[int, int]:
  """Rows and columns that frames are resized to, rounded down to whole patches.

  Args:
    height: Rows of the frame.
    width: Columns of the frame.
    size: `native`; `480`, the shorter side, with the other in proportion; `480/64`, where the
      longer side is rounded down to a multiple of 64 first; `480x880`, rows and columns.
    patch: Rows and columns of a patch.

  Raises:
    UserError: the size has another form, or is smaller than a patch.
  """
  match = re.fullmatch(r'native|(\d+)(?:/([1-9]\d*)|x(\d+))?', size)
  if match is None:
    raise UserError(
      f'size {size!r} is none of: native, 480 (the shorter side), 480/64 (and the longer one a '
      'multiple of 64), 480x880 (rows and columns).'
    )
  short, multiple, columns = (int(x) if x else 0 for x in match.groups())
  if columns:
    height, width = short, columns
  elif short:
    long = max(height, width) * short // min(height, width)
    long -= long % multiple if multiple else 0
    height, width = (short, long) if height <= width else (long, short)
  sides = height // patch[0] * patch[0], width // patch[1] * patch[1]
  if not all(sides):
    raise UserError(f'size {size}: {height} x {width} pixels are less than a patch, {patch}.')
  return sides


def nearest(mask: UInt8[np.ndarray, 'H W'], size: tuple[int, int]) -> UInt8[np.ndarray, 'H2 W2']:
  """A mask at another size, by the nearest pixel: numbers of objects cannot be mixed."""
  return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def first_labels(
  mask: UInt8[np.ndarray, 'H W'], grid: tuple[int, int], *, channels: int, how: str
) -> Float[Array, 'n c']:
  """Labels of the first frame's tokens, as `Protocol.first_mask` says; they sum to 1."""
  if how == 'nearest':
    return jax.nn.one_hot(nearest(mask, grid).reshape(-1), channels)
  labels = jax.nn.one_hot(mask, channels)
  shape = *grid, channels
  return jax.image.resize(labels, shape, 'bilinear', antialias=False).reshape(-1, channels)


def around(frame: int, count: int, *, length: int, slot: int) -> tuple[Int[np.ndarray, ' T'], int]:
  """The clip that a frame's features are computed from.

  Args:
    frame: Its number.
    count: Frames in the sequence.
    length: Frames in the clip; 0 for the frame alone, repeated to fill a time slot.
    slot: Frames in a time slot.

  Returns:
    The clip's frames, `length` in a row with the frame near the middle, except at the ends of the
    sequence (a shorter sequence repeats its last frame), and the frame's time slot.
  """
  if not length:
    return np.full(slot, frame), 0
  start = max(0, min(frame - (length - 1) // 2, count - length))
  return np.minimum(start + np.arange(length), count - 1), (frame - start) // slot


def frame_features(encode: Callable[..., Array], params: Any) -> FrameFeatures:
  """Features of one time slot, from an encoder with the pool `tokens`."""
  one = jax.jit(lambda params, video, slot: encode(params, video[None])[0, slot])
  return functools.partial(one, params)


def segment(
  clip: Clip,
  mask: UInt8[np.ndarray, 'H W'],
  features: FrameFeatures,
  *,
  protocol: Protocol,
  patch: tuple[int, int, int],
  length: int = 0,
) -> Iterator[UInt8[np.ndarray, 'H W']]:
  """Yields the mask of each frame, the given one first.

  Args:
    clip: The frames.
    mask: Objects of the first frame, at its size.
    features: See FrameFeatures.
    protocol: How labels are propagated.
    patch: Frames, rows and columns of a patch.
    length: See `around`.

  Raises:
    UserError: the mask is of another size, or a frame cannot be read.
  """
  height, width = clip.read([0]).shape[1:3]
  if mask.shape != (height, width):
    raise UserError(
      f'{clip.mask} is {mask.shape[1]} x {mask.shape[0]} pixels, the frames of {clip.name} are '
      f'{width} x {height}: the mask must be drawn on the first frame.'
    )
  size = input_size(height, width, size=protocol.size, patch=patch[1:])
  grid = size[0] // patch[1], size[1] // patch[2]

  def tokens(frame: int) -> Float[Array, 'n d']:
    indices, slot = around(frame, len(clip.frames), length=length, slot=patch[0])
    used, where = np.unique(indices, return_inverse=True)
    frames = clip.read(used.tolist())
    if frames.shape[1:3] != (height, width):
      raise UserError(
        f'{clip.name}: frame {clip.frames[frame]} is {frames.shape[2]} x {frames.shape[1]} pixels, '
        f'the first is {width} x {height}: all frames must be of one size.'
      )
    frames = np.stack([resize(frame, size, resampling='bilinear') for frame in frames])
    x = features(frames[where], slot)
    return x.reshape(math.prod(grid), -1)

  yield mask
  channels = -(-(int(mask.max()) + 1) // CHANNELS) * CHANNELS
  labels = first_labels(mask, grid, channels=channels, how=protocol.first_mask)
  memory = remember_first(tokens(0), labels, protocol=protocol)
  for frame in range(1, len(clip.frames)):
    new = tokens(frame), jnp.int32(frame)
    labels, memory = propagate(memory, *new, grid=grid, protocol=protocol)
    shown = (height, width) if protocol.enlarge_to_frame else size
    found = np.asarray(decide(labels, grid=grid, size=shown, stretch=protocol.stretch))
    yield nearest(found, (height, width))
