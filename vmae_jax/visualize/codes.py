"""Predicted codes of a tokenizer, decoded to frames."""

import numpy as np

from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import Layout, labelled_rows, to_uint8, token_pixels

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
  layout: Layout = labelled_rows,
) -> UInt8[np.ndarray, '...']:
  """Draws the frames, and the decoded images of their true and of their predicted codes.

  Args:
    frames: The frames of the clip that have codes, one for each time slot, in [0, 1].
    masked_tokens: True where a token was hidden.
    decoded: Images of the true codes, the best result that a model can reach.
    predicted: Images of the predicted codes of hidden tokens and the true ones of visible tokens.
    accuracy: Share of hidden codes that are right.
    columns: Text above each frame.
    tokenizer: The name of its file, for the caption.
    title: Text above the picture.
    layout: See `reconstruction_grid`.
  """
  hidden = token_pixels(masked_tokens, frames.shape)
  rows = {
    'input': frames,
    f'masked\n{masked_tokens.mean():.0%} hidden': np.where(hidden, GREY, frames),
    'true codes\ndecoded': decoded,
    'predicted\ncodes decoded': predicted,
  }
  return layout(
    {label: list(to_uint8(row)) for label, row in rows.items()},
    columns=columns,
    title=title,
    caption=f'Codes of the tokenizer {tokenizer}. Last row: the likeliest code of each hidden '
    f'token ({accuracy:.0%} are right), the true code of each visible one.',
  )
