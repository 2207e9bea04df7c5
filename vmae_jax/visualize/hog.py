"""Predicted and true histograms of oriented gradients, as glyphs."""

import math
from typing import Any

import einops
import numpy as np

from vmae_jax.models.patches import token_grid
from vmae_jax.targets.hog import BINS, FRAMES, bin_angles
from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import (
  Layout,
  evenly,
  frame_names,
  labelled_rows,
  prediction_rows,
  to_uint8,
)

MIN_CELL = 16  # Cells are enlarged to at least this many pixels.


def cells(
  values: Float[np.ndarray, 'n f'], grid: tuple[int, int, int]
) -> Float[np.ndarray, 't Hc Wc 9']:
  """The histogram of each cell: the mean over channels, of the first step along a trajectory."""
  (t, h, w), steps = grid, values.shape[1] // (12 * BINS)
  first = values.reshape(t, h, w, -1, BINS, steps, 2, 2)[:, :, :, :, :, 0]
  return einops.rearrange(first.mean(3), 't h w k a b -> t (h a) (w b) k')


def glyphs(
  cells: Float[np.ndarray, '*b Hc Wc 9'], *, variant: str = 'mme', side: int = MIN_CELL
) -> Float[np.ndarray, '*b H W']:
  """A stroke for each bin of a cell, along the edge (across the gradient), as bright as the bin.

  Args:
    cells: Histograms.
    variant: The target's variant, which gives the directions of bins.
    side: Height and width of a glyph in pixels.

  Returns:
    The brightest of the strokes at each pixel, in units of the histograms.
  """
  at = np.arange(side) - (side - 1) / 2
  angles = bin_angles(variant)[:, None, None]
  distance = np.abs(
    np.cos(angles) * at + np.sin(angles) * at[:, None]
  )  # Pixels to the edge's line.
  inside = np.hypot(at, at[:, None]) < side / 2
  strokes = np.clip(1.2 - distance, 0, 1) * inside
  *b, h, w, _ = cells.shape
  drawn = np.zeros((*b, h, side, w, side))
  for k in range(BINS):
    drawn = np.maximum(drawn, cells[..., :, None, :, None, k] * strokes[k][:, None, :])
  return drawn.reshape(*b, h * side, w * side)


def hog_grid(
  video: Float[np.ndarray, 'T H W 3'],
  masked_tokens: Bool[np.ndarray, ' n'],
  true: Float[np.ndarray, 'n f'],
  predicted: Float[np.ndarray, 'm f'],
  *,
  patch: tuple[int, int, int],
  options: dict[str, Any],
  title: str = '',
  most: int | None = 4,
  layout: Layout = labelled_rows,
) -> UInt8[np.ndarray, '...']:
  """Draws frames, their true histograms, the predicted ones, and these among visible ones.

  Glyphs show the mean over the channels, and the first step of histograms along trajectories.

  Arguments are those of `reconstruction_grid`, except for:

  Args:
    true: The target of all tokens.
    predicted: The model's values, in the order of the hidden tokens' indices.
    options: The target's options.
  """
  grid = token_grid(video.shape[:3], patch)
  factor = math.ceil(2 * MIN_CELL / patch[1])
  peak = max(float(np.quantile(cells(true, grid).max(-1), 0.99)), 1e-6)
  slots = evenly(grid[0], most=most)
  frames = slots * patch[0]
  if true.shape[1] == 12 * BINS:
    frames += FRAMES[options.get('frame', 'middle')](patch[0])

  def draw(values):
    variant, side = options.get('variant', 'mme'), patch[1] // 2 * factor
    strokes = glyphs(cells(values, grid)[slots], variant=variant, side=side)
    return to_uint8(strokes / peak)[..., None].repeat(3, -1)

  return layout(
    {'input': list(to_uint8(video[frames]).repeat(factor, 1).repeat(factor, 2))}
    | prediction_rows(true, predicted, masked_tokens, draw=draw),
    columns=frame_names(frames),
    title=title,
    caption='Strokes run along edges; the stronger the gradients of that direction in a cell, the '
    'brighter. Nothing is borrowed from the hidden tokens.',
  )
