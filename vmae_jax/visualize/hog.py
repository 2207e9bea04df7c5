"""Predicted and true histograms of oriented gradients (HOG), as glyphs."""

import math

import einops
import numpy as np

from vmae_jax.targets.hog import BINS, FRAMES, bin_angles
from vmae_jax.types import Float, UInt8
from vmae_jax.visualize.images import Shown, to_uint8

MIN_CELL = 16  # Cells are enlarged to at least this many pixels.


def cells(
  values: Float[np.ndarray, 'n f'], grid: tuple[int, int, int]
) -> Float[np.ndarray, 't Hc Wc 9']:
  """The histogram of each cell: the mean over channels, at the first step of a trajectory."""
  (t, h, w), steps = grid, values.shape[1] // (12 * BINS)
  first = values.reshape(t, h, w, -1, BINS, steps, 2, 2)[:, :, :, :, :, 0]
  return einops.rearrange(first.mean(3), 't h w k a b -> t (h a) (w b) k')


def glyphs(
  cells: Float[np.ndarray, '*b Hc Wc 9'], *, variant: str = 'mme', side: int = MIN_CELL
) -> Float[np.ndarray, '*b H W']:
  """Draws a stroke for each bin of a cell, along the edge (across the gradient).

  Args:
    cells: Histograms.
    variant: The target's variant, on which the directions of bins depend.
    side: Height and width of a glyph in pixels.

  Returns:
    At each pixel the value of the largest bin whose stroke covers it.
  """
  at = np.arange(side) - (side - 1) / 2
  angles = bin_angles(variant)[:, None, None]
  distance = np.abs(np.cos(angles) * at + np.sin(angles) * at[:, None])  # From the edge's line.
  inside = np.hypot(at, at[:, None]) < side / 2
  strokes = np.clip(1.2 - distance, 0, 1) * inside
  *b, h, w, _ = cells.shape
  drawn = np.zeros((*b, h, side, w, side))
  for k in range(BINS):
    drawn = np.maximum(drawn, cells[..., :, None, :, None, k] * strokes[k][:, None, :])
  return drawn.reshape(*b, h * side, w * side)


def hog_grid(shown: Shown) -> UInt8[np.ndarray, '...']:
  """Draws frames, their true histograms, the predicted ones, and predicted with visible ones.

  See `cells` for the part of a histogram that is drawn.
  """
  (true, _), grid, (pt, _, side) = shown.values, shown.grid, shown.patch
  side = side // 2 * math.ceil(2 * MIN_CELL / side)
  peak = max(float(np.quantile(cells(true, grid).max(-1), 0.99)), 1e-6)
  slots = shown.slots(3 if math.prod(grid[1:]) <= 64 else 2)  # So few that strokes can be seen.
  frames = slots * pt
  if true.shape[1] == 12 * BINS:
    frames += FRAMES[shown.options.get('frame', 'middle')](pt)

  def draw(values):
    variant = shown.options.get('variant', 'mme')
    strokes = glyphs(cells(values, grid)[slots], variant=variant, side=side)
    return to_uint8(strokes / peak)[..., None].repeat(3, -1)

  return shown.page(
    shown.rows(draw, frames),
    frames,
    'Strokes run along edges; they are brighter where the gradients of a cell in that direction '
    'are stronger. Nothing is borrowed from the hidden tokens.',
  )
