"""Where videos come from: list files, folders, shards, TFDS and the synthetic set.

`open_source` turns the string of a config into a source:

    path/to/train.csv         a list file, see `vmae_jax.data.lists`
    path/to/video.mp4         that video
    path/to/folder            all videos below it, see `read_folder`
    path/to/shards            what prepare --shards wrote, see `vmae_jax.data.shards`
    gs://..., s3://...        any of these in a bucket, see `vmae_jax.storage`
    tfds:ucf101[/config]:train  a TensorFlow data set, see `vmae_jax.data.tfds`
    pictures:path/to/folder   all pictures below it, each a clip that stands still
    synthetic:train[,label=look]  the synthetic set, see `vmae_jax.data.synthetic`
    0.7*A + 0.3*B             several of these, each with its share of visits; with A + B all videos
                              get the same, see `vmae_jax.data.mixture`
"""

import functools
import hashlib
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from absl import logging

from vmae_jax import peers, storage
from vmae_jax.data.frame_folder import open_video
from vmae_jax.data.frames import Frame, Frames
from vmae_jax.data.lists import (
  IMAGE_SUFFIXES,
  VIDEO_SUFFIXES,
  Entries,
  Entry,
  check_name,
  read_list,
)
from vmae_jax.data.mixture import Mixture, split_spec
from vmae_jax.data.shards import MANIFEST, ShardSource, holds_shards
from vmae_jax.errors import Unavailable, UserError, VideoError, may_pass
from vmae_jax.motion.codec import Blocks
from vmae_jax.patience import NoAnswer, ask_all

SAMPLE, FEW = 10_000, 16  # Files of a source that the first and other processes look for.
# Names of folders of splits, such as train_256 or videos_val.
_SPLIT = re.compile(r'(videos?[-_])?(train|training|val|valid|validation|test|testing)([-_]?\d+)?')


@runtime_checkable  # For the tests, which check annotations.
class Source(Protocol):
  """A data set with random access by sample, from 0 to len - 1."""

  class_names: tuple[str, ...]  # May be empty.

  def __len__(self) -> int: ...

  def name(self, i: int) -> str: ...

  def label(self, i: int) -> int:
    """The class, -1 if unknown."""

  def open(self, i: int) -> Frames:
    """Opens the video; raises a VideoError where it cannot be read.

    It also gets `vectors=True` if the run uses the codec's motion; the video may then have
    `vectors`, as a `Video` does.
    """


@runtime_checkable
class DataSet(Source, Protocol):
  """A source that a run trains on, and must find again when it goes on."""

  def about(self) -> str:
    """A short text that differs where samples or their order do, wherever the files lie."""


class Window(Frames):
  """The frames [start, start + count) of a video as a video; count -1 means to its end."""

  def __init__(self, video: Frames, *, start: int, count: int):
    self._video, self._start = video, start
    self.rate = video.rate
    left = video.num_frames - start
    self.num_frames = left if count == -1 else min(count, left)
    if self.num_frames <= 0:
      video.close()
      raise VideoError(f'the list starts at frame {start}, the video has {video.num_frames}')

  def images(self, wanted: list[int]) -> Iterator[tuple[int, Frame]]:
    for i, image in self._video.images([i + self._start for i in wanted]):
      yield i - self._start, image

  @property
  def vectors(self) -> dict[int, Blocks]:
    return {i - self._start: blocks for i, blocks in self._video.vectors.items()}

  def close(self) -> None:
    self._video.close()


