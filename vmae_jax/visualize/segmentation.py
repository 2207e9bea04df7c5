"""Masks of objects over their frames."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from vmae_jax.evaluation.masks import palette
from vmae_jax.types import UInt8
from vmae_jax.visualize.curves import COLOURS
from vmae_jax.visualize.images import labelled_rows

COLUMNS = 6
WIDTH = 240  # Of a frame in the picture.
_SAFE = (COLOURS[4], COLOURS[5], *COLOURS[1:4], COLOURS[0], '#F0E442')  # Light ones first.


def safe_colours() -> UInt8[np.ndarray, '256 3']:
  """Colours of objects that any colour vision tells apart, seven of them in turn; 0 is black."""
  seven = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _SAFE], np.uint8)
  return np.concatenate([np.zeros((1, 3), np.uint8), seven[np.arange(255) % len(seven)]])


def overlay(
  frame: UInt8[np.ndarray, 'H W 3'],
  mask: UInt8[np.ndarray, 'H W'],
  *,
  colours: UInt8[np.ndarray, '256 3'] | None = None,
) -> UInt8[np.ndarray, 'H W 3']:
  """The frame, its objects half covered by their colours and outlined in them.

  Args:
    frame: RGB.
    mask: The object of each pixel, 0 for none.
    colours: Of objects; None for DAVIS's palette, as in files.
  """
  inner = np.pad(mask, 1, mode='edge')
  edge = np.zeros(mask.shape, bool)
  for part in (inner[:-2, 1:-1], inner[2:, 1:-1], inner[1:-1, :-2], inner[1:-1, 2:]):
    edge |= part != mask
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
  """A row of frames for each set of masks.

  Args:
    frames: A few of a clip, from the first to the last.
    rows: Label -> a mask for each frame.
    names: Of the frames.
    title: Above the picture.
    caption: Below it.
  """
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
