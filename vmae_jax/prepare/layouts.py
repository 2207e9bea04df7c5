"""The layouts of data sets' archives, read into lists of videos with classes and splits.

Videos may lie anywhere below the folder, which is searched once. Missing files that the lists of a
data set name are counted and listed; they are no error, as no two copies of Kinetics hold the same
videos.
"""

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vmae_jax import storage
from vmae_jax.data.lists import VIDEO_SUFFIXES
from vmae_jax.data.sources import splits_among
from vmae_jax.errors import UserError


@dataclass(frozen=True)
class Listed:
  """A video of a data set."""

  id: str  # The data set's own name of it, without the file's suffix.
  path: str  # The absolute path of its file; a folder of frames if it ends in /.
  label: int  # The class, -1 if unknown.
  damage: str = ''  # Why it cannot be used, if that is already known.


@dataclass
class Split:
  """The videos of a split in the order of its list, and the ids of those without a file."""

  videos: list[Listed] = field(default_factory=list)
  missing: list[str] = field(default_factory=list)
  about: str = ''  # Printed beside their number, such as how many objects there are.

  def add(self, id: str, path: str | None, label: int) -> None:
    if path is None:
      self.missing.append(id)
    else:
      self.videos.append(Listed(id, path, label))


@dataclass(frozen=True)
class Layout:
  """A data set: its classes in the order of their labels, and its splits by name."""

  classes: tuple[str, ...]
  splits: dict[str, Split]


def _walking_order(path: str) -> list[tuple[bool, str]]:
  """The files of a folder come before its folders."""
  parts = path.split('/')
  return [(i < len(parts), part) for i, part in enumerate(parts, 1)]


class Tree:
  """All files below a folder, local or in a bucket."""

  def __init__(self, folder: str | os.PathLike):
    where = os.fspath(folder)
    try:
      if not storage.is_folder(where):
        raise UserError(f'there is no folder {where} (looked in {os.getcwd()}).')
      self.folder = storage.absolute(where)
      paths = sorted(storage.walk(self.folder), key=_walking_order)
    except OSError as e:
      raise UserError(f'cannot read the folder {e.filename or where}: {e.strerror or e}') from e
    self._videos: dict[str, list[str]] = defaultdict(list)
    self.others: list[str] = []
    for path in paths:
      name, whole = os.path.basename(path), os.path.join(self.folder, path)
      if name.lower().endswith(VIDEO_SUFFIXES):
        self._videos[os.path.splitext(name)[0]].append(whole)
      else:
        self.others.append(whole)

  @property
  def videos(self) -> list[str]:
    """Paths of all videos, sorted."""
    return sorted(path for paths in self._videos.values() for path in paths)

  def find(self, stem: str, *, within: str = '') -> str | None:
    """The path of a video, by its name without suffix; with `within`, directly in such a folder.

    Of several it is the first one in a folder of replacements (the common copy of Kinetics has one
    for broken files), else the first.
    """
    paths = self._videos.get(stem, [])
    if within:
      paths = [path for path in paths if os.path.basename(os.path.dirname(path)) == within]
    replacements = [path for path in paths if 'replacement' in os.path.relpath(path, self.folder)]
    return next(iter(replacements or paths), None)


def _lines(path: str) -> list[str]:
  try:
    return storage.read_lines(path)
  except OSError as e:
    raise UserError(f'cannot read {path}: {e.strerror or e}') from e


def _named(tree: Tree, pattern: str) -> list[str]:
  """Paths of the files that are no videos and whose names match this pattern."""
  return [path for path in tree.others if re.search(pattern, os.path.basename(path))]


def _one(paths: list[str], what: str, where: str) -> str | None:
  """The only path, None if there is none."""
  if len(paths) > 1:
    raise UserError(
      f'{where} has several {what}, {paths[0]} and {paths[1]}: give the folder of the right one '
      'as --annotations.'
    )
  return paths[0] if paths else None


def _need(paths: list[str], what: str, where: str) -> str:
  path = _one(paths, what, where)
  if path is None:
    raise UserError(f'{where} has no {what}: give the folder that it lies in as --annotations.')
  return path


def _label(labels: dict[str, int], name: str, where: str) -> int:
  if name not in labels:
    raise UserError(f'{where}: there is no class {name!r} among the {len(labels)} of the data set.')
  return labels[name]


def _numbered(names: Iterable[str]) -> dict[str, int]:
  """Classes numbered in the order of their names."""
  return {name: i for i, name in enumerate(sorted(set(names)))}


