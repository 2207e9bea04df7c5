"""Predicted and true trajectories, drawn over the frames that they start from."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vmae_jax.models.patches import token_grid
from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import Layout, evenly, frame_names, labelled_rows, to_uint8
from vmae_jax.visualize.reconstruction import interpolate_visible

MIN_SIDE = 320  # Frames are enlarged to this, so that paths of a few pixels can be seen.
TRUE, PREDICTED = (230, 159, 0), (86, 180, 233)  # Orange and blue, for any colour vision.
POINTS = 4  # In each token.
SHADE = 0.45  # What is left of the brightness of the frames under the paths.
_SMOOTH = 2  # Paths are drawn this many times larger, then made smaller: smooth edges.

_BORROWED = {
  'none': 'Nothing is borrowed from the hidden tokens.',
  'total_length': 'The model predicts paths of length 1: the length of each hidden one is '
  'interpolated from the visible tokens near it.',
  'patch_std': 'The model predicts deviations within a token, of size 1: how large they are is '
  'interpolated from the visible tokens near each hidden one, {mean}.',
}
_MEANS = {True: 'its mean motion is predicted', False: 'and so is its mean motion'}


def trajectory_grid(
  video: Float[np.ndarray, 'T H W 3'],
  masked_tokens: Bool[np.ndarray, ' n'],
  true: Float[np.ndarray, 'n f'],
  predicted: Float[np.ndarray, 'm f2'],
  *,
  valid: Bool[np.ndarray, ' n'],
  patch: tuple[int, int, int],
  options: dict[str, Any],
  title: str = '',
  most: int | None = 4,
  layout: Layout = labelled_rows,
) -> UInt8[np.ndarray, '...']:
  """Draws what is visible, the true paths, the predicted ones of hidden tokens, and both.

  Arguments are those of `reconstruction_grid`, except for:

  Args:
    true: Values of `trajectory` with `normalise='none'`, the same `scale` and no mean.
    predicted: The model's values, in the order of the hidden tokens' indices.
    valid: Tokens whose paths are drawn: the weights of `trajectory`.
    options: Options of the target `trajectory`.
  """
  grid = token_grid(video.shape[:3], patch)
  scale = options.get('scale', 20.0)
  paths = np.full(true.shape, np.nan)
  paths[masked_tokens] = predicted_steps(predicted, true, masked_tokens, grid=grid, options=options)
  hidden_true = np.where(masked_tokens[:, None], true, np.nan)
  slots = evenly(grid[0], most=most)
  frames = video[slots * patch[0]]
  hidden = masked_tokens.reshape(grid)[slots].repeat(patch[1], 1).repeat(patch[2], 2)
  seen = to_uint8(np.where(hidden[..., None], 0.15 * frames, frames))
  grey = to_uint8(frames.mean(-1, keepdims=True).repeat(3, -1) * SHADE)

  def drawn(*layers):
    layers = [
      (_points(np.where(valid[:, None], values, np.nan) * scale, grid, patch), colour)
      for values, colour in layers
    ]
    return [
      draw_paths(frame, [(starts, steps[slot], colour) for (starts, steps), colour in layers])
      for frame, slot in zip(grey, slots, strict=True)
    ]

  rows = {
    f'visible\n{masked_tokens.mean():.0%} hidden': [_enlarged(frame) for frame in seen],
    'true': drawn((true, TRUE)),
    'predicted': drawn((paths, PREDICTED)),
    'both': drawn((hidden_true, TRUE), (paths, PREDICTED)),
  }
  normalise, mean = options.get('normalise', 'patch_std'), options.get('mean', False)
  return layout(
    rows,
    columns=frame_names(slots * patch[0]),
    title=title,
    caption='Where points of the frame go in the next frames, a dot at the end. Orange: along the '
    'optical flow. Blue: predicted, for hidden tokens only. '
    + _BORROWED[normalise].format(mean=_MEANS[mean]),
  )


def predicted_steps(
  predicted: Float[np.ndarray, 'm f2'],
  true: Float[np.ndarray, 'n f'],
  masked_tokens: Bool[np.ndarray, ' n'],
  *,
  grid: tuple[int, ...],
  options: dict[str, Any],
) -> Float[np.ndarray, 'm f']:
  """Undoes the target's normalisation by statistics of visible tokens alone.

  Arguments are those of `trajectory_grid`; `true` and the result are steps over `scale`.
  """
  m, eps = len(predicted), options.get('eps', 0.01)
  steps = true.reshape(len(true), 2, -1, POINTS)
  values = predicted[:, : true.shape[1]].reshape(m, 2, -1, POINTS)

  def near(statistic):
    flat = interpolate_visible(statistic.reshape(len(true), -1), masked_tokens, grid=grid)
    return flat.reshape(m, *statistic.shape[1:])

  match options.get('normalise', 'patch_std'):
    case 'patch_std':
      means = predicted[:, true.shape[1] :].reshape(m, 2, -1, 1)
      if not options.get('mean', False):
        means = near(steps.mean(-1, keepdims=True))
      values = values * (near(steps.std(-1, ddof=1, keepdims=True)) + eps) + means
    case 'total_length':
      lengths = np.linalg.norm(steps, axis=1, keepdims=True).sum(2, keepdims=True)
      values = values * (near(lengths) + eps)
  return values.reshape(m, -1)


def _points(
  values: Float[np.ndarray, 'n f'], grid: tuple[int, ...], patch: tuple[int, int, int]
) -> tuple[Float[np.ndarray, 'q 2'], Float[np.ndarray, 't q L 2']]:
  """Where points start in a frame, and their steps, in pixels."""
  t, h, w = grid
  steps = values.reshape(t, h, w, 2, -1, 2, 2)  # t h w c L h2 w2
  steps = steps.transpose(0, 1, 5, 2, 6, 4, 3).reshape(t, 4 * h * w, -1, 2)
  pitch = patch[1] // 2
  x, y = np.meshgrid(np.arange(2 * w), np.arange(2 * h))
  return np.stack([x, y], -1).reshape(-1, 2) * pitch + pitch / 2, steps


def _enlarged(frame: UInt8[np.ndarray, 'H W 3'], times: int = 1) -> UInt8[np.ndarray, 'H2 W2 3']:
  """A frame of at least MIN_SIDE pixels, or so many times that."""
  factor = math.ceil(MIN_SIDE / min(frame.shape[:2])) * times
  return frame.repeat(factor, 0).repeat(factor, 1)


def draw_paths(
  frame: UInt8[np.ndarray, 'H W 3'],
  layers: Sequence[
    tuple[Float[np.ndarray, 'q 2'], Float[np.ndarray, 'q L 2'], tuple[int, int, int]]
  ],
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """A line along each path and a dot at its end, over the frame enlarged.

  Args:
    frame: What is drawn over.
    layers: Where points start, their steps (x, y) in pixels of the frame, and the colour. Paths
      with values that are not finite are left out.
  """
  big = Image.fromarray(_enlarged(frame, _SMOOTH))
  factor = big.width // frame.shape[1]
  draw = ImageDraw.Draw(big)
  for starts, steps, colour in layers:
    paths = np.concatenate([starts[:, None], starts[:, None] + steps.cumsum(1)], 1) * factor
    for path in paths[np.isfinite(paths).all((1, 2))]:
      draw.line([tuple(point) for point in path], fill=colour, width=_SMOOTH * 3 // 2)
      (x, y), radius = path[-1], _SMOOTH * 1.2
      draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
  size = big.width // _SMOOTH, big.height // _SMOOTH
  return np.asarray(big.resize(size, Image.Resampling.BOX))
