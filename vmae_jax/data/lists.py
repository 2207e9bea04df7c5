"""List files: one video in each line, with its class and the range of its frames that is used.

The number of integers after the path says which form a line has:

    path                      no class
    path label                0 or more, -1 for unknown
    path 0 count              VideoMAE V2's pre-training lists: count -1 means all frames
    folder total label        raw frames, as in mmaction2; its labels tell it from the form above
    path start count label    VideoMAE V2: count frames, from start on

A path that ends in / is a folder of frames; that of a picture is a video of one frame, see
`vmae_jax.data.frame_folder`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from absl import logging

from vmae_jax import storage
from vmae_jax.data.shards import Table
from vmae_jax.errors import UserError

VIDEO_SUFFIXES = tuple(
  '.mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .divx .vob .mts .m2ts'.split()
)
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
_NAMES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, '/')
_ENDS = '|'.join(map(re.escape, _NAMES))
_NUMBER = re.compile('-?[0-9]+')
_ROW_NUMBER = re.compile(r'[0-9]+[,\t]')
_AT_ONCE = 1 << 16  # Characters of a list that are parsed together.
# A line with the path of a video, without quotes, and as many numbers as are filled in for %d.
_PLAIN = rf'(?im)^([^\s"#,].*(?:{_ENDS}))'
_NUMBERS = r'((?:[ \t,]+-?[0-9]{1,9}){%d})[ \t]*$'
# A path, then a word that is no number, such as in `a.mp4 running` and `a.mp4 0.0`.
_WORD = re.compile(rf'(?:{_ENDS})[ \t,]+([^/]+)$', re.I)


class Entry(NamedTuple):
  """One video of a list: its path, its class, and which of its frames are used.

  `tail` is what follows the path in its line, so that the line can be written again.
  """

  path: str
  label: int = -1
  start: int = 0
  count: int = -1
  tail: str = ''


class Entries(Table):
  """The entries of a list."""

  ROW = np.dtype([('end', '<i8')] + [(n, '<i4') for n in 'text cut label start count'.split()])

  @classmethod
  def listed(cls, entries: Iterable[Entry]) -> 'Entries':
    def pair(entry: Entry) -> tuple[str, tuple]:
      path, *numbers, tail = entry
      if not path.isprintable():
        check_name(path)
      return f'{path}{tail}', (len(path), *numbers)

    return cls.of(map(pair, entries))

  def item(self, text: str, *numbers: int) -> Entry:
    cut, label, start, count = numbers
    return Entry(text[:cut], label, start, count, text[cut:])


def check_name(path: str) -> None:
  """Raises a UserError for a path that lists and tables cannot hold."""
  try:
    path.encode()
  except UnicodeEncodeError:
    why = 'is not in UTF-8 (or the locale is not: set LC_ALL=C.UTF-8)'
  else:
    if '\n' not in path and '\r' not in path:
      return
    why = 'contains a line break'
  raise UserError(f'the name {path!r} {why}, which a list cannot hold: rename it.')


def is_video(path: str) -> bool:
  """Whether a path has the suffix of a video or a picture, or the / of a folder of frames."""
  return path[-5:].lower().endswith(_NAMES)


def split_line(line: str) -> tuple[str, list[int], str]:
  """The path of a line, the up to three whole numbers after it, and these numbers as text.

  Blanks or commas separate them. The path may contain both, as the numbers are found from the end;
  in double quotes it may even end in a number.

  Raises:
    ValueError: a quote is not closed, or what follows it is no number.
  """
  if line.startswith('"'):
    path, _, tail = line[1:].partition('"')
    numbers = [int(x) for x in tail.replace(',', ' ').split()]
    if f'"{path}"{tail}' != line or not path or len(numbers) > 3 or tail[:1] not in ('', *' \t,'):
      raise ValueError
    return path, numbers, '"' + tail
  path, numbers = line, []
  while len(numbers) < 3:
    cut = max(path.rfind(' '), path.rfind(','), path.rfind('\t'))
    if cut < 1 or not _NUMBER.fullmatch(path, cut + 1):
      break
    numbers.insert(0, int(path[cut + 1 :]))
    path = path[:cut].rstrip(' \t,')
  if not path:
    raise ValueError
  return path, numbers, line[len(path) :]


def read_list(path: str, *, root: str = '') -> tuple[Entries, tuple[str, ...]]:
  """Reads a list file, whose lines must all have one form, and the names of its classes.

  Lines that start with # are comments, unless that begins the name of a video. The names of the
  classes are read from a file `classes.txt` beside the list, one in each line, if there is one.

  Args:
    path: The list.
    root: The folder that relative paths start from; by default the list's own.

  Raises:
    UserError: the list is empty, or a line is of another form.
    OSError: it or the names of its classes cannot be read.
  """
  text = storage.read_text(path).replace('\r\n', '\n').replace('\r', '\n')
  reader = _Reader(path, root or os.path.dirname(storage.absolute(path)))
  entries = Entries.listed(reader.entries(text))
  if not entries:
    raise UserError(f'the list {path} names no video.')
  if reader.only_row_numbers:
    raise UserError(
      f'{path}: every line begins with a number and a comma, as pandas writes its index: leave it '
      'out by to_csv(..., header=False, index=False).'
    )
  if lost := reader.comments:
    logging.warning('%s: %d comments name videos, such as %r', path, len(lost), lost[0])
  if reader.form == 2:
    entries = Entries.listed(_resolve_raw_frames(entries, path))
  labels = entries.rows(0, len(entries))['label']
  lowest = min(labels[labels != -1], default=-1)
  names = _class_names(path, int(labels.max()))
  if lowest > 0:
    zero = f'class 0 ({names[0]})' if names else 'class 0'
    text = '%s: %s has no video, as the lowest label is %d: labels start at 0.'
    logging.warning(text, path, zero, lowest)
  return entries, names


class _Reader:
  """Parses the lines of a list."""

  def __init__(self, path: str, folder: str):
    self.form = 0  # How many numbers follow each path.
    self.only_row_numbers = True  # Whether every line begins with a number and a comma.
    self.comments: list[str] = []  # Comments that may be meant as videos.
    self._path, self._folder, self._start = path, folder, os.path.join(folder, '')
    self._read, self._header = 0, ''  # How many entries; the first line if it may be a header.

  def entries(self, text: str) -> Iterator[Entry]:
    """The entries of a list's text; plain lines are found many at a time, others one by one."""
    number, begin = 1, 0
    while begin < len(text):
      # The first line is parsed alone, as it says which form the others have.
      end = text.find('\n', begin + _AT_ONCE if self._read > 1 else begin)
      part = text[begin : len(text) if end < 0 else end]
      begin, lines = begin + len(part) + 1, part.count('\n') + 1
      found = []
      if not self.only_row_numbers and self._read > 1:
        found = re.findall(_PLAIN + _NUMBERS % self.form, part)
      if len(found) == lines:
        yield from map(self._plain, found)
      else:
        for k, line in enumerate(part.split('\n')):
          yield from self._line(number + k, line.strip(' \t'))
      number += lines

  def _plain(self, found: tuple[str, str]) -> Entry:
    name, tail = found
    numbers = [*map(int, tail.replace(',', ' ').split())]
    return self._entry(name, numbers, tail) or self._line(0, f'{name}{tail}')[0]

  def _entry(self, name: str, numbers: list[int], tail: str) -> Entry | None:
    """An entry, or None if its numbers are wrong."""
    label = numbers[-1] if len(numbers) in (1, 3) else -1
    start, count = numbers[:2] if len(numbers) > 1 else (0, -1)
    if label < -1 or start < 0 or count < -1 or (count == 0 and len(numbers) == 3):
      return None
    if max(label, start, count) >= 1 << 31:  # More than a table holds.
      return None
    self._read += 1
    usual = name[0] != '/' and ':' not in name and './' not in name
    where = f'{self._start}{name}' if usual else storage.join(self._folder, name)
    return Entry(where, label, start, count, tail)

  def _line(self, number: int, line: str) -> list[Entry]:
    """The entry of a line, if it is no comment."""
    if not line or (line[0] == '#' and _is_comment(line, self.comments)):
      return []
    path, first = self._path, not self._read
    try:
      name, numbers, tail = split_line(line)
      entry = self._entry(name, numbers, tail)
    except ValueError:
      entry = None
    if entry is None:
      raise UserError(
        f'{path}, line {number}: {line!r} is none of: path label | path start count label | '
        'path 0 -1 | folder total label | path; a label is at least 0 or -1 for unknown, a start '
        'at least 0, a count at least 1 or -1, and none above 2147483647.'
      )
    video = is_video(name)
    if first:
      self.form = len(numbers)
      self._header = '' if numbers or video or tail else line
    elif self._read == 2 and self._header and (video or numbers):
      raise UserError(
        f'{path}: the first line, {self._header!r}, looks like a header: delete it (pandas writes '
        'none with to_csv(..., header=False, index=False)), or put a path in double quotes.'
      )
    if not video and tail[:1] != '"' and (word := _WORD.search(name)):
      raise UserError(
        f'{path}, line {number}: {word[1]!r} in {line!r} is no whole number: give the number of '
        'the class, from 0, and the names of the classes in classes.txt beside the list.'
      )
    if len(numbers) != self.form:
      raise UserError(
        f'{path}, line {number}: {len(numbers)} numbers after the path, but {self.form} in the '
        'lines before: all lines must be of one form (put a path that ends in a number in double '
        'quotes).'
      )
    self.only_row_numbers = self.only_row_numbers and _ROW_NUMBER.match(name) is not None
    return [entry]


