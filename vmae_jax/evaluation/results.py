"""Accuracies, and the folder with results: settings, predictions, confusion matrix, table."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmae_jax import storage
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.evaluation.multiview import Record, confusion, score
from vmae_jax.runs.agreement import main_does
from vmae_jax.types import Bool, Float, Int
from vmae_jax.visualize.confusion import confusion_matrix

SETTINGS = 'settings.json'
COLUMNS = 'video label class predicted predicted_class probability correct best failed'.split()
# Entries of `score` -> what tables call them.
SHARES = {'top1': 'top-1', 'top5': 'top-5', 'mean_class': 'mean over classes'}


def accuracy(scores: Float[np.ndarray, 'q c'], labels: Int[np.ndarray, ' q']) -> dict[str, float]:
  """`top1` and `top5`: shares of samples whose class has the best or one of the five best scores.

  A score of -inf never counts, even if fewer than five other scores are left.
  """
  best = np.argsort(-scores, axis=-1, kind='stable')[:, :5]
  guessed = np.isfinite(np.take_along_axis(scores, best, axis=-1))
  hits = (best == labels[:, None]) & guessed
  return {'top1': float(hits[:, 0].mean()), 'top5': float(hits.any(-1).mean())}


def a_tenth(count: int) -> Bool[np.ndarray, ' s']:
  """A fixed random tenth of `count` training samples, by which a probe makes its choices.

  Raises:
    UserError: there are fewer than 10.
  """
  if count < 10:
    raise UserError(f'the training set has {count} clips: a trained probe needs at least 10.')
  return np.random.default_rng(0).permutation(count) < count // 10


def count_classes(train_labels: Int[np.ndarray, ' s'], test_labels: Int[np.ndarray, ' q']) -> int:
  """The number of classes: one more than the highest label of either set.

  Classes that only the test set has count, too; their samples are always classified wrongly.

  Raises:
    UserError: a set is empty, a label is unknown (-1), or all training samples are of one class.
  """
  for name, labels in (('training', train_labels), ('test', test_labels)):
    if not len(labels):
      raise UserError(f'the {name} set is empty: a probe needs clips with labels.')
    if unknown := int((labels < 0).sum()):
      raise UserError(
        f'{unknown} of {len(labels)} clips of the {name} set have no label: a probe needs one '
        'for each clip.'
      )
  if len(np.unique(train_labels)) < 2:
    raise UserError('the training set has only one class: a probe needs at least two.')
  return int(max(train_labels.max(), test_labels.max())) + 1


def claim(out: Path, settings: Mapping[str, Any]) -> None:
  """Makes the folder of results, or checks that its results were made with the same settings.

  Raises:
    UserError: it holds other files, results of other settings, or cannot be written to. The main
      process checks this, and all raise.
  """
  main_does(lambda: _claim(out, settings))


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
  path = out / SETTINGS
  try:
    out.mkdir(parents=True, exist_ok=True)
    if path.exists():
      there = json.loads(path.read_text(encoding='utf-8'))
      here = json.loads(json.dumps(settings))
      names = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
      if names:
        changes = '; '.join(f'{k} was {there.get(k)}, is {here.get(k)}' for k in names[:5])
        raise UserError(
          f'{path}: results there are of other settings: {changes}. Give another --out.'
        )
    elif foreign := sorted(p.name for p in out.iterdir() if not p.name.startswith('.')):
      raise UserError(
        f'--out={out} holds {foreign[0]!r} and no {SETTINGS}: give a new or an empty folder.'
      )
    else:
      storage.write_text(str(path), json.dumps(settings, indent=2, sort_keys=True) + '\n')
  except OSError as e:
    raise UserError(f'--out={out}: {e.strerror}; give a folder that can be written to.') from e
  except ValueError as e:
    raise UserError(f'{path} is damaged ({e}): give another --out.') from e


def write_results(
  folder: str,
  records: list[Record],
  source: Source,
  *,
  classes: int,
  names: tuple[str, ...],
  facts: dict[str, Any],
) -> None:
  """Writes predictions.csv, confusion.png and results.md.

  Args:
    records: The result of `classify` for the videos of `source`.
    names: Names of classes; may be empty.
    facts: What was tested and how, for the table: name -> value.
  """
  result = score(records, classes=classes)
  write_csv(f'{folder}/predictions.csv', [COLUMNS, *_predictions(records, source, names)])
  counts = confusion(records, classes=classes)
  title = f'{result["videos"] - result["unreadable"]:,} videos, top-1 {result["top1"]:.1%}'
  confusion_matrix(counts, names, picture := io.BytesIO(), title=title)
  storage.write(f'{folder}/confusion.png', picture.getvalue())
  storage.write_text(f'{folder}/results.md', _table(result, counts, names, facts))


def write_csv(path: str, rows: Iterable[Sequence[Any]]) -> None:
  """Writes a table; the file appears when it is complete."""
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  storage.write_text(path, text.getvalue())


def markdown(rows: Sequence[Sequence[Any]]) -> list[str]:
  """The lines of a table; the first row is its header."""
  lines = ['| ' + ' | '.join(map(str, row)) + ' |' for row in rows]
  return [lines[0], '|---' * len(rows[0]) + '|', *lines[1:]]


def _predictions(
  records: list[Record], source: Source, names: tuple[str, ...]
) -> Iterator[tuple[Any, ...]]:
  """The values of COLUMNS for each video."""
  for i, record in enumerate(records):
    label = record['label']
    known = source.name(i), label, names[label] if names else ''
    if 'failed' in record:
      yield *known, '', '', '', '', '', record['failed']
      continue
    best, probability = record['best'], record['probability']
    first = best[0], names[best[0]] if names else '', probability[0], int(best[0] == label)
    pairs = ' '.join(f'{c}:{p:.4f}' for c, p in zip(best, probability, strict=True))
    yield *known, *first, pairs, ''


def _table(
  result: dict[str, int | float], counts, names: tuple[str, ...], facts: dict[str, Any]
) -> str:
  """What was tested, the accuracies, and the worst classes."""
  totals = counts.sum(axis=1)
  shares = {text: result[key] for key, text in SHARES.items() if key in result}
  shares['always naming the largest class'] = totals.max() / max(1, totals.sum())
  numbers = {'videos': result['videos'], 'could not be read': result['unreadable']}
  facts = facts | {key: f'{value:,}' for key, value in numbers.items()}
  facts |= {key: f'{value:.1%}' for key, value in shares.items()}
  classes = [('class', 'videos', 'right', 'most often predicted instead')]
  shown = names or [str(i) for i in range(len(counts))]
  present = np.flatnonzero(totals)
  for i in sorted(present, key=lambda i: counts[i, i] / totals[i])[:10]:
    others = counts[i].copy()
    others[i] = 0
    j = int(others.argmax())
    instead = f'{shown[j]} ({others[j]})' if others[j] else ''
    classes.append((shown[i], totals[i], f'{counts[i, i] / totals[i]:.1%}', instead))
  lines = [*markdown([('', ''), *facts.items()]), '', *markdown(classes)]
  return '\n'.join(lines) + '\n'
