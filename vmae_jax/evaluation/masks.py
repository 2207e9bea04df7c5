"""Masks of objects: pictures whose pixels are numbers of objects, with the palette of DAVIS."""

import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from vmae_jax.errors import UserError
from vmae_jax.evaluation.segmentation_scores import VOID
from vmae_jax.types import UInt8

MAX_OBJECTS = 32


def palette() -> UInt8[np.ndarray, '256 3']:
  """The colours of DAVIS and PASCAL VOC: bits of the index, dealt to red, green, blue."""
  index = np.arange(256)
  colours = np.zeros((256, 3), int)
  for bit in range(8):
    for channel in range(3):
      colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
  return colours.astype(np.uint8)


def read_mask(path: str | os.PathLike) -> UInt8[np.ndarray, 'H W']:
  """The object of each pixel: 0 for none, VOID (255) where nobody knows.

  A picture of black and white alone is one object.

  Raises:
    UserError: there is no such picture, or its pixels are colours instead of numbers.
  """
  try:
    with Image.open(path) as image:
      mode, mask = image.mode, np.asarray(image)
  except (OSError, UnidentifiedImageError) as e:
    raise UserError(f'cannot read the mask {path}: {_reason(e)}.') from e
  if mode == '1':
    mask = mask.astype(np.uint8) * 255
  elif mode not in ('P', 'L'):
    raise UserError(
      f'{path} holds colours (mode {mode}), a mask holds the number of an object at each pixel: '
      'save it with a palette (indexed), or in black and white for one object.'
    )
  if mode != 'P' and set(np.unique(mask)) == {0, 255}:
    mask = (mask > 0).astype(np.uint8)
  return mask


def first_mask(path: str | os.PathLike) -> UInt8[np.ndarray, 'H W']:
  """A mask to propagate: as `read_mask`, and nothing is unknown.

  Raises:
    UserError: it has no object, or more than MAX_OBJECTS.
  """
  mask = read_mask(path)
  mask = np.where(mask == VOID, 0, mask).astype(np.uint8)
  if not mask.any():
    raise UserError(f'{path} has no object: all its pixels are 0.')
  if mask.max() > MAX_OBJECTS:
    raise UserError(
      f'{path} has objects up to {mask.max()}, at most {MAX_OBJECTS} can be told apart: number '
      'them from 1; a smoothed edge makes an object of every shade.'
    )
  return mask


def write_mask(path: str | os.PathLike, mask: UInt8[np.ndarray, 'H W']) -> None:
  """Writes a palette PNG as DAVIS has them."""
  image = Image.fromarray(mask, 'L')
  image.putpalette(palette().tobytes())
  image.save(path)


def _reason(e: Exception) -> str:
  return ' '.join((getattr(e, 'strerror', None) or str(e)).split())
