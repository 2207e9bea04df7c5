"""J and F, the measures of DAVIS 2017, as its official evaluation computes them.

J is the overlap of regions (intersection over union), F the agreement of boundaries. Source:
Pont-Tuset et al. 2017 and davis2017-evaluation, semi-supervised: the first and the last frame
do not count, and unknown pixels (255 in the ground truth) are background.
"""

import math
from typing import NamedTuple

import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.types import Bool, Float, UInt8

VOID = 255
TOLERANCE = 0.008  # Distance between boundaries, as a share of the picture's diagonal.


class Statistics(NamedTuple):
  """Statistics of one measure of one object, or their means over objects."""

  mean: float  # Over frames.
  recall: float  # Share of frames above 0.5.
  decay: float  # Mean of the first quarter of the frames minus that of the last.


def region_similarity(
  truth: Bool[np.ndarray, 'T H W'], found: Bool[np.ndarray, 'T H W']
) -> Float[np.ndarray, ' T']:
  """J of one object in each frame; 1 where it is in neither."""
  both = (truth & found).sum((1, 2))
  either = (truth | found).sum((1, 2))
  return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def boundary_accuracy(
  truth: Bool[np.ndarray, 'T H W'], found: Bool[np.ndarray, 'T H W']
) -> Float[np.ndarray, ' T']:
  """F of one object in each frame: the harmonic mean of precision and recall of its boundary.

  A boundary pixel is right if the other boundary is within 0.8 % of the picture's diagonal. F is 1
  if both boundaries are empty, and 0 if only one is.
  """
  return np.array([_boundary_f(a, b) for a, b in zip(truth, found, strict=True)])


def _boundary_f(truth: Bool[np.ndarray, 'H W'], found: Bool[np.ndarray, 'H W']) -> float:
  radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
  lines = boundary(truth), boundary(found)
  counts = [int(line.sum()) for line in lines]
  if not all(counts):
    return float(not any(counts))
  # Only the box around both boundaries is compared, to save time.
  y, x = np.nonzero(lines[0] | lines[1])
  part = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
  truth, found = (line[part] for line in lines)
  recall = (truth & dilate(found, radius)).sum() / counts[0]
  precision = (found & dilate(truth, radius)).sum() / counts[1]
  total = precision + recall
  return float(2 * precision * recall / total) if total else 0.0


def boundary(mask: Bool[np.ndarray, 'H W']) -> Bool[np.ndarray, 'H W']:
  """Pixels that differ from the pixel to the right, the one below, or the one below right.

  Pixels of the last row have only the one to the right, those of the last column the one below.
  """
  line = np.zeros_like(mask)
  line[:, :-1] = mask[:, :-1] != mask[:, 1:]
  line[:-1] |= mask[:-1] != mask[1:]
  line[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
  return line


def dilate(mask: Bool[np.ndarray, 'H W'], radius: int) -> Bool[np.ndarray, 'H W']:
  """Pixels that are at most `radius` away from a pixel of the mask.

  The mask is combined with the rows of a disk, from its narrow ends to its middle: 15 times as fast
  as SciPy's distance transform.
  """
  height, width = mask.shape
  out, wide, reach = np.zeros_like(mask), mask.copy(), 0
  for up in range(radius, -1, -1):
    # `wide` is the mask dilated by `reach` to the left and right.
    while reach < math.isqrt(radius**2 - up**2):
      reach += 1
      if reach < width:
        wide[:, reach:] |= mask[:, :-reach]
        wide[:, :-reach] |= mask[:, reach:]
    if up < height:
      out[up:] |= wide[: height - up]
      out[: height - up] |= wide[up:]
  return out


def statistics(values: Float[np.ndarray, ' T']) -> Statistics:
  """Mean, recall and decay over frames; neighbouring quarters share one frame."""
  edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
  first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
  return Statistics(
    float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean())
  )


def evaluate(
  truth: UInt8[np.ndarray, 'T H W'], found: UInt8[np.ndarray, 'T2 H2 W2'], *, name: str
) -> list[tuple[Statistics, Statistics]]:
  """Statistics of J and F of each object of a video; the first true frame has all objects.

  Masks hold the number of the object at each pixel, 0 for none; the truth is VOID where unknown.

  Raises:
    UserError: sizes differ, there is no frame to score, no object, or a predicted one that the
      truth does not have.
  """
  if truth.shape != found.shape:
    raise UserError(f'{name}: masks are {found.shape}, ground truth {truth.shape} (T, H, W).')
  if len(truth) < 3:
    raise UserError(
      f'{name} has {len(truth)} frames: the first and the last do not count, so three are needed.'
    )
  truth = np.where(truth == VOID, 0, truth)
  objects = int(truth[0].max())
  if not objects:
    raise UserError(f'{name}: the first frame of the ground truth has no object.')
  truth, found = truth[1:-1], found[1:-1]
  if found.max() > objects:
    raise UserError(
      f'{name}: the masks have an object {found.max()}, but the first frame of the ground truth '
      f'has {objects}: propagate from that frame.'
    )
  scores = []
  for i in range(1, objects + 1):
    pair = truth == i, found == i
    scores.append((statistics(region_similarity(*pair)), statistics(boundary_accuracy(*pair))))
  return scores
