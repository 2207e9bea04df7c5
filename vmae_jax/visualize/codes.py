"""Predicted codes of a tokenizer, decoded to frames."""

import pathlib

import numpy as np

from vmae_jax.targets.codes import FRAMES
from vmae_jax.types import UInt8
from vmae_jax.visualize.images import HIDDEN, Shown, to_uint8, token_pixels


def codes_grid(shown: Shown) -> UInt8[np.ndarray, '...']:
  """Draws the frames, and the decoded images of their true and of their predicted codes.

  Args:
    shown: `values` are the frames 't T_p H W 3' of each time slot; images 't H W 3' of the true
      codes, the best result that a model can reach; images of predicted codes, and of copies of the
      nearest visible token's, both of hidden tokens among the true codes of visible ones; and the
      shares of hidden codes that these have right.
  """
  frames, true, (predicted, copied), right = shown.values
  length = shown.patch[0]
  place = range(length)[FRAMES[shown.options.get('frames', 'first')]][0]
  slots, frames = shown.slots(), frames[:, place]
  hidden = token_pixels(shown.hidden.reshape(shown.grid), frames.shape)
  rows = {
    'input': frames,
    f'masked\n{shown.share}': np.where(hidden, HIDDEN, frames),
    'true codes\ndecoded': true,
    'nearest visible\ncodes alone': copied,
    'predicted\n+ visible': predicted,
  }
  return shown.page(
    {label: list(to_uint8(row[slots])) for label, row in rows.items()},
    slots * length + place,
    f'Codes of {pathlib.Path(shown.config.tokenizer.path).name}. Predicted is the likeliest code '
    'of each hidden patch: {:.0%} are right, of copies of the nearest visible one {:.0%}.'.format(
      *map(float, right)
    ),
  )
