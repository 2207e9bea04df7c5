"""Finds broken, short and odd videos before training does, and describes the data.

    python -m vmae_jax.check_data DATA --out=DIR

DATA is a list, a folder of videos or a folder of shards. Every video is decoded completely,
once, in parallel; checksums of shards are verified. Writes
  DIR/report.csv   a line for each line of the list: path, status, reason, frames, rate, size,
                   duration, codec and a hash of the file
  DIR/clean.txt    the list without broken videos, in the input's form, with absolute paths
                   (not for shards)
  DIR/classes.txt  the names of the classes, if there are any
  DIR/datasheet.txt      what is also printed: lengths, rates, sizes, classes, duplicates
  DIR/contact_sheet.png  frames of twelve videos
With --look, and without --out, it only checks that all files exist.
DIR may be in a bucket. Results are saved at once: if the command is killed, the same command
continues, and each video is examined once. If more than 5 % of the videos (and more than three)
give no answer, for example because a store is unavailable, it ends with 74; run it again to try
these.
Status is `broken` (some frame does not decode), `short` (fewer frames than a clip spans, so that
its last frame would be repeated), `odd` (readable, but look at it: unusual rate or size, one frame,
interlaced, HDR, pixels that are not square, or libav reports errors) or `ok`.
"""

import csv
import hashlib
import io
import json
import os
import time
from collections import Counter
from dataclasses import asdict

from absl import flags
from PIL import Image
from tqdm import tqdm

from vmae_jax import cli, storage
from vmae_jax.cores import usable_cores
from vmae_jax.data.lists import IMAGE_SUFFIXES, Entry, check_name
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import FileSource, check_paths, open_source
from vmae_jax.errors import UNAVAILABLE, Unavailable, UserError
from vmae_jax.prepare.datasheet import contact_sheet, datasheet
from vmae_jax.prepare.examine import Finding, examine_all
from vmae_jax.prepare.prepare_shards import too_many

OUT = flags.DEFINE_string('out', None, 'The folder that the report is written to.')
ROOT = flags.DEFINE_string('root', '', "Where relative paths start; by default the list's folder.")
FRAMES = flags.DEFINE_integer('frames', 16, 'Frames in a clip.', lower_bound=1)
STRIDE = flags.DEFINE_integer(
  'stride', 4, 'Distance between the frames of a clip, in video frames.', lower_bound=1
)
WORKERS = flags.DEFINE_integer('workers', 0, 'Processes; 0: one for each core.', lower_bound=0)
HASHES = flags.DEFINE_bool(
  'hashes',
  False,
  'For shards: first compare each file with its sha256 in manifest.json.',
)
LOOK = flags.DEFINE_bool('look', False, 'Decode nothing: only check that all files exist.')
SECONDS = flags.DEFINE_float('seconds', 120.0, 'Time limit for one file.', lower_bound=0.1)

JOURNAL = 'findings-'
PART_SECONDS = 60.0  # Seconds from one part of the journal to the next, in a bucket.
COLUMNS = 'path status reason frames rate width height seconds codec hash'.split()


def judge(entry: Entry, found: Finding, *, span: int) -> tuple[str, str]:
  """The status of one line of the list, from what is known of its file, and the reason.

  `span` is how many video frames a clip covers, `frames * stride`.
  """
  if found.reason:
    return 'broken', found.reason
  frames = found.frames - entry.start
  frames = frames if entry.count == -1 else min(frames, entry.count)
  if frames <= 0:
    return 'broken', f'starts at frame {entry.start} of {found.frames}'
  if frames == 1:
    return ('ok', '') if entry.path.lower().endswith(IMAGE_SUFFIXES) else ('odd', 'one frame')
  if frames < span:
    return 'short', f'{frames} frames, a clip spans {span}'
  if not 5 <= found.rate <= 121:
    return 'odd', f'{found.rate:g} frames a second'
  low, high = sorted((found.width, found.height))
  if low < 24 or high > 4 * low:
    return 'odd', f'{found.width} x {found.height} pixels'
  return ('odd', found.odd) if found.odd else ('ok', '')


