"""A confusion matrix as a PNG."""

import io
import os
from collections.abc import Sequence

import numpy as np

from vmae_jax.types import Int
from vmae_jax.visualize.curves import styled

NAMED = 60  # The names of more classes would not be legible.
COUNTED = 25  # The numbers in the cells of more classes would not be legible.


@styled()
def confusion_matrix(
  counts: Int[np.ndarray, 'c c'],
  names: Sequence[str],
  path: str | os.PathLike | io.BytesIO,
  *,
  title: str = '',
) -> None:
  """Draws each row as shares of its class, in colours for any colour vision.

  Args:
    counts: How many clips of each class (row) were predicted as each class (column).
    names: Names of the classes; if empty, their numbers are shown.
    path: The PNG to write, or a file that gets it.
  """
  from matplotlib.figure import Figure  # No pyplot: it would keep global state.

  classes = len(counts)
  totals = counts.sum(axis=1, keepdims=True)
  shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
  side = float(np.clip(2.5 + 0.32 * classes, 4.5, 14))
  figure = Figure(figsize=(side + 1, side), layout='constrained')
  axes = figure.subplots()
  image = axes.imshow(shares, cmap='cividis', vmin=0, vmax=1, interpolation='nearest')
  bar = figure.colorbar(image, ax=axes, shrink=0.8)
  bar.set_label('share of the class')
  if classes <= NAMED:
    labels = [names[i] if names else str(i) for i in range(classes)]
    axes.set_xticks(range(classes), labels, rotation=90)
    axes.set_yticks(range(classes), labels)
  if classes <= COUNTED:
    for i, j in zip(*np.nonzero(counts), strict=True):
      colour = 'black' if shares[i, j] > 0.6 else 'white'
      axes.text(j, i, str(counts[i, j]), ha='center', va='center', color=colour, fontsize=8)
  axes.set_xlabel('predicted')
  axes.set_ylabel('true')
  axes.set_title(title)
  figure.savefig(path, dpi=160, format='png')
