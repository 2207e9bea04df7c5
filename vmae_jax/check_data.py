"""Finds broken, short and odd videos before training does, and says what the data are.

    python -m vmae_jax.check_data DATA --out=DIR

DATA is a list, a folder of videos or a folder of shards. Every video is decoded completely,
once, in parallel; checksums of shards are verified. Writes
  DIR/report.csv   a line for each line of the list: path, status, reason, frames, rate, size,
                   duration, codec and a hash of the file
  DIR/clean.txt    the list without what is broken, in the input's form, with absolute paths
                   (not for shards)
  DIR/classes.txt  the names of the classes, if there are any
  DIR/datasheet.txt      what is printed, too: lengths, rates, sizes, classes, duplicates
  DIR/contact_sheet.png  frames of twelve videos
Status is `broken` (some frame does not decode), `short` (has fewer frames than a clip spans,
so its last frame would be repeated), `odd` (unusual rate or size) or `ok`.
"""

import csv
import os
from collections import Counter

from absl import flags
from PIL import Image
from tqdm import tqdm

from vmae_jax import cli, storage
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import Entry, FileSource, open_source
from vmae_jax.errors import UserError
from vmae_jax.prepare.datasheet import contact_sheet, datasheet
from vmae_jax.prepare.examine import Finding, examine_all

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


def _write(
  out: str, source: FileSource | ShardSource, findings: dict[str, Finding], span: int
) -> list[str]:
  """Writes report, clean list and classes; returns the status of every line or record."""
  if isinstance(source, ShardSource):
    entries = tuple(Entry(source.name(i), label=source.label(i)) for i in range(len(source)))
  else:
    entries = source.entries
  statuses, clean = [], []
  with open(os.path.join(out, 'report.csv'), 'w', newline='', encoding='utf-8') as report:
    rows = csv.writer(report)
    rows.writerow(COLUMNS)
    for entry in entries:
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
        clean.append(f'{quote}{storage.absolute(entry.path)}{entry.tail}\n')
  if isinstance(source, FileSource):
    with open(os.path.join(out, 'clean.txt'), 'w', encoding='utf-8') as f:
      f.writelines(clean)
  if source.class_names:
    with open(os.path.join(out, 'classes.txt'), 'w', encoding='utf-8') as f:
      f.writelines(f'{name}\n' for name in source.class_names)
  return statuses


def main(argv: list[str]) -> None:
  if len(argv) != 2 or not OUT.value:
    raise UserError('give a list, or a folder of videos or shards, and --out=DIR for the report.')
  source = open_source(argv[1], root=ROOT.value)
  if not isinstance(source, FileSource | ShardSource):
    raise UserError(f'{argv[1]!r} does not consist of video files: there is nothing to check.')
  try:
    os.makedirs(OUT.value, exist_ok=True)
  except OSError as e:
    raise UserError(f'--out={OUT.value}: {e.strerror}; give a folder to write to.') from e
  if not os.access(OUT.value, os.W_OK):
    raise UserError(f'--out={OUT.value} cannot be written to: give another folder.')
  if os.path.realpath(argv[1]) == os.path.realpath(os.path.join(OUT.value, 'clean.txt')):
    raise UserError(f'--out={OUT.value} would overwrite the list {argv[1]}: give another folder.')
  if isinstance(source, ShardSource):
    total = len(source)
  else:
    total = len({entry.path for entry in source.entries})
  findings = {}
  with tqdm(total=total, unit='video', desc='decoding') as bar:
    workers = WORKERS.value or os.cpu_count() or 1
    for found in examine_all(source, workers=workers, seconds=SECONDS.value):
      findings[found.path] = found
      bar.update()
  statuses = _write(OUT.value, source, findings, FRAMES.value * STRIDE.value)
  good = [i for i, status in enumerate(statuses) if status != 'broken']
  counts = Counter(statuses)
  text = ', '.join(f'{counts[status]} {status}' for status in ('ok', 'odd', 'short', 'broken'))
  in_order = [findings[name] for name in dict.fromkeys(map(source.name, range(len(source))))]
  text += '\n' + datasheet(in_order, [source.label(i) for i in good], source.class_names)
  print(text)
  with open(os.path.join(OUT.value, 'datasheet.txt'), 'w', encoding='utf-8') as f:
    f.write(f'{argv[1]}\n{text}\n')
  written = ['report.csv', 'datasheet.txt']
  if isinstance(source, FileSource):
    written.append('clean.txt')
  if good:
    picture = contact_sheet(source, good, title=f'{argv[1]}: {text.splitlines()[0]}')
    Image.fromarray(picture).save(os.path.join(OUT.value, 'contact_sheet.png'))
    written.append('contact_sheet.png')
  print(f'written: {", ".join(os.path.join(OUT.value, name) for name in written)}')


if __name__ == '__main__':
  cli.run(main)
