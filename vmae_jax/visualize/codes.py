"""Predicted codes of a tokenizer, as pictures: decoded back to frames."""

import numpy as np

from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import labelled_rows, to_uint8

GREY = 0.5  # Hidden patches.


def codes_grid(
  frames: Float[np.ndarray, 't H W 3'],
  masked_tokens: Bool[np.ndarray, 't h w'],
  decoded: Float[np.ndarray, 't H W 3'],
  predicted: Float[np.ndarray, 't H W 3'],
  *,
  accuracy: float,
  columns: list[str],
  tokenizer: str,
  title: str = '',
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """Draws the tokenised frames, what their codes decode to, and what predicted codes do.

  Args:
    frames: Those of the clip that are tokenised, in [0, 1].
    masked_tokens: True where a token was hidden.
    decoded: From the true codes: the best that the model could reach.
    predicted: From the predicted codes of hidden tokens beside the true ones of visible tokens.
    accuracy: Share of hidden codes that are right.
    columns: Text above each frame.
    tokenizer: Its file, for the caption.
    title: Text above the picture.
  """
  hidden = masked_tokens
  for axis in (1, 2):
    hidden = hidden.repeat(frames.shape[axis] // hidden.shape[axis], axis)
  hidden = hidden[..., None]
  rows = {
    'input': frames,
    f'masked\n{masked_tokens.mean():.0%} hidden': np.where(hidden, GREY, frames),
    'true codes\ndecoded': decoded,
    'predicted\ncodes decoded': predicted,
  }
  return labelled_rows(
    {label: list(to_uint8(row)) for label, row in rows.items()},
    columns=columns,
    title=title,
    caption=f'Codes of the tokenizer {tokenizer}. Last row: the likeliest code of each hidden '
    f'token ({accuracy:.0%} are right), the true code of each visible one.',
  )
