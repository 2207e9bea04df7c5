"""Predicted and true trajectories, drawn over the frames that they start from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vmae_jax.types import Float, UInt8
from vmae_jax.visualize.images import Hidden, Patch, Shown, evenly, swatch, to_uint8
from vmae_jax.visualize.reconstruction import interpolate_visible

MIN_SIDE = 320  # Frames are enlarged to at least this side, to show paths of a few pixels.
TRUE, PREDICTED = (230, 159, 0), (86, 180, 233)  # Orange and blue, for any colour vision.
SHADE = 0.45  # Share of their brightness that frames under paths keep.
_SMOOTH = 2  # Paths are drawn this many times larger, then reduced, for smooth edges.
_THIN = 160  # Side of a frame over the width of a path.

_BORROWED = {
  'none': 'Nothing is borrowed from the hidden tokens.',
  'total_length': 'The model predicts paths of length 1: the length of each is interpolated from '
  'the visible tokens near it.',
  'patch_std': 'The model predicts deviations within a token, with a std of 1: their std is '
  'interpolated from the visible tokens near each hidden one{mean}.',
}
_MEANS = {True: '; its mean motion is predicted', False: ', and so is its mean motion'}


def trajectory_grid(shown: Shown) -> UInt8[np.ndarray, '...']:
  """Draws visible patches, paths along the flow, predicted paths of hidden tokens, and both.

  Args:
    shown: `values` are those of `trajectory` with `normalise='none'`, the same `scale` and no mean,
      as 'n 2 L q'; its weights, 0 where a token has no path; and the predictions.
  """
  true, weights, predicted = shown.values
  valid, grid, patch, options = weights[:, 0] > 0, shown.grid, shown.patch, shown.options
  scale, masked_tokens = options.get('scale', 20.0), shown.hidden
  paths = np.full(true.shape, np.nan)
  paths[masked_tokens] = predicted_steps(predicted, true, masked_tokens, grid=grid, options=options)
  axes = slice(None), None, None, None
  true, paths = (np.where(valid[axes], values, np.nan) * scale for values in (true, paths))
  hidden_true = np.where(masked_tokens[axes], true, np.nan)
  with_paths = np.flatnonzero(valid.reshape(grid).any((1, 2)))
  slots = with_paths[evenly(len(with_paths), most=shown.most and min(3, shown.most))]
  if not len(slots):
    slots = shown.slots(3)
  frames = shown.clip[slots * patch[0]]
  hidden = masked_tokens.reshape(grid)[slots].repeat(patch[1], 1).repeat(patch[2], 2)
  seen = to_uint8(np.where(hidden[..., None], 0.15 * frames, frames))
  grey = to_uint8(frames.mean(-1, keepdims=True).repeat(3, -1) * SHADE)
  few = math.prod(grid[1:]) <= 64  # If there are more tokens, one mean path of each is drawn.

  def drawn(*layers):
    layers = [(_points(values, grid, patch, each=few), colour) for values, colour in layers]
    return [
      draw_paths(frame, [(starts, steps[slot], colour) for (starts, steps), colour in layers])
      for frame, slot in zip(grey, slots, strict=True)
    ]

  rows = {
    f'visible\n{shown.share}': [_enlarged(frame) for frame in seen],
    'along the flow\n(an estimate)': drawn((true, TRUE)),
    'predicted': drawn((paths, PREDICTED)),
    'both': drawn((hidden_true, TRUE), (paths, PREDICTED)),
  }
  ends, still = (
    np.linalg.norm(_points(x, grid, patch)[1].sum(2), axis=-1)
    for x in (paths - hidden_true, hidden_true)
  )
  normalise, mean = options.get('normalise', 'patch_std'), options.get('mean', False)
  return shown.page(
    rows,
    slots * patch[0],
    f'Where points{"" if few else ", averaged over each token,"} go in the next frames, with a dot '
    'at the end. '
    + (
      f'Predicted ends are off by {np.nanmean(ends):.1f} pixels; points that do not move would be '
      f'off by {np.nanmean(still):.1f}. '
      if np.isfinite(ends).any()
      else ''
    )
    + _BORROWED[normalise].format(mean=_MEANS[mean]),
    legend={
      'along the estimated flow': swatch(TRUE),
      'predicted, hidden tokens only': swatch(PREDICTED),
    },
  )


def predicted_steps(
  predicted: Float[np.ndarray, 'm f'],
  true: Float[np.ndarray, 'n 2 L q'],
  masked_tokens: Hidden,
  *,
  grid: tuple[int, ...],
  options: Mapping[str, Any],
) -> Float[np.ndarray, 'm 2 L q']:
  """Predicted steps without the target's normalisation, by statistics of visible tokens alone.

  `true` and the result are in units of the target's `scale`; `options` are the target's.
  """
  m, eps = len(predicted), options.get('eps', 0.01)
  each = true[0].size
  values = predicted[:, :each].reshape(m, *true.shape[1:])

  def near(statistic):
    flat = interpolate_visible(statistic.reshape(len(true), -1), masked_tokens, grid=grid)
    return flat.reshape(m, *statistic.shape[1:])

  match options.get('normalise', 'patch_std'):
    case 'patch_std':
      means = predicted[:, each:].reshape(m, 2, -1, 1)
      if not options.get('mean', False):
        means = near(true.mean(-1, keepdims=True))
      values = values * (near(true.std(-1, ddof=1, keepdims=True)) + eps) + means
    case 'total_length':
      lengths = np.linalg.norm(true, axis=1, keepdims=True).sum(2, keepdims=True)
      values = values * (near(lengths) + eps)
  return values


def _points(
  values: Float[np.ndarray, 'n 2 L q'], grid: tuple[int, ...], patch: Patch, *, each: bool = True
) -> tuple[Float[np.ndarray, 'p 2'], Float[np.ndarray, 't p L 2']]:
  """Starts of points in a frame and their steps, in pixels; not `each`: of the means of tokens."""
  t, h, w = grid
  if not each:
    values = values.mean(-1, keepdims=True)
  side, (_, _, L, q) = math.isqrt(values.shape[-1]), values.shape
  steps = values.reshape(t, h, w, 2, L, side, side)
  steps = steps.transpose(0, 1, 5, 2, 6, 4, 3).reshape(t, h * w * q, L, 2)
  pitch = patch[1] / side
  x, y = np.meshgrid(np.arange(side * w), np.arange(side * h))
  return np.stack([x, y], -1).reshape(-1, 2) * pitch + pitch / 2, steps


def _enlarged(frame: UInt8[np.ndarray, 'H W 3'], times: int = 1) -> UInt8[np.ndarray, 'H2 W2 3']:
  """A frame enlarged by a whole factor to at least `times` MIN_SIDE pixels a side."""
  factor = math.ceil(MIN_SIDE / min(frame.shape[:2])) * times
  return frame.repeat(factor, 0).repeat(factor, 1)


def draw_paths(
  frame: UInt8[np.ndarray, 'H W 3'],
  layers: Sequence[
    tuple[Float[np.ndarray, 'q 2'], Float[np.ndarray, 'q L 2'], tuple[int, int, int]]
  ],
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """The frame, enlarged, with a line along each path and a dot at its end.

  Args:
    layers: Where points start, their steps (x, y) in pixels of the frame, and the colour. Paths
      that are not finite are left out.
  """
  big = Image.fromarray(_enlarged(frame, _SMOOTH))
  factor = big.width // frame.shape[1]
  draw, width = ImageDraw.Draw(big), round(min(big.size) / _THIN)
  for starts, steps, colour in layers:
    paths = np.concatenate([starts[:, None], starts[:, None] + steps.cumsum(1)], 1) * factor
    for path in paths[np.isfinite(paths).all((1, 2))]:
      draw.line([tuple(point) for point in path], fill=colour, width=width)
      (x, y), far = path[-1], np.hypot(*(path[-1] - path[0])) > 3 * width
      radius = width * (1.3 if far else 0.6)
      draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
  size = big.width // _SMOOTH, big.height // _SMOOTH
  return np.asarray(big.resize(size, Image.Resampling.BOX))