@dataclass(frozen=True)
class FileSource:
  """Video files, from a list or a folder."""

  entries: Sequence[Entry]
  class_names: tuple[str, ...] = ()

  def __post_init__(self):
    for entry in () if isinstance(self.entries, Entries) else self.entries:
      if not entry.path.isprintable():
        check_name(entry.path)

  def __len__(self) -> int:
    return len(self.entries)

  def name(self, i: int) -> str:
    return self.entries[i].path

  def label(self, i: int) -> int:
    return self.entries[i].label

  def about(self) -> str:
    return self._about

  @functools.cached_property
  def _about(self) -> str:
    some = range(0, len(self), 1 + len(self) // 64)
    common = os.path.commonprefix([self.name(i) for i in some])
    # Paths count from the folder that all have in common; it is shortened until all lie in it. A
    # pass takes seconds.
    while True:
      folder, digest = len(os.path.dirname(common)), hashlib.sha256()
      top = common[: common.rfind('/') + 1]
      for path, *numbers, _ in self.entries:
        if not path.startswith(top):
          common = os.path.commonprefix([common, path])
          break
        digest.update(repr((path[folder:], *numbers)).encode())
      else:
        return digest.hexdigest()[:12]

  def open(self, i: int, *, vectors: bool = False) -> Frames:
    entry = self.entries[i]
    try:
      video = open_video(entry.path, vectors=vectors)
    except OSError as e:
      raise VideoError(e.strerror or str(e)) from e
    except VideoError as e:
      if failure := storage.read_failure(entry.path):
        raise VideoError(failure.strerror or str(e)) from failure
      raise
    if entry.start == 0 and entry.count == -1:
      return video
    return Window(video, start=entry.start, count=entry.count)


def splits_among(classes: Sequence[str]) -> list[str]:
  """Folders that are splits and no classes: several have such names, or all have."""
  splits = [name for name in classes if _SPLIT.fullmatch(name.lower())]
  return splits if len(splits) > 1 or splits == list(classes) else []


def read_folder(folder: str, suffixes: tuple[str, ...] = VIDEO_SUFFIXES) -> FileSource:
  """Finds all videos in a folder and below, sorted by path.

  Folders directly inside it are classes, numbered in the order of their names; videos that
  lie in the folder itself have no label. Names that begin with a . are left out.

  Raises:
    UserError: there is no video, or the folders inside it are splits.
  """
  found = sorted(path.split('/') for path in storage.walk(folder))
  paths = [parts for parts in found if parts[-1].lower().endswith(suffixes)]
  classes = sorted({parts[0] for parts in paths if len(parts) > 1})
  splits = sorted(
    {p[0] for p in found if len(p) == 2 and re.fullmatch(rf'{MANIFEST}|shard-\d+\.tar', p[1])}
  )
  if splits := splits or splits_among(classes):
    first = storage.join(folder, splits[0])
    raise UserError(f'{folder} has the splits {", ".join(splits)}: name one, such as {first}.')
  if not paths:
    raise UserError(f'no video in the folder {folder} (looked for {" ".join(suffixes)}).')
  labels = {name: i for i, name in enumerate(classes)}
  entries = []
  for parts in paths:
    label = labels[parts[0]] if len(parts) > 1 else -1
    tail = f' {label}' if classes else ''
    entries.append(Entry(storage.join(folder, '/'.join(parts)), label=label, tail=tail))
  return FileSource(Entries.listed(entries), tuple(classes))


def open_source(spec: str, *, root: str = '', seconds: float = 60.0) -> DataSet:
  """Opens the data that a config names, see the top of this file.

  Args:
    spec: The name.
    root: Where relative paths in a list start, see `read_list`; for TFDS the data_dir.
    seconds: How long a disk or network mount may take to answer.

  Raises:
    UserError: there is no such data, or it is empty.
    Unavailable: there is no answer, or the disk, mount or store fails.
  """
  if not spec:
    raise UserError('no data is named: give --config.data.train=LIST, a list or folder of videos.')
  check_name(spec)
  check_name(root)
  # No shell replaces the ~ of --config.data.train=~/videos.
  spec, root = os.path.expanduser(spec), os.path.expanduser(root)
  if ' + ' in spec and not os.path.exists(spec):
    specs, weights = split_spec(spec)
    return Mixture([open_source(one, root=root, seconds=seconds) for one in specs], weights)
  kind, _, rest = spec.partition(':')
  if kind == 'synthetic':
    from vmae_jax.data.synthetic import named_source

    return named_source(rest)
  if kind == 'tfds':
    from vmae_jax.data.tfds import TfdsSource

    return TfdsSource(rest, data_dir=root or None)
  suffixes = VIDEO_SUFFIXES
  if kind == 'pictures':
    spec, suffixes = os.path.expanduser(rest), IMAGE_SUFFIXES
  try:
    (folder,) = ask_all(storage.is_folder, [spec], seconds=seconds)
    if isinstance(folder, NoAnswer):
      raise Unavailable(f'{spec}: {folder}; is the disk or network mount that it lies on alive?')
    if folder:
      return ShardSource(spec) if holds_shards(spec) else read_folder(spec, suffixes)
    if storage.is_file(spec):
      if spec.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES):
        return FileSource((Entry(spec),))
      return FileSource(*read_list(spec, root=root))
  except OSError as e:
    raise _kind(e)(f'cannot read {e.filename or spec}: {e.strerror or e}') from e
  looked = '' if storage.is_remote(spec) else f' (looked in {os.getcwd()})'
  raise UserError(
    f'there is no list or folder {spec!r}{looked}; '
    'data is a list, a folder of videos or shards, pictures:FOLDER, tfds:NAME:SPLIT, '
    'synthetic:train, or several of them with + between.'
  )


