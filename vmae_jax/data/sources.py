"""Where videos come from: list files, folders, shards, TFDS and the synthetic set.

`open_source` turns the string of a config into a source:

    path/to/train.csv         a list file, see `read_list`
    path/to/folder            all videos below it, see `read_folder`
    path/to/shards            what prepare --shards wrote, see `vmae_jax.data.shards`
    gs://..., s3://...        any of these in a bucket, see `vmae_jax.storage`
    tfds:ucf101[/config]:train  a TensorFlow data set, see `vmae_jax.data.tfds`
    synthetic:train           the synthetic motion set, see `vmae_jax.data.synthetic`
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from vmae_jax import storage
from vmae_jax.data.frame_folder import FrameFolder, open_video
from vmae_jax.data.video import Video, VideoError
from vmae_jax.errors import UserError
from vmae_jax.patience import NoAnswer, ask_all
from vmae_jax.types import Int, UInt8

VIDEO_SUFFIXES = tuple(
  '.mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .divx .vob .mts .m2ts'.split()
)


@runtime_checkable  # For the tests, which check annotations.
class Frames(Protocol):
  """What a source opens: a `Video`, or frames that lie elsewhere."""

  num_frames: int
  rate: float

  @property
  def height(self) -> int: ...

  @property
  def width(self) -> int: ...

  def read(
    self, indices: Sequence[int] | Int[np.ndarray, ' T']
  ) -> UInt8[np.ndarray, 'T H W 3']: ...

  def __enter__(self): ...

  def __exit__(self, *_) -> None: ...


@runtime_checkable
class Source(Protocol):
  """A data set with random access by sample, from 0 to len - 1."""

  class_names: tuple[str, ...]  # May be empty.

  def __len__(self) -> int: ...

  def name(self, i: int) -> str: ...

  def label(self, i: int) -> int:
    """The class, -1 if unknown."""

  def open(self, i: int) -> Frames:
    """Opens the video; raises a VideoError where it cannot be read."""


class Window:
  """The frames [start, start + count) of a video as a video; count -1 means to its end."""

  def __init__(self, video: Video | FrameFolder, *, start: int, count: int):
    self._video, self._start = video, start
    self.rate = video.rate
    left = video.num_frames - start
    self.num_frames = left if count == -1 else min(count, left)
    if self.num_frames <= 0:
      video.close()
      raise VideoError(f'the list starts at frame {start}, the video has {video.num_frames}')

  @property
  def height(self) -> int:
    return self._video.height

  @property
  def width(self) -> int:
    return self._video.width

  def read(self, indices: Sequence[int] | Int[np.ndarray, ' T']) -> UInt8[np.ndarray, 'T H W 3']:
    indices = np.asarray(indices)
    if indices.min() < 0 or indices.max() >= self.num_frames:
      raise IndexError(f'frames {indices} of a window of {self.num_frames}')
    return self._video.read(indices + self._start)

  def __enter__(self) -> 'Window':
    return self

  def __exit__(self, *_) -> None:
    self._video.close()


@dataclass(frozen=True)
class Entry:
  """One video of a list: where it lies, its class, and which of its frames count.

  A path that ends in / is a folder of frames, see `vmae_jax.data.frame_folder`.
  `tail` is what follows the path in its line, so that the line can be written again.
  """

  path: str
  label: int = -1
  start: int = 0
  count: int = -1
  tail: str = ''


@dataclass(frozen=True)
class FileSource:
  """Video files, from a list or a folder."""

  entries: tuple[Entry, ...]
  class_names: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.entries)

  def name(self, i: int) -> str:
    return self.entries[i].path

  def label(self, i: int) -> int:
    return self.entries[i].label

  def open(self, i: int) -> Video | FrameFolder | Window:
    entry = self.entries[i]
    try:
      video = open_video(entry.path)
    except OSError as e:
      raise VideoError(e.strerror or str(e)) from e
    if entry.start == 0 and entry.count == -1:
      return video
    return Window(video, start=entry.start, count=entry.count)


def parse_line(line: str, folder: str) -> tuple[Entry, int]:
  """Reads a line of a list: a path, then blanks or commas and up to three whole numbers.

  The path may contain blanks and commas, as the numbers are found from the end; in double
  quotes it may even end in a number.

  Args:
    line: Not empty.
    folder: Where a relative path starts.

  Returns:
    The video, and how many numbers follow its path: none, `label`, `start count` (the
    pre-training lists of VideoMAE V2) or `start count label`.

  Raises:
    ValueError: the line is of another form.
  """
  pattern = r'"(?P<quoted>[^"]+)"|(?P<plain>[^"].*?)'
  match = re.fullmatch(rf'(?:{pattern})(?P<tail>(?:[\s,]+-?\d+){{0,3}})', line.strip())
  if match is None:
    raise ValueError
  numbers = [int(x) for x in re.findall(r'-?\d+', match['tail'])]
  label = numbers[-1] if len(numbers) in (1, 3) else -1
  start, count = numbers[:2] if len(numbers) > 1 else (0, -1)
  if label < -1 or start < 0 or count < -1 or count == 0:
    raise ValueError
  path = os.path.join(folder, match['quoted'] or match['plain'])
  tail = '"' * bool(match['quoted']) + match['tail']
  return Entry(path, label=label, start=start, count=count, tail=tail), len(numbers)


def read_list(path: str, *, root: str = '') -> FileSource:
  """Reads a list file of one video a line.

  A line is `path label`, `path start count label` (VideoMAE V2: the frames from start on,
  count -1 for all), `path start count` (V2's pre-training form) or a bare `path`; a path that
  ends in / is a folder of frames. All lines must be of one form. Lines that start with # are
  comments. Names of classes are read from a file `classes.txt` beside the list, one a line, if
  there is one.

  Args:
    path: The list.
    root: The folder that relative paths start from; by default the list's own.

  Raises:
    UserError: the list cannot be read or is empty, or a line is of another form.
  """
  try:
    lines = storage.read_text(path).splitlines()
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f'cannot read the list {path}: {e}') from e
  folder = root or os.path.dirname(storage.absolute(path))
  entries, form = [], None
  for number, line in enumerate(lines, 1):
    if not line.strip() or line.lstrip().startswith('#'):
      continue
    where = f'{path}, line {number}'
    try:
      entry, found = parse_line(line, folder)
    except ValueError:
      raise UserError(
        f'{where}: {line!r} is none of: path label | path start count label | path 0 -1 | path; '
        'a label is at least 0 or -1 for unknown, a start at least 0, a count at least 1 or -1.'
      ) from None
    form = found if form is None else form
    if found != form:
      raise UserError(
        f'{where}: {found} numbers after the path, but {form} in the lines before: all lines '
        'must be of one form (put a path that ends in a number in double quotes).'
      )
    entries.append(entry)
  if not entries:
    raise UserError(f'the list {path} names no video.')
  return FileSource(tuple(entries), _class_names(path, max(e.label for e in entries)))


def _class_names(list_path: str, highest_label: int) -> tuple[str, ...]:
  where = storage.absolute(list_path)
  path = os.path.join(os.path.dirname(where), 'classes.txt')
  try:
    if path == where or not storage.is_file(path):
      return ()
    names = tuple(filter(None, map(str.strip, storage.read_text(path).splitlines())))
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f'cannot read the names of the classes, {path}: {e}') from e
  if highest_label >= len(names):
    raise UserError(
      f'{list_path} has the label {highest_label}, but {path} names only {len(names)} classes.'
    )
  return names


def read_folder(folder: str) -> FileSource:
  """Finds all videos in a folder and below, sorted by path.

  Folders directly inside it are classes, numbered in the order of their names; videos that
  lie in the folder itself have no label.

  Raises:
    UserError: there is no video.
  """
  paths = sorted(path.split('/') for path in storage.walk(folder))
  paths = [p for p in paths if p[-1].lower().endswith(VIDEO_SUFFIXES) and p[-1][0] != '.']
  if not paths:
    raise UserError(f'no video in the folder {folder} (looked for {" ".join(VIDEO_SUFFIXES)}).')
  classes = sorted({parts[0] for parts in paths if len(parts) > 1})
  labels = {name: i for i, name in enumerate(classes)}
  entries = []
  for parts in paths:
    label = labels[parts[0]] if len(parts) > 1 else -1
    tail = f' {label}' if classes else ''
    entries.append(Entry(os.path.join(folder, *parts), label=label, tail=tail))
  return FileSource(tuple(entries), tuple(classes))


def open_source(spec: str, *, root: str = '', seconds: float = 60.0) -> Source:
  """Opens what a config calls its data: a list, a folder, shards, `tfds:...` or `synthetic:...`.

  Args:
    spec: See the module.
    root: Where relative paths in a list start, see `read_list`; for TFDS the data_dir.
    seconds: That a disk or network mount may take to say what lies there.

  Raises:
    UserError: there is no such thing, nothing is in it, or there is no answer.
  """
  if not spec:
    raise UserError('no data is named: give --config.data.train=LIST, a list or folder of videos.')
  kind, _, rest = spec.partition(':')
  if kind == 'synthetic':
    from vmae_jax.data.synthetic import SyntheticSource

    if rest not in ('train', 'val'):
      raise UserError(f'{spec!r}: the synthetic set has the splits synthetic:train, synthetic:val.')
    return SyntheticSource(rest)
  if kind == 'tfds':
    from vmae_jax.data.tfds import TfdsSource

    return TfdsSource(rest, data_dir=root or None)
  try:
    (folder,) = ask_all(storage.is_folder, [spec], seconds=seconds)
    if isinstance(folder, NoAnswer):
      raise UserError(f'{spec}: {folder}; is the disk or network mount that it lies on alive?')
    if folder:
      from vmae_jax.data.shards import ShardSource, holds_shards

      if holds_shards(spec):
        return ShardSource(spec)
      names = [n for n in storage.names(spec) if not n.lower().endswith(VIDEO_SUFFIXES)]
      with ThreadPoolExecutor(32) as pool:  # A look-up over a network is all waiting.
        held = pool.map(holds_shards, (os.path.join(spec, name) for name in names))
        splits = [name for name, holds in zip(names, held, strict=True) if holds]
      if splits:
        raise UserError(f'{spec} has the splits {", ".join(splits)}: name one, {spec}/{splits[0]}.')
      return read_folder(spec)
    if storage.is_file(spec):
      return read_list(spec, root=root)
  except OSError as e:
    raise UserError(f'cannot read {spec}: {e.strerror or e}') from e
  looked = '' if storage.is_remote(spec) else f' (looked in {os.getcwd()})'
  raise UserError(
    f'there is no list or folder {spec!r}{looked}; '
    'data is a list, a folder of videos or shards, tfds:NAME:SPLIT or synthetic:train.'
  )


def check_paths(source: Source, max_bad_share: float, *, seconds: float = 60.0) -> None:
  """Looks whether the files of a source exist, before hours are spent on it.

  Args:
    source: Nothing is checked in one that does not lie in files.
    max_bad_share: The share of missing files that is tolerated; they will be replaced.
    seconds: After so long without an answer, as from a dead network mount, a file counts as
      missing.

  Raises:
    UserError: more are missing, or all.
  """
  if not isinstance(source, FileSource):
    return
  missing, silent = storage.missing([entry.path for entry in source.entries], seconds=seconds)

  def too_many(files: int) -> bool:
    return files > max_bad_share * len(source) or files == len(source)

  if too_many(len(missing)):
    raise UserError(
      f'{len(missing)} of {len(source)} files do not exist, at most {max_bad_share:.1%} may be '
      f'missing: {", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}. '
      'Is the root of the relative paths right?'
    )
  if too_many(len(missing) + len(silent)):
    raise UserError(
      f'{len(silent)} of {len(source)} files give no answer in {seconds:g} s, such as {silent[0]}: '
      'is the disk or network mount that they lie on alive? data.seconds sets the limit.'
    )