class _Journal:
  """Findings, saved at once in files of OUT that the next start reads if this one is killed.

  In a bucket, where files cannot grow, each minute gets its own file. `about` is what is examined:
  a UserError if the folder holds the journal of something else, an OSError if it is not writable.
  """

  def __init__(self, out: str, about: list[str]):
    self.known: dict[str, Finding] = {}
    names = storage.names(out) if storage.is_folder(out) else []
    self.files = [f'{out}/{name}' for name in names if name.startswith(JOURNAL)]
    for file in self.files:
      for line in storage.read_lines(file):
        try:
          known = json.loads(line)
          if isinstance(known, dict):
            self.known[known['path']] = Finding(**known)
        except (ValueError, TypeError):  # Cut off by a kill, or of another version.
          continue
        if isinstance(known, list) and known != about:
          raise UserError(
            f'{out} holds an unfinished check of {known[0]}: give another folder, or remove '
            f'{JOURNAL}* there.'
          )
    self._out, self._lines, self._due = out, [json.dumps(about)], 0.0
    self._next_file()
    self._flush()

  def _next_file(self) -> None:
    self.files.append(f'{self._out}/{JOURNAL}{len(self.files):05d}.jsonl')

  def add(self, found: Finding) -> None:
    self.known[found.path] = found
    if found.reason.startswith(UNAVAILABLE):  # The next start tries it again.
      return
    self._lines.append(json.dumps(asdict(found)))
    if time.monotonic() >= self._due:
      self._flush()

  def _flush(self) -> None:
    text = '\n'.join([*self._lines, ''])
    self._lines = []
    if storage.is_remote(self._out):
      storage.write_text(self.files[-1], text)
      self._next_file()
      self._due = time.monotonic() + PART_SECONDS
    else:
      with open(self.files[-1], 'a', encoding='utf-8') as f:
        f.write(text)

  def remove(self) -> None:
    for file in self.files:
      storage.remove(file)


def _write(
  out: str, source: FileSource | ShardSource, findings: dict[str, Finding], span: int
) -> tuple[list[str], list[str], list[str]]:
  """Writes report, clean list and classes.

  Returns the status of every line or record, a text line for each that is odd or short, and the
  names of the files.
  """
  entries = (
    source.entries
    if isinstance(source, FileSource)
    else [Entry(source.name(i), label=source.label(i)) for i in range(len(source))]
  )
  statuses, unusual, clean, report = [], [], [], io.StringIO()
  rows = csv.writer(report)
  rows.writerow(COLUMNS)
  for entry in entries:
    found = findings[entry.path]
    status, reason = judge(entry, found, span=span)
    statuses.append(status)
    if status in ('odd', 'short'):
      unusual.append(f'{status}: {entry.path}: {reason}')
    seconds = round(found.frames / found.rate, 3) if found.rate else 0
    row = [entry.path, status, reason, found.frames, round(found.rate, 3), found.width]
    rows.writerow([*row, found.height, seconds, found.codec, found.content_hash])
    if status != 'broken':
      quote = '"' if entry.tail.startswith('"') else ''
      clean.append(f'{quote}{storage.absolute(entry.path)}{entry.tail}\n')
  texts = {'report.csv': report.getvalue()}
  if isinstance(source, FileSource):
    texts['clean.txt'] = ''.join(clean)
  if source.class_names:
    texts['classes.txt'] = ''.join(f'{name}\n' for name in source.class_names)
  for name, text in texts.items():
    storage.write_text(f'{out}/{name}', text)
  return statuses, unusual, list(texts)


def check_hashes(source: ShardSource) -> None:
  """Raises a UserError that names the shards whose content has changed since they were written."""
  wrong = []
  for shard in tqdm(source.manifest['shards'], unit='shard', desc='hashing'):
    path = storage.stream(f'{source.folder}/{shard["name"]}')
    with open(path, 'rb') if isinstance(path, str) else path as file:
      if hashlib.file_digest(file, 'sha256').hexdigest() != shard['sha256']:
        wrong.append(shard['name'])
  if wrong:
    raise UserError(
      f'{source.folder}: {len(wrong)} shards are not the files that were written '
      f'({", ".join(wrong[:6])}{", ..." * (len(wrong) > 6)}): copy them again.'
    )


