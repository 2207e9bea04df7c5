"""List files: a video a line, with its class and the frames of it that count.

The form of a line is told by how many numbers follow its path:

    path                      no class
    path label                0 or more, -1 for unknown
    path 0 count              VideoMAE V2's pre-training lists: count -1 means all frames
    folder total label        raw frames, as of mmaction2; told from the form above by its labels
    path start count label    VideoMAE V2: the frames from start on

A path that ends in / is a folder of frames, see `vmae_jax.data.frame_folder`.
"""

import os
import re
from typing import NamedTuple

from absl import logging

from vmae_jax import storage
from vmae_jax.errors import UserError

VIDEO_SUFFIXES = tuple(
  '.mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .divx .vob .mts .m2ts'.split()
)
_NAMES = (*VIDEO_SUFFIXES, '/')
_NUMBER = re.compile('-?[0-9]+')
_ROW_NUMBER = re.compile(r'[0-9]+[,\t]')
# A path, then a word that is no number, such as in `a.mp4 running` and `a.mp4 0.0`.
_WORD = re.compile(rf'(?:{"|".join(map(re.escape, VIDEO_SUFFIXES))}|/)[ \t,]+([^/]+)$', re.I)


class Entry(NamedTuple):
  """One video of a list: where it lies, its class, and which of its frames count.

  `tail` is what follows the path in its line, so that the line can be written again.
  """

  path: str
  label: int = -1
  start: int = 0
  count: int = -1
  tail: str = ''


def check_name(path: str) -> None:
  """Raises a UserError for a path that lists and tables cannot hold."""
  try:
    path.encode()
  except UnicodeEncodeError:
    why = 'is no UTF-8 (or the locale is another: LC_ALL=C.UTF-8)'
  else:
    if '\n' not in path and '\r' not in path:
      return
    why = 'holds a line end'
  raise UserError(f'the name {path!r} {why}, which a list cannot hold: rename it.')


def is_video(path: str) -> bool:
  """Whether it is called as a video or, with a / at its end, as a folder of frames."""
  return path[-5:].lower().endswith(_NAMES)


def split_line(line: str) -> tuple[str, list[int], str]:
  """A path, the up to three whole numbers behind it, and both as they were: blanks or commas.

  The path may contain blanks and commas, as the numbers are found from the end; in double
  quotes it may even end in a number.

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


def read_list(path: str, *, root: str = '') -> tuple[tuple[Entry, ...], tuple[str, ...]]:
  """Reads a list file, all of whose lines are of one form, and the names of its classes.

  Lines that start with # are comments, unless the name of a video begins so; names of classes
  are read from a file `classes.txt` beside the list, one a line, if there is one.

  Args:
    path: The list.
    root: The folder that relative paths start from; by default the list's own.

  Raises:
    UserError: the list cannot be read or is empty, or a line is of another form.
  """
  try:
    lines = storage.read_lines(path)
  except OSError as e:
    raise UserError(f'cannot read the list {path}: {e.strerror or e}') from e
  folder = root or os.path.dirname(storage.absolute(path))
  entries: list[Entry] = []
  comments: list[str] = []  # That may be lost videos.
  form, header, only_row_numbers = 0, '', True
  for number, line in enumerate(lines, 1):
    line = line.strip(' \t')
    if not line or (line[0] == '#' and _is_comment(line, comments)):
      continue
    try:
      name, numbers, tail = split_line(line)
      label = numbers[-1] if len(numbers) in (1, 3) else -1
      start, count = numbers[:2] if len(numbers) > 1 else (0, -1)
      if label < -1 or start < 0 or count < -1 or (count == 0 and len(numbers) == 3):
        raise ValueError
    except ValueError:
      raise UserError(
        f'{path}, line {number}: {line!r} is none of: path label | path start count label | '
        'path 0 -1 | folder total label | path; a label is at least 0 or -1 for unknown, a start '
        'at least 0, a count at least 1 or -1.'
      ) from None
    video = is_video(name)
    if not entries:
      form = len(numbers)
      header = '' if numbers or video or tail else line
    elif len(entries) == 1 and header and (video or numbers):
      raise UserError(
        f'{path}: the first line, {header!r}, looks like a header: take it out, as pandas does '
        'with to_csv(..., header=False, index=False), or put a path in double quotes.'
      )
    if not video and tail[:1] != '"' and (word := _WORD.search(name)):
      raise UserError(
        f'{path}, line {number}: {word[1]!r} in {line!r} is no whole number: give the number of '
        'the class, from 0, and the names of the classes in classes.txt beside the list.'
      )
    if len(numbers) != form:
      raise UserError(
        f'{path}, line {number}: {len(numbers)} numbers after the path, but {form} in the lines '
        'before: all lines must be of one form (put a path that ends in a number in double quotes).'
      )
    only_row_numbers = only_row_numbers and _ROW_NUMBER.match(name) is not None
    entries.append(Entry(storage.join(folder, name), label, start, count, tail))
  if not entries:
    raise UserError(f'the list {path} names no video.')
  if only_row_numbers:
    raise UserError(
      f'{path}: every line begins with a number and a comma, as pandas writes its index: leave it '
      'out by to_csv(..., header=False, index=False).'
    )
  if comments:
    logging.warning(
      '%s: comments that name videos: %d, such as %r', path, len(comments), comments[0]
    )
  if form == 2:
    entries = _tell_raw_frames(entries, path)
  labels = {entry.label for entry in entries} - {-1}
  names = _class_names(path, max(labels, default=-1))
  if labels and 0 not in labels:
    logging.warning(
      '%s: class 0%s has no video, as the lowest label is %d: labels start at 0.',
      *(path, f' ({names[0]})' if names else '', min(labels)),
    )
  return tuple(entries), names


def _is_comment(line: str, comments: list[str]) -> bool:
  """Whether a line that starts with # is a comment; adds one that may be a lost video.

  `#20_Rhythm_clap.mp4 0` of HMDB51 is none; `# a.mp4 0` and `#/data/a.mp4 0` were taken out.
  """
  try:
    video = is_video(split_line(line)[0])
  except ValueError:
    video = False
  if video and line[1] not in ' \t#/' and '://' not in line:
    return False
  comments += [line] * video
  return True


def _tell_raw_frames(entries: list[Entry], path: str) -> list[Entry]:
  """Tells `folder total label` from `path start count`: a label may be 0, and a count may not."""
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
      raise UserError(f'{path}: {line!r} has no frame, or no count: take the line out.')
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
  try:
    if path == where or not storage.is_file(path):
      return ()
    text = '\n'.join(storage.read_lines(path)).rstrip()
  except OSError as e:
    raise UserError(f'cannot read the names of the classes, {path}: {e.strerror or e}') from e
  names = tuple(name.strip() for name in text.split('\n'))
  if '' in names:
    raise UserError(f'{path}, line {names.index("") + 1}: a class has no name.')
  if highest_label >= len(names):
    raise UserError(
      f'{list_path} has the label {highest_label}, but {path} names only {len(names)} classes.'
    )
  return names