def _is_comment(line: str, comments: list[str]) -> bool:
  """Whether a line that starts with # is a comment; adds one that names a video to `comments`.

  `#20_Rhythm_clap.mp4 0` of HMDB51 is none; `# a.mp4 0` and `#/data/a.mp4 0` are.
  """
  try:
    video = is_video(split_line(line)[0])
  except ValueError:
    video = False
  if video and line[1] not in ' \t#/' and '://' not in line:
    return False
  if video:
    comments.append(line)
  return True


def _resolve_raw_frames(entries: Entries, path: str) -> Iterable[Entry]:
  """Tells `folder total label` from `path start count`: a label may be 0, but a count may not."""
  raw = any(entry.count == 0 for entry in entries)
  if not raw and all(entry.start == 0 for entry in entries):
    return entries
  for entry in entries:
    line = f'{entry.path}{entry.tail}'
    if not raw:
      raise UserError(
        f'{path}: {line!r} may mean start and count, or total and label of raw frames: write '
        '`path start count -1`, or `folder/ 0 total label`.'
      )
    if entry.start == 0:
      raise UserError(f'{path}: {line!r} has no frame, or no count: delete the line.')
  return [
    Entry(
      entry.path if is_video(entry.path) else f'{entry.path}/',
      label=entry.count,
      count=entry.start,
      tail='"' * entry.tail.startswith('"') + f' 0 {entry.start} {entry.count}',
    )
    for entry in entries
  ]


def _class_names(list_path: str, highest_label: int) -> tuple[str, ...]:
  where = storage.absolute(list_path)
  path = storage.join(os.path.dirname(where), 'classes.txt')
  if path == where or not storage.is_file(path):
    return ()
  text = '\n'.join(storage.read_lines(path)).rstrip()
  names = tuple(name.strip() for name in text.split('\n'))
  if '' in names:
    raise UserError(f'{path}, line {names.index("") + 1}: a class has no name.')
  if highest_label >= len(names):
    raise UserError(
      f'{list_path} has the label {highest_label}, but {path} names only {len(names)} classes.'
    )
  return names