def check(
  data: str,
  out: str,
  *,
  root: str = '',
  span: int = 64,
  workers: int = 1,
  seconds: float = 120.0,
  hashes: bool = False,
) -> None:
  """Examines data and writes the report, see the module and the flags.

  `span` is how many video frames a clip covers.

  Raises:
    UserError: the data cannot be opened, a shard has changed, or the folder cannot be written.
    Unavailable: too many videos give no answer; the next start tries them again.
  """
  check_name(out)
  source = open_source(data, root=root)
  if not isinstance(source, FileSource | ShardSource):
    raise UserError(f'{data!r} does not consist of video files: there is nothing to check.')
  if os.path.realpath(data) == os.path.realpath(f'{out}/clean.txt'):
    raise UserError(f'--out={out} would overwrite the list {data}: give another folder.')
  if hashes and isinstance(source, ShardSource):
    check_hashes(source)
  names = list(dict.fromkeys(map(source.name, range(len(source)))))
  try:
    storage.make_folder(out)
    journal = _Journal(out, [storage.absolute(data), root])
    known = sum(name in journal.known for name in names)
    if known:
      print(
        f'going on: {known} of {len(names)} videos were examined by an earlier start (to start '
        f'over, remove {out}/{JOURNAL}*).'
      )
    silent = 0
    with tqdm(total=len(names), initial=known, unit='video', desc='decoding') as bar:
      for found in examine_all(source, known=journal.known, workers=workers, seconds=seconds):
        journal.add(found)
        bar.update()
        silent += found.reason.startswith(UNAVAILABLE)
        if too_many(silent, len(names)):
          raise Unavailable(
            f'{silent} of {len(names)} videos gave no answer, such as {found.path} '
            f'({found.reason}): is their disk or store alive? Started again, this goes on.'
          )
    statuses, unusual, written = _write(out, source, journal.known, span)
    good = [i for i, status in enumerate(statuses) if status != 'broken']
    counts = Counter(statuses)
    text = ', '.join(f'{counts[status]} {status}' for status in ('ok', 'odd', 'short', 'broken'))
    found = [journal.known[name] for name in names]
    labels = [source.label(i) for i in good]
    text = '\n'.join([text, *unusual[:5], datasheet(found, labels, source.class_names)])
    print(text)
    storage.write_text(f'{out}/datasheet.txt', f'{data}\n{text}\n')
    written.append('datasheet.txt')
    if good:
      picture = contact_sheet(source, good, title=f'{data}: {text.splitlines()[0]}')
      png = io.BytesIO()
      Image.fromarray(picture).save(png, 'PNG')
      storage.write(f'{out}/contact_sheet.png', png.getvalue())
      written.append('contact_sheet.png')
    journal.remove()
  except OSError as e:
    raise UserError(f'--out={out}: {e.strerror or e}; give a folder to write to.') from e
  print(f'written: {", ".join(f"{out}/{name}" for name in written)}')


def main(argv: list[str]) -> None:
  if len(argv) != 2 or bool(OUT.value) == LOOK.value:
    raise UserError(
      'give a list, or a folder of videos or shards, and --out=DIR for the report, or --look.'
    )
  if LOOK.value:
    source = open_source(argv[1], root=ROOT.value, seconds=SECONDS.value)
    check_paths(source, 0.0, seconds=SECONDS.value, most=len(source))
    return print(f'all is there: {len(source)} videos')
  check(
    argv[1],
    OUT.value.rstrip('/'),
    root=ROOT.value,
    span=FRAMES.value * STRIDE.value,
    workers=WORKERS.value or usable_cores(),
    seconds=SECONDS.value,
    hashes=HASHES.value,
  )


if __name__ == '__main__':
  cli.run(main)