def _kind(e: OSError) -> type[Exception]:
  return Unavailable if may_pass(e) else UserError


def check_paths(
  source: Source, max_bad_share: float, *, seconds: float = 60.0, most: int = 0
) -> None:
  """Checks whether the files of a source exist, before hours are spent on it.

  The first process of a run does so for all; if it fails, the run ends. The others look for FEW
  files, to see whether they have the disk at all.

  Args:
    source: The data set; only files are checked, so shards, for example, are not.
    max_bad_share: The share of missing files that is tolerated; they will be replaced.
    seconds: A file that gives no answer for so long, as on a dead network mount, counts as missing.
    most: If there are more files than this (0 means SAMPLE), a fixed sample of so many is checked.

  Raises:
    UserError: more are missing, or all.
    Unavailable: more give no answer, or the disk, mount or store fails.
  """
  if isinstance(source, Mixture):
    for one in source.sources:
      check_paths(one, max_bad_share, seconds=seconds, most=most)
  if not isinstance(source, FileSource):
    return
  indices, files = range(len(source)), 'files'
  most = (most or SAMPLE) if peers.is_first() else FEW
  if len(indices) > most:
    indices, files = random.Random(0).sample(indices, most), f'files, a sample of {len(source)},'
  paths = [source.name(i) for i in indices]
  try:
    missing, silent = storage.missing(paths, seconds=seconds)
    hint = 'Is the root of the relative paths right?'
    if missing and storage.is_folder(missing[0]):
      hint = 'That is a folder: one of frames, one picture each, ends in / in lists.'
  except OSError as e:
    raise _kind(e)(f'cannot look for {e.filename}: {e.strerror or e}') from e

  def too_many(number: int) -> bool:
    return number > max_bad_share * len(paths) or number == len(paths)

  what = f'{len(missing)} of {len(paths)} {files} do not exist'
  such = f'{", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}'
  if too_many(len(missing)):
    raise UserError(f'{what}, at most {max_bad_share:.1%} may be missing: {such}. {hint}')
  if too_many(len(missing) + len(silent)):
    raise Unavailable(
      f'{len(silent)} of {len(paths)} {files} give no answer in {seconds:g} s, such as '
      f'{silent[0]}: is the disk or network mount that they lie on alive? data.seconds sets the '
      'limit.'
    )
  if missing:
    logging.warning('%s: %s. Others will replace them.', what, such)
