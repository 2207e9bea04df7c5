"""Fixed sine-cosine positions of the flattened token index."""

import math

import numpy as np

from vmae_jax.types import Float


def sincos_positions(n: int, d: int) -> Float[np.ndarray, 'n d']:
  """VideoMAE's table of positions, over the one index (t * h + y) * w + x.

  Column j of row i is the sine (even j) or cosine (odd j) of i / 10000^(2 floor(j / 2) / d),
  computed in float64. The table is no parameter: it follows from the clip's size, so that a model
  takes clips of any size and checkpoints hold no positions.

  Source: VideoMAE's released code, `get_sinusoid_encoding_table`.
  """
  angle = np.arange(n)[:, None] / np.power(10000.0, 2 * (np.arange(d) // 2) / d)
  return np.where(np.arange(d) % 2, np.cos(angle), np.sin(angle)).astype(np.float32)


def interpolated_positions(
  grid: tuple[int, int, int], *, trained: tuple[int, int, int], d: int
) -> Float[np.ndarray, 'n d']:
  """The table of the grid `trained`, interpolated to `grid`: linear in time, bicubic in space.

  Both are tokens (t, h, w) of clips. VideoMAE V2 and MGMAE fine-tune other sizes in this way; the
  alternative is `sincos_positions(n, d)`. The result is that of PyTorch's `interpolate` with
  align_corners and antialias False.
  """
  table = sincos_positions(math.prod(trained), d).astype(np.float64).reshape(*trained, d)
  for axis, taps in enumerate((_linear_taps, _cubic_taps, _cubic_taps)):
    n, old = grid[axis], trained[axis]
    if n == old:
      continue
    at = (np.arange(n) + 0.5) * old / n - 0.5
    matrix = np.zeros((n, old))
    for index, weight in taps(at):
      np.add.at(matrix, (np.arange(n), np.clip(index, 0, old - 1).astype(int)), weight)
    table = np.moveaxis(np.tensordot(matrix, table, (1, axis)), 0, axis)
  return table.reshape(-1, d).astype(np.float32)


def _linear_taps(at):
  """(index, weight) of the two neighbours of each coordinate."""
  first = np.floor(at)
  return [(first, 1 - (at - first)), (first + 1, at - first)]


def _cubic_taps(at):
  """(index, weight) of the four neighbours of each coordinate: cubic convolution, a = -0.75."""
  first, a = np.floor(at), -0.75

  def near(x):
    return ((a + 2) * x - (a + 3)) * x * x + 1

  def far(x):
    return a * (((x - 5) * x + 8) * x - 4)

  x = at - first
  weights = far(x + 1), near(x), near(1 - x), far(2 - x)
  return [(first + i - 1, weight) for i, weight in enumerate(weights)]
