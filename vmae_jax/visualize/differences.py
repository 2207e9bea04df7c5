"""Predicted and true differences of frames, as pictures."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vmae_jax.models.patches import token_grid, unpatchify
from vmae_jax.targets.frame_difference import TYPICAL, frame_difference
from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import (
  Layout,
  evenly,
  frame_names,
  labelled_rows,
  prediction_rows,
  to_uint8,
)
from vmae_jax.visualize.reconstruction import denormalise

_SCALE = 'Grey is no change; full range is {:.2f} of the intensity. '
CAPTIONS = {
  'patch': _SCALE + 'The model predicts normalised patches; the mean and std of each hidden patch '
  'are interpolated from the visible patches near it, not taken from the hidden ones.',
  'global': _SCALE + 'Nothing is borrowed from the hidden patches.',
  'none': _SCALE + 'Nothing is borrowed from the hidden patches.',
}


def difference_grid(
  video: Float[np.ndarray, 'T H W 3'],
  masked_tokens: Bool[np.ndarray, ' n'],
  predicted: Float[np.ndarray, 'm p'],
  *,
  patch: tuple[int, int, int],
  options: dict[str, Any],
  title: str = '',
  most: int | None = 4,
  layout: Layout = labelled_rows,
) -> UInt8[np.ndarray, '...']:
  """Draws the clip, its true differences, the predicted ones, and these among visible ones.

  Arguments are those of `reconstruction_grid`, and the options of the target `frame_difference`;
  `most` counts time slots, which are drawn with all their frames.
  """
  pt, ph, pw = patch
  grid = token_grid(video.shape[:3], patch)
  normalise = options.get('normalise', 'patch')
  raw = options | {'normalise': 'none'}
  true = np.array(frame_difference(jnp.asarray(video)[None], None, patch=patch, **raw)[0])
  if options.get('grey', False):
    true, predicted = (np.repeat(x, 3, axis=-1) for x in (true, predicted))
  if normalise == 'patch':
    eps = options.get('eps', 0.03)
    predicted = denormalise(
      predicted, true, masked_tokens, grid=grid, statistics='visible', eps=eps
    )
  elif normalise == 'global':
    predicted = predicted * options.get('scale', TYPICAL)

  per_slot = true.shape[-1] // (ph * pw * 3)  # pt, or pt - 1 where differences stay in a slot.
  peak = max(float(np.quantile(np.abs(true), 0.995)), 0.02)
  slots = evenly(grid[0], most=most)
  shown = (slots[:, None] * per_slot + np.arange(per_slot)).ravel()
  frames = (slots[:, None] * pt + np.arange(pt - per_slot, pt)).ravel()

  def draw(patches):
    film = unpatchify(jnp.asarray(patches)[None], patch=(per_slot, ph, pw), grid=grid)[0]
    return to_uint8(0.5 + 0.5 * np.asarray(film)[shown] / peak)

  rows = prediction_rows(true, predicted, masked_tokens, draw=draw, name='true\ndifference')
  return layout(
    {'input': list(to_uint8(video)[frames])} | rows,
    columns=frame_names(frames),
    title=title,
    caption=CAPTIONS[normalise].format(peak),
  )
