"""Tokens of a teacher as colours."""

from typing import Any

import numpy as np

from vmae_jax.models.patches import token_grid
from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import (
  Layout,
  evenly,
  frame_names,
  labelled_rows,
  prediction_rows,
  to_uint8,
)


def features_grid(
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
  """Draws frames, the teacher's tokens, the predicted ones, and these among visible ones.

  Colours are a token's places along the three directions in which the clip's true tokens differ
  most, cut to two standard deviations.

  Arguments are those of `reconstruction_grid`, except for:

  Args:
    true: The target of all tokens.
    predicted: The model's values, in the order of the hidden tokens' indices.
    options: The target's options.
  """
  grid = token_grid(video.shape[:3], patch)
  chosen = evenly(grid[0], most=most)
  mean = true.mean(axis=0)
  _, lengths, directions = np.linalg.svd(true - mean, full_matrices=False)
  scale = np.maximum(lengths[:3, None], 1e-9) / len(true) ** 0.5
  axes = (directions[:3] / (4 * scale)).T  # Two deviations each way are 0 to 1.

  def draw(values):
    shown = values.any(axis=1, keepdims=True)  # Zeros stand for what is not shown.
    colours = to_uint8(np.where(shown, (values - mean) @ axes + 0.5, 1.0))
    frames = colours.reshape(*grid, 3)[chosen]
    return frames.repeat(patch[1], axis=1).repeat(patch[2], axis=2)

  return layout(
    {'input': list(to_uint8(video[chosen * patch[0]]))}
    | prediction_rows(true, predicted, masked_tokens, draw=draw, name='teacher'),
    columns=frame_names(chosen * patch[0]),
    title=title,
    caption=f'Tokens of the teacher {options["teacher"]}: red, green and blue are the three '
    'directions in which those of this clip differ most. White: not shown. Nothing is borrowed '
    'from the hidden tokens but these directions and their scale.',
  )
