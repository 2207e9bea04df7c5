"""Tokens of a teacher as colours."""

from collections.abc import Callable

import numpy as np

from vmae_jax.types import Float, UInt8
from vmae_jax.visualize.images import Shown, to_uint8


def main_colours(tokens: Float[np.ndarray, '*b f']) -> UInt8[np.ndarray, '*b 3']:
  """Colours of tokens: their first three principal components as red, green and blue.

  The components are those of these tokens; the colours span two standard deviations each way.
  """
  return _colours_of(tokens.reshape(-1, tokens.shape[-1]))(tokens)


def _colours_of(tokens: Float[np.ndarray, 'n f']) -> Callable[..., UInt8[np.ndarray, '*b 3']]:
  """A function (values) -> their colours, by the principal components of these tokens."""
  mean = tokens.mean(axis=0)
  _, lengths, directions = np.linalg.svd(tokens - mean, full_matrices=False)
  scale = np.maximum(lengths[:3, None], 1e-9) / len(tokens) ** 0.5
  axes = (directions[:3] / (4 * scale)).T
  # The sign of a component is arbitrary: the side with more tokens becomes the bright one.
  axes *= np.where(((tokens - mean) @ axes > 0).mean(0) < 0.5, 1, -1)
  return lambda values: to_uint8((values - mean) @ axes + 0.5)


def features_grid(shown: Shown) -> UInt8[np.ndarray, '...']:
  """Draws frames, the teacher's tokens, the predicted ones, and predicted with visible ones."""
  slots = shown.slots()
  colours = _colours_of(shown.values[0])
  (_, ph, pw), frames = shown.patch, slots * shown.patch[0]

  def draw(values):
    return colours(values).reshape(*shown.grid, 3)[slots].repeat(ph, 1).repeat(pw, 2)

  return shown.page(
    shown.rows(draw, frames, name='teacher'),
    frames,
    f'Tokens of the teacher {shown.options["teacher"]}: red, green and blue are the first three '
    "principal components of this clip's tokens. Only these components and their scale are "
    'borrowed from the hidden tokens.',
  )
