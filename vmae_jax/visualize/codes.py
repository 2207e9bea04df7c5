"""Codes of a tokenizer as a model predicts them, decoded to images."""

import pathlib

import numpy as np

from vmae_jax.targets.codes import FRAMES
from vmae_jax.types import UInt8
from vmae_jax.visualize.images import HIDDEN, Shown, to_uint8, token_pixels


def codes_grid(shown: Shown) -> UInt8[np.ndarray, '...']:
  """Draws the frames, and images decoded from their true and from their predicted codes.

  Args:
    shown: `values` are the frames 't T_p H W 3' of each time slot; images 't H W 3' of the true
      codes, the best that a model can reach; a pair of images in which hidden tokens have the
      predicted codes, or copies of the nearest visible token's, and visible tokens the true codes;
      and the shares of hidden codes that are right in these two.
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
    f'Codes of {pathlib.Path(shown.config.tokenizer.path).name}. The prediction is the likeliest '
    f'code of each hidden patch: {right[0]:.0%} are right. Of codes copied from the nearest '
    f'visible patch, {right[1]:.0%} are.',
  )
