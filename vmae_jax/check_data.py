"""Finds broken, short and odd videos before training does.

    python -m vmae_jax.check_data LIST_OR_FOLDER --out=DIR

decodes every file completely, once, in parallel, and writes
  DIR/report.csv   a line for each line of the list: path, status, reason, frames, rate, size,
                   duration, codec and a hash of the file
  DIR/clean.txt    the list without what is broken, in the input's form, with absolute paths
  DIR/classes.txt  the names of the classes, if there are any
Status is `broken` (some frame does not decode), `short` (has fewer frames than a clip spans,
so its last frame would be repeated), `odd` (unusual rate or size) or `ok`.
"""

import csv
import os
from collections import Counter, defaultdict

from absl import flags
from tqdm import tqdm

from vmae_jax import cli
from vmae_jax.data.examine import Finding, examine_all
from vmae_jax.data.sources import Entry, FileSource, open_source
from vmae_jax.errors import UserError

OUT = flags.DEFINE_string('out', None, 'The folder that the report is written to.')
ROOT = flags.DEFINE_string('root', '', "Where relative paths start; by default the list's folder.")
FRAMES = flags.DEFINE_integer('frames', 16, 'Frames in a clip.', lower_bound=1)
STRIDE = flags.DEFINE_integer('stride', 4, 'Video frames from one to the next.', lower_bound=1)
WORKERS = flags.DEFINE_integer('workers', 0, 'Processes; 0 means one a core.', lower_bound=0)
SECONDS = flags.DEFINE_float('seconds', 120.0, 'Time limit for one file.', lower_bound=0.1)

COLUMNS = (
  *('path', 'status', 'reason', 'frames', 'rate', 'width', 'height', 'seconds', 'codec', 'hash'),
)


def judge(entry: Entry, found: Finding, *, span: int) -> tuple[str, str]:
  """Returns status and reason of one line of the list.

  Args:
    entry: The line.
    found: What the file is.
    span: Video frames from the first to past the last of a clip, `frames * stride`.
  """
  if found.reason:
    return 'broken', found.reason
  frames = found.frames - entry.start
  frames = frames if entry.count == -1 else min(frames, entry.count)
  if frames <= 0:
    return 'broken', f'starts at frame {entry.start} of {found.frames}'
  if frames < span:
    return 'short', f'{frames} frames, a clip spans {span}'
  if not 5 <= found.rate <= 121:
    return 'odd', f'{found.rate:g} frames a second'
  low, high = sorted((found.width, found.height))
  if low < 64 or high > 4 * low:
    return 'odd', f'{found.width} x {found.height} pixels'
  return 'ok', ''


def _write(out: str, source: FileSource, findings: dict[str, Finding], span: int) -> list[str]:
  """Writes the three files; returns the status of every line."""
  statuses = []
  with (
    open(os.path.join(out, 'report.csv'), 'w', newline='', encoding='utf-8') as report,
    open(os.path.join(out, 'clean.txt'), 'w', encoding='utf-8') as clean,
  ):
    rows = csv.writer(report)
    rows.writerow(COLUMNS)
    for entry in source.entries:
      found = findings[entry.path]
      status, reason = judge(entry, found, span=span)
      statuses.append(status)
      seconds = round(found.frames / found.rate, 3) if found.rate else 0
      rows.writerow(
        (
          *(entry.path, status, reason, found.frames, round(found.rate, 3)),
          *(found.width, found.height, seconds, found.codec, found.content_hash),
        )
      )
      if status != 'broken':
        quote = '"' if entry.tail.startswith('"') else ''
        clean.write(f'{quote}{os.path.abspath(entry.path)}{entry.tail}\n')
  if source.class_names:
    with open(os.path.join(out, 'classes.txt'), 'w', encoding='utf-8') as f:
      f.writelines(f'{name}\n' for name in source.class_names)
  return statuses


def _summary(findings: list[Finding], statuses: list[str]) -> str:
  """Counts, rates, sizes and duplicates, for people."""
  counts = Counter(statuses)
  lines = [', '.join(f'{counts[s]} {s}' for s in ('ok', 'odd', 'short', 'broken'))]
  for found in [f for f in findings if f.reason][:5]:
    lines.append(f'broken: {found.path}: {found.reason}')
  whole = [f for f in findings if not f.reason]
  for what, values in (
    ('frames a second', Counter(f'{f.rate:.4g}' for f in whole)),
    ('sizes', Counter(f'{f.width}x{f.height}' for f in whole)),
  ):
    common = ', '.join(f'{value} ({n})' for value, n in values.most_common(5))
    lines.append(f'{what}: {common}{", ..." if len(values) > 5 else ""}')
  same = defaultdict(list)
  for found in findings:
    if found.content_hash:
      same[found.content_hash].append(found.path)
  for paths in [paths for paths in same.values() if len(paths) > 1][:5]:
    lines.append(f'same content: {", ".join(sorted(paths)[:5])}')
  lines.append(f'files whose content another has too: {sum(len(p) - 1 for p in same.values())}')
  return '\n'.join(lines)


def main(argv: list[str]) -> None:
  if len(argv) != 2 or not OUT.value:
    raise UserError('give a list or a folder, and --out=DIR for the report.')
  source = open_source(argv[1], root=ROOT.value)
  if not isinstance(source, FileSource):
    raise UserError(f'{argv[1]!r} does not consist of video files: there is nothing to check.')
  try:
    os.makedirs(OUT.value, exist_ok=True)
  except OSError as e:
    raise UserError(f'--out={OUT.value}: {e.strerror}; give a folder to write to.') from e
  if not os.access(OUT.value, os.W_OK):
    raise UserError(f'--out={OUT.value} cannot be written to: give another folder.')
  if os.path.realpath(argv[1]) == os.path.realpath(os.path.join(OUT.value, 'clean.txt')):
    raise UserError(f'--out={OUT.value} would overwrite the list {argv[1]}: give another folder.')
  paths = list(dict.fromkeys(entry.path for entry in source.entries))
  workers = WORKERS.value or os.cpu_count() or 1
  findings = {}
  with tqdm(total=len(paths), unit='file', desc='decoding') as bar:
    for found in examine_all(paths, workers=workers, seconds=SECONDS.value):
      findings[found.path] = found
      bar.update()
  statuses = _write(OUT.value, source, findings, FRAMES.value * STRIDE.value)
  print(_summary([findings[path] for path in paths], statuses))
  print(f'written: {os.path.join(OUT.value, "report.csv")}, {os.path.join(OUT.value, "clean.txt")}')


if __name__ == '__main__':
  cli.run(main)