# -- Kinetics

_KINETICS_SPLITS = {'train': 'train', 'val': 'val(?:id|idate|idation)?', 'test': 'test'}


def kinetics(videos: Tree, annotations: Tree) -> Layout:
  """Kinetics-400, -600 and -700: CSV files of label, youtube_id, time_start, time_end, split.

  Classes are numbered in the order of their names. Files are called ID_START_END (six digits
  each, as all crawlers write them), the same without leading zeros, or ID if it is the only clip
  of its film.
  """
  tables: dict[str, list[dict[str, str]]] = {}
  for split, pattern in _KINETICS_SPLITS.items():
    paths = _named(annotations, rf'(?:^|[-_.\d]){pattern}\.csv$')
    paths = [path for path in paths if 'youtube_id' in _lines(path)[0]]
    if path := _one(paths, f'CSV files of the split {split}', annotations.folder):
      tables[split] = list(csv.DictReader(_lines(path)))
  if not tables:
    raise UserError(
      f'{annotations.folder} has no CSV file train.csv, val.csv or test.csv with a column '
      'youtube_id: give the folder that they lie in as --annotations.'
    )
  rows = [row for table in tables.values() for row in table]
  labels = _numbered(row['label'] for row in rows if row.get('label'))
  clips_of = Counter(row['youtube_id'] for row in rows)
  layout = Layout(tuple(labels), {})
  for split, table in tables.items():
    layout.splits[split] = Split()
    for number, row in enumerate(table, 2):
      film = row['youtube_id']
      try:
        start, end = (int(float(row[key])) for key in ('time_start', 'time_end'))
      except (KeyError, TypeError, ValueError):
        raise UserError(
          f'the CSV file of {split}, line {number}: no time_start and time_end in {row}.'
        ) from None
      id = f'{film}_{start:06d}_{end:06d}'
      names = [id, f'{film}_{start}_{end}'] + [film] * (clips_of[film] == 1)
      found = next(filter(None, map(videos.find, names)), None)
      layout.splits[split].add(id, found, labels.get(row.get('label', ''), -1))
  return layout


# -- Something-Something V2


def ssv2(videos: Tree, annotations: Tree) -> Layout:
  """Something-Something V2: JSON files of the labels and of each split; videos called ID.webm.

  A video's class is its template without the square brackets. The test split has no classes.
  """

  def table(name: str) -> list[str]:
    return _named(annotations, rf'(?:^|[-_]){name}\.json$')

  path = _need(table('labels'), 'file something-something-v2-labels.json', annotations.folder)
  labels = {name: int(label) for name, label in read_json(path, dict).items()}
  if sorted(labels.values()) != list(range(len(labels))):
    raise UserError(f'{path}: the labels are not the numbers from 0 to {len(labels) - 1}.')
  layout = Layout(tuple(sorted(labels, key=labels.__getitem__)), {})
  for split, name in (('train', 'train'), ('val', 'validation'), ('test', 'test')):
    path = _one(table(name), f'files {name}.json', annotations.folder)
    if path is None:
      continue
    layout.splits[split] = Split()
    for row in read_json(path, list):
      template = row.get('template', '').replace('[', '').replace(']', '')
      label = _label(labels, template, path) if template else -1
      id = str(row['id'])
      layout.splits[split].add(id, videos.find(id), label)
  if not layout.splits:
    raise UserError(
      f'{annotations.folder} has none of something-something-v2-train.json, -validation.json '
      'and -test.json: give the folder that they lie in as --annotations.'
    )
  return layout


def read_json(path: str, kind: type) -> Any:
  """The content of a JSON file; raises a UserError if it is not of this type."""
  try:
    content = json.loads('\n'.join(_lines(path)))
  except ValueError as e:
    raise UserError(f'{path} is no JSON: {e}') from e
  if not isinstance(content, kind):
    raise UserError(f'{path} holds no {kind.__name__}: is it the right file?')
  return content


# -- UCF101 and HMDB51


