"""Predicted and true differences of frames, as pictures."""

import jax.numpy as jnp
import numpy as np

from vmae_jax.models.patches import unpatchify
from vmae_jax.targets.frame_difference import TYPICAL, frame_difference
from vmae_jax.types import Float, UInt8
from vmae_jax.visualize.images import Shown, to_uint8
from vmae_jax.visualize.reconstruction import denormalise

# Blue and vermilion of Okabe and Ito's colours, for any colour vision.
LESS, MORE = np.array([0, 114, 178]) / 255, np.array([213, 94, 0]) / 255


def signed_colours(values: Float[np.ndarray, '*b']) -> UInt8[np.ndarray, '*b 3']:
  """Colours of values: -1 is blue, 0 white, 1 orange-red; values outside are clipped."""
  values = np.clip(values, -1, 1)[..., None]
  colour = np.where(values < 0, LESS, MORE)
  return to_uint8(1 - np.abs(values) * (1 - colour))


def peak(values: Float[np.ndarray, '...']) -> float:
  """The difference that gets the full colour."""
  return max(float(np.quantile(np.abs(values), 0.995)), 0.02)


def correlation(one: Float[np.ndarray, '*b'], other: Float[np.ndarray, '*b']) -> float:
  """The correlation of all values; 0 where either does not vary."""
  one, other = one.ravel() - one.mean(), other.ravel() - other.mean()
  return float(one @ other / max(1e-12, np.linalg.norm(one) * np.linalg.norm(other)))


def difference_grid(shown: Shown) -> UInt8[np.ndarray, '...']:
  """Draws the clip, its true differences, the predicted ones, and predicted with visible ones.

  `shown.values` are the predictions alone. Their row is multiplied by a gain, which the caption
  says, as well as their correlation with the truth.
  """
  (pt, ph, pw), grid, options = shown.patch, shown.grid, dict(shown.options)
  normalise, predicted = options.get('normalise', 'patch'), shown.values
  clip, raw = jnp.asarray(shown.clip)[None], options | {'normalise': 'none'}
  true = np.asarray(frame_difference(clip, None, patch=shown.patch, **raw)[0])
  if options.get('grey', False):
    true, predicted = (np.repeat(x, 3, axis=-1) for x in (true, predicted))
  borrowed = 'Nothing is borrowed from the hidden patches.'
  if normalise == 'patch':
    how = dict(grid=grid, statistics='visible', eps=options.get('eps', 0.03))
    predicted = denormalise(predicted, true, shown.hidden, **how)
    borrowed = (
      'The model predicts normalised patches; the mean and std of each hidden patch are '
      'interpolated from the visible patches near it, not taken from the hidden ones.'
    )
  elif normalise == 'global':
    predicted = predicted * options.get('scale', TYPICAL)

  per_slot = true.shape[-1] // (ph * pw * 3)  # pt, or pt - 1 where differences stay in a slot.
  true, predicted = (x.reshape(len(x), -1, 3).mean(-1) for x in (true, predicted))
  full = peak(true)
  gain = float(np.clip(peak(true[shown.hidden]) / peak(predicted), 1, 20).round(1))
  right = correlation(true[shown.hidden], predicted)
  slots = shown.slots()
  if shown.most is None:  # A film of all frames.
    chosen = np.arange(grid[0] * per_slot)
  else:  # The last one of each slot: both its frames lie in the slot.
    chosen = slots * per_slot + per_slot - 1
  frames = chosen // per_slot * pt + pt - per_slot + chosen % per_slot

  def draw(values):
    film = unpatchify(jnp.asarray(values)[None], patch=(per_slot, ph, pw), grid=grid)
    return signed_colours(np.asarray(film)[0, chosen, ..., 0] / full)

  rows = shown._replace(values=(true, predicted)).rows(
    draw, frames, name='true\ndifference', gain=gain
  )
  scale = signed_colours(np.linspace(-1, 1, 60)[None])
  return shown.page(
    rows,
    frames,
    f'Correlation with the true differences of hidden patches: {right:.2f} (0: none). '
    + (f'The row of predictions is {gain:.1f} times as strong as they are. ' if gain > 1 else '')
    + borrowed,
    legend={
      f'darker to lighter than the frame before, up to {full:.2f} of the range': scale.repeat(9, 0)
    },
  )
