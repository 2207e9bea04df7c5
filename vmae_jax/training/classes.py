"""The classes of labelled data, and checks that a classifier can learn them."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vmae_jax.data.mixture import Mixture
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import FileSource, Source
from vmae_jax.errors import UserError

MOST_SHOWN = 20  # Classes in a line.


class Classes(NamedTuple):
  """The number of classes, and their names (none, or one for each)."""

  count: int
  names: tuple[str, ...]


def count_classes(sources: Mapping[str, Source], *, train: str, classes: int) -> Classes:
  """Counts the classes of the training data and compares all sources with them.

  Args:
    sources: Name in the config -> the source.
    train: The name of the training data.
    classes: Number of classes in the config; 0: as many as the training data have.

  Raises:
    UserError: videos have no label or one that is out of range, there is only one class, or the
      names of classes differ or are not as many as the config says.
  """
  labels = {spec: _labels(spec, source) for spec, source in sources.items()}
  names = sources[train].class_names
  count = classes or len(names) or int(labels[train].max()) + 1
  where = 'data.classes' if classes else train
  alone = _knows_labels(sources[train]) and len(np.unique(labels[train])) < 2
  if count < 2 or alone:
    raise UserError(f'{train} has only one class: a classifier needs videos of at least two.')
  for spec, source in sources.items():
    if labels[spec].max() >= count:
      i = int(labels[spec].argmax())
      raise UserError(
        f'{spec}: the label {labels[spec][i]} of {source.name(i)} is out of range: with the '
        f'{count} classes of {where}, labels are 0 to {count - 1}.'
      )
    if names and source.class_names and source.class_names != names:
      pairs = enumerate(itertools.zip_longest(source.class_names, names))
      i, (there, here) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
      raise UserError(
        f'{spec} has other classes than {train}: class {i} is {there or "missing"}, not '
        f'{here or "missing"}. Folders are numbered by name: give both the same class folders, or '
        'use lists.'
      )
  if names and len(names) != count:
    raise UserError(
      f'{train} names {len(names)} classes, data.classes is {count}: give --config.data.classes=0 '
      'to take those of the data.'
    )
  return Classes(count, names)


def describe_classes(source: Source, classes: Classes) -> str:
  """One line with the classes, their numbers of videos, and the classes without a video."""
  line = f'{classes.count} classes'
  if not _knows_labels(source):
    return line
  counts = np.bincount(_labels('', source), minlength=classes.count)
  names = classes.names or tuple(map(str, range(classes.count)))
  shown = [f'{name} {n:,}' for name, n in zip(names, counts, strict=True)][:MOST_SHOWN]
  line += f' (videos): {", ".join(shown)}{", ..." if classes.count > MOST_SHOWN else ""}'
  if empty := [name for name, n in zip(names, counts, strict=True) if not n]:
    line += f'; WITHOUT A VIDEO: {", ".join(empty[:MOST_SHOWN])}'
  return line


def _knows_labels(source: Source) -> bool:
  """Whether labels are known without reading videos."""
  sources = source.sources if isinstance(source, Mixture) else [source]
  return all(isinstance(one, FileSource | ShardSource) for one in sources)


def _labels(spec: str, source: Source) -> np.ndarray:
  """All labels of files and shards; of other sources, which must be read for them, the first."""
  number = len(source) if _knows_labels(source) else 1
  labels = np.array([source.label(i) for i in range(number)])
  if isinstance(source, Mixture) and not source.labelled:
    raise UserError(f'{spec}: its sets have different classes, so their labels cannot be used.')
  if missing := int((labels < 0).sum()):
    name = source.name(int(labels.argmin()))
    raise UserError(
      f'{spec}: {missing} of {number} videos have no label, such as {name}: give lines '
      '`path label`, or folders of class folders.'
    )
  return labels
