"""Several data sets as one: `0.7*shards/k400/train + 0.3*pictures:imagenet`."""

import bisect
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vmae_jax.errors import UserError

TURNS = 10_000  # In each block of so many visits each set has exactly its share.
_WEIGHT = re.compile(r'([0-9.]+)\*(.*)')


def split_spec(spec: str) -> tuple[list[str], list[float]]:
  """The sets of a text in which ` + ` separates them, and their weights if they have any.

  Raises:
    UserError: some have a weight and some have none, or one is too small.
  """
  parts = [part.strip() for part in spec.split(' + ')]
  found = [_WEIGHT.fullmatch(part) for part in parts]
  if not any(found):
    return parts, []
  try:
    weights = [float(match[1]) for match in found]  # type: ignore
  except (TypeError, ValueError):
    raise UserError(
      f'{spec!r}: give each set a weight, as in 0.7*A + 0.3*B, or none of them.'
    ) from None
  if not 0 < sum(weights) <= min(weights) * TURNS:
    raise UserError(f'{spec!r}: a weight is less than 1 / {TURNS:,} of all, which is no visit.')
  return [match[2] for match in found], weights  # type: ignore


class Mixture:
  """Several sets, one after the other, as one data set.

  Attributes:
    sources: The sets.
    weights: Each set's share of the visits of a run, in any unit; empty if each video gets as many
      visits as every other. Evaluation visits each video once.
    class_names: Of all sets if they have the same, else empty.
    labelled: Whether all sets have the same classes; if not, no video has a label.
    largest: Height and width that no picture exceeds, None if a set does not say.
  """

  def __init__(self, sources: Sequence[Any], weights: Sequence[int | float] = ()):
    self.sources, self.weights = sources, weights
    self.firsts = [0, *itertools.accumulate(map(len, sources))]
    self.labelled = len({source.class_names for source in sources}) == 1
    self.class_names: tuple[str, ...] = sources[0].class_names if self.labelled else ()
    sizes = [getattr(source, 'largest', None) for source in sources]
    self.largest = None if None in sizes else tuple(map(max, zip(*sizes, strict=True)))

  def __len__(self) -> int:
    return self.firsts[-1]

  def _at(self, i: int) -> tuple[Any, int]:
    k = bisect.bisect_right(self.firsts, i) - 1
    return self.sources[k], i - self.firsts[k]

  def name(self, i: int) -> str:
    source, k = self._at(i)
    return source.name(k)

  def label(self, i: int) -> int:
    source, k = self._at(i)
    return source.label(k) if self.labelled else -1

  def about(self) -> str:
    weights = [f'{weight:g}*' for weight in self.weights] or [''] * len(self.sources)
    parts = zip(weights, self.sources, strict=True)
    return ' + '.join(f'{weight}{source.about()}' for weight, source in parts)

  def open(self, i: int, **options: Any) -> Any:
    source, k = self._at(i)
    return source.open(k, **options)


def turns(
  mixture: Mixture, order: Callable[[int, int], Sequence[int]]
) -> Callable[[int], tuple[int, int]]:
  """A function from the number of a visit to the epoch of its set and the sample.

  The visits of a set are spread evenly over each block of TURNS visits, and go through the set
  epoch by epoch. `order(k, n)` says which of the n videos of set k each of its visits reads.
  """
  shares = np.array(mixture.weights) / math.fsum(mixture.weights) * TURNS
  counts = shares.astype(int)
  rest = np.argsort(counts - shares, kind='stable')[: TURNS - counts.sum()]
  counts[rest] += 1
  # Each set's visits lie at equal distances; at the same place, the first set comes first.
  places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
  which = np.repeat(np.arange(len(counts)), counts)[np.argsort(places, kind='stable')]
  nth = np.zeros(TURNS, int)
  for k, n in enumerate(counts):
    nth[which == k] = np.arange(n)
  sizes = np.diff(mixture.firsts)
  orders = [order(k, int(n)) for k, n in enumerate(sizes)]

  def visit(i: int) -> tuple[int, int]:
    block, turn = divmod(i, TURNS)
    k = which[turn]
    j = int(block * counts[k] + nth[turn])
    return j // int(sizes[k]), mixture.firsts[k] + int(orders[k][j])

  return visit