def ucf101(videos: Tree, annotations: Tree, split: int) -> Layout:
  """UCF101: classInd.txt, whose numbers start at 1, trainlist0N.txt and testlist0N.txt."""
  where = annotations.folder
  index = _need(_named(annotations, r'^classInd\.txt$'), 'file classInd.txt', where)
  pairs = re.findall(r'^(\d+)\s+(\S+)\s*$', '\n'.join(_lines(index)), re.MULTILINE)
  numbers = {name: int(number) for number, name in pairs}
  if not numbers or sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
    raise UserError(f'{index}: the classes are not numbered from 1 to {len(numbers)}.')
  labels = {name: number - 1 for name, number in numbers.items()}
  layout = Layout(tuple(sorted(labels, key=labels.__getitem__)), {})
  for name in ('train', 'test'):
    file = f'{name}list{split:02d}.txt'
    path = _need(_named(annotations, f'^{re.escape(file)}$'), f'file {file}', where)
    layout.splits[name] = Split()
    for line in filter(str.strip, _lines(path)):
      # A training list has the number of the class after the path, a test list does not.
      match = re.fullmatch(
        r'(?P<folder>[^/]+)/(?P<stem>.+)\.\w+(?:\s+(?P<number>\d+))?', line.strip()
      )
      if match is None:
        raise UserError(f'{path}: {line!r} is not of the form CLASS/VIDEO.avi [NUMBER].')
      folder, stem = match['folder'], match['stem']
      label = _label(labels, folder, path)
      if match['number'] and int(match['number']) != label + 1:
        raise UserError(f'{path}: {line!r}, but {index} gives {folder} the number {label + 1}.')
      layout.splits[name].add(f'{folder}/{stem}', videos.find(stem, within=folder), label)
  return layout


_HMDB_SPLITS = {'1': 'train', '2': 'test'}  # 0: in neither of them.


def hmdb51(videos: Tree, annotations: Tree, split: int) -> Layout:
  """HMDB51: files CLASS_test_splitN.txt; each line is a video and 1, 2 or 0: train, test, neither.

  Classes are numbered in the order of their names.
  """
  pattern = rf'^(.+)_test_split{split}\.txt$'
  files = {re.search(pattern, os.path.basename(p))[1]: p for p in _named(annotations, pattern)}  # type: ignore
  if not files:
    raise UserError(
      f'{annotations.folder} has no files CLASS_test_split{split}.txt: give the folder that they '
      'lie in as --annotations.'
    )
  layout = Layout(tuple(sorted(files)), {'train': Split(), 'test': Split()})
  for label, name in enumerate(layout.classes):
    for line in filter(str.strip, _lines(files[name])):
      video, _, flag = line.strip().rpartition(' ')
      if flag not in ('0', *_HMDB_SPLITS):
        raise UserError(f'{files[name]}: {line!r} does not end in 0, 1 or 2.')
      if flag in _HMDB_SPLITS:
        stem = os.path.splitext(video.strip())[0]
        found = videos.find(stem, within=name)
        layout.splits[_HMDB_SPLITS[flag]].add(f'{name}/{stem}', found, label)
  return layout


# -- Any folder


def folder(videos: Tree) -> Layout:
  """A folder train/CLASS/VIDEO, val/..., test/..., or CLASS/VIDEO, all for training except --val.

  Classes are the folders directly inside, numbered in the order of their names over all
  splits; videos outside of them have no class.
  """
  paths = [os.path.relpath(path, videos.folder) for path in videos.videos]
  if not paths:
    suffixes = ' '.join(VIDEO_SUFFIXES)
    raise UserError(f'no video in the folder {videos.folder} (looked for {suffixes}).')
  tops = {path.split(os.sep)[0] for path in paths if os.sep in path}
  splits = [name for name in ('train', 'val', 'test') if name in tops]
  found: dict[str, list[str]] = {name: [] for name in splits or ['train']}
  for path in paths:  # To its split, as a path below the split's folder.
    split, _, rest = path.partition(os.sep) if splits else ('train', '', path)
    if split not in found:
      raise UserError(
        f'{videos.folder} has videos of the split {splits[0]}, but {path} lies in no split.'
      )
    found[split].append(rest)
  below = [path for paths in found.values() for path in paths if os.sep in path]
  labels = _numbered(path.split(os.sep)[0] for path in below)
  if others := splits_among(tuple(labels)):
    raise UserError(
      f'{videos.folder} has the splits {", ".join(others)}: call them train, val and test.'
    )
  layout = Layout(tuple(labels), {name: Split() for name in found})
  for split, paths in found.items():
    for path in sorted(paths, key=lambda path: path.split(os.sep)):
      file = os.path.join(videos.folder, split if splits else '', path)
      layout.splits[split].add(path, file, labels.get(path.split(os.sep)[0], -1))
  return layout
