"""What came of a test, for people: predictions.csv, confusion.png and results.md."""

import csv
import io
from pathlib import Path
from typing import Any

from vmae_jax.data.sources import Source
from vmae_jax.evaluation.multiview import Record, confusion, score
from vmae_jax.runs.run_dir import write_atomically
from vmae_jax.visualize.confusion import confusion_matrix

COLUMNS = (
  *('video', 'label', 'class', 'predicted', 'predicted_class', 'probability', 'correct'),
  *('best', 'failed'),
)
# What `score` says -> how it is called.
SHARES = {'top1': 'top-1', 'top5': 'top-5', 'mean_class': 'mean over classes'}


def write_results(
  folder: Path,
  records: list[Record],
  source: Source,
  *,
  classes: int,
  names: tuple[str, ...],
  facts: dict[str, Any],
) -> None:
  """Writes the three files.

  Args:
    folder: Where to.
    records: From `classify`.
    source: The videos.
    classes: How many there are.
    names: Theirs; may be empty.
    facts: What was tested and how, for the table: name -> value.
  """
  result = score(records, classes=classes)
  write_atomically(folder / 'predictions.csv', _predictions(records, source, names))
  counts = confusion(records, classes=classes)
  title = f'{result["videos"] - result["unreadable"]:,} videos, top-1 {result["top1"]:.1%}'
  part = folder / '.confusion.png'  # A PNG that is there is whole.
  confusion_matrix(counts, names, part, title=title)
  part.replace(folder / 'confusion.png')
  write_atomically(folder / 'results.md', _table(result, counts, names, facts))


def _predictions(records: list[Record], source: Source, names: tuple[str, ...]) -> str:
  text = io.StringIO()
  rows = csv.writer(text, lineterminator='\n')
  rows.writerow(COLUMNS)
  for i, record in enumerate(records):
    label = record['label']
    known = source.name(i), label, names[label] if names else ''
    if 'failed' in record:
      rows.writerow((*known, '', '', '', '', '', record['failed']))
      continue
    best, probability = record['best'], record['probability']
    told = best[0], names[best[0]] if names else '', probability[0], int(best[0] == label)
    pairs = ' '.join(f'{c}:{p:.4f}' for c, p in zip(best, probability, strict=True))
    rows.writerow((*known, *told, pairs, ''))
  return text.getvalue()


def _table(
  result: dict[str, int | float], counts, names: tuple[str, ...], facts: dict[str, Any]
) -> str:
  """The figures, what they are of, and the worst classes."""
  shares = {text: result[key] for key, text in SHARES.items() if key in result}
  shares['always naming the largest class'] = counts.sum(axis=1).max() / max(1, counts.sum())
  numbers = {'videos': result['videos'], 'could not be read': result['unreadable']}
  lines = ['| | |', '|---|---|']
  lines += [f'| {key} | {value} |' for key, value in facts.items()]
  lines += [f'| {key} | {value:,} |' for key, value in numbers.items()]
  lines += [f'| {key} | {value:.1%} |' for key, value in shares.items()]
  totals = counts.sum(axis=1)
  there = [i for i in range(len(counts)) if totals[i]]
  worst = sorted(there, key=lambda i: counts[i, i] / totals[i])[:10]
  lines += ['', '| class | videos | right | most often predicted instead |', '|---|---|---|---|']
  for i in worst:
    others = counts[i].copy()
    others[i] = 0
    j = int(others.argmax())
    instead = f'{_name(j, names)} ({others[j]})' if others[j] else ''
    lines.append(
      f'| {_name(i, names)} | {totals[i]} | {counts[i, i] / totals[i]:.1%} | {instead} |'
    )
  return '\n'.join(lines) + '\n'


def _name(i: int, names: tuple[str, ...]) -> str:
  return names[i] if names else str(i)
