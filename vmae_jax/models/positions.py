"""Fixed sine-cosine positions over the flattened token index."""

import numpy as np

from vmae_jax.types import Float


def sincos_positions(n: int, d: int) -> Float[np.ndarray, 'n d']:
  """VideoMAE's table: one dimension over the index (t * h + y) * w + x, sines at even columns.

  Column j of row i has the angle i / 10000^(2 floor(j / 2) / d): sine for even j, cosine for
  odd j. Computed in float64. Not a parameter: it follows from the clip's size, so that a
  model takes any size, and checkpoints hold no positions.

  Source: VideoMAE's released code, `get_sinusoid_encoding_table`.
  """
  angle = np.arange(n)[:, None] / np.power(10000.0, 2 * (np.arange(d) // 2) / d)
  return np.where(np.arange(d) % 2, np.cos(angle), np.sin(angle)).astype(np.float32)
