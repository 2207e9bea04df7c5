"""Predicted and true differences of frames, as pictures."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vmae_jax.models.patches import unpatchify
from vmae_jax.targets.frame_difference import TYPICAL, frame_difference
from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import labelled_rows, to_uint8
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
  max_slots: int = 4,
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """Draws the clip, its true differences, those predicted, and the latter beside visible ones.

  Args:
    video: The clip in [0, 1].
    masked_tokens: True where a token was hidden.
    predicted: The model's patches, in the order of the hidden tokens' indices.
    patch: Frames, height and width of a patch.
    options: Of the target `frame_difference`.
    title: Text above the picture.
    max_slots: At most so many time slots, all frames of each.
  """
  pt, ph, pw = patch
  grid = video.shape[0] // pt, video.shape[1] // ph, video.shape[2] // pw
  normalise = options.get('normalise', 'patch')
  raw = dict(options) | {'normalise': 'none'}
  true = np.array(frame_difference(jnp.asarray(video)[None], None, patch=patch, **raw)[0])
  if options.get('grey', False):
    true, predicted = (np.repeat(x, 3, axis=-1) for x in (true, predicted))
  if normalise == 'patch':
    predicted = denormalise(
      predicted,
      true,
      masked_tokens,
      grid=grid,
      statistics='visible',
      eps=options.get('eps', 0.03),
    )
  elif normalise == 'global':
    predicted = predicted * options.get('scale', TYPICAL)

  per_slot = true.shape[-1] // (ph * pw * 3)  # One less than pt where a slot stands alone.
  peak = max(float(np.quantile(np.abs(true), 0.995)), 0.02)

  def film(hidden, seen):
    patches = np.zeros_like(true)
    patches[masked_tokens], patches[~masked_tokens] = hidden, seen
    frames = unpatchify(jnp.asarray(patches)[None], patch=(per_slot, ph, pw), grid=grid)[0]
    return to_uint8(0.5 + 0.5 * np.asarray(frames) / peak)

  slots = np.linspace(0, grid[0] - 1, min(max_slots, grid[0])).round().astype(int)
  shown = (slots[:, None] * per_slot + np.arange(per_slot)).ravel()
  frames = (slots[:, None] * pt + np.arange(pt - per_slot, pt)).ravel()
  hidden, seen = true[masked_tokens], true[~masked_tokens]
  rows = {
    'input': to_uint8(video)[frames],
    'true\ndifference': film(hidden, seen)[shown],
    f'visible\n{masked_tokens.mean():.0%} hidden': film(0, seen)[shown],
    'predicted': film(predicted, 0)[shown],
    'predicted\n+ visible': film(predicted, seen)[shown],
  }
  return labelled_rows(
    {label: list(row) for label, row in rows.items()},
    columns=[f'frame {i + 1}' for i in frames],
    title=title,
    caption=CAPTIONS[normalise].format(peak),
  )
