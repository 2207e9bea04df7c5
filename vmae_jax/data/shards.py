"""Shards of encoded videos, read by random access: what `python -m vmae_jax.prepare` writes.

A folder of shards holds one split of a data set:

  manifest.json     counts, names of the classes, how it was encoded, what failed, hashes
  index-HASH        what is known of each video, see `Index`
  shard-00000.tar   and so on: the videos

A shard is a tar file in WebDataset's layout: for each video ID.json, its header, and ID.mp4.
The index says where the video's bytes lie, so that a video is read as one range of bytes.
"""

import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmae_jax import storage
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError, may_pass

VERSION = 2
MANIFEST, PARTS = 'manifest.json', '.parts'
BLOCK = 512  # Bytes: a tar file pads each of its files to a multiple.
END = bytes(2 * BLOCK)  # Of a tar file.
FEW = 512  # Rows of a table that are in memory at a time.


@dataclass(frozen=True, kw_only=True)
class Header:
  """What is known of one video."""

  id: str  # The data set's own name of the video.
  label: int  # The class, -1 if unknown.
  rate: float  # Average frames per second of the original, 0.0 if unknown.
  frames: int
  width: int  # As displayed.
  height: int
  size: int  # Bytes of the video.
  sha256: str  # Of these bytes.


def pack(header: Header, data: bytes) -> bytes:
  """A video as a piece of a tar file, at whose end are `data` and the zeros that pad it."""
  about = json.dumps(asdict(header), ensure_ascii=False).encode()
  return _member(f'{header.id}.json', about) + _member(f'{header.id}.mp4', data)


def _member(name: str, data: bytes) -> bytes:
  info = tarfile.TarInfo(name)
  info.size = len(data)
  return info.tobuf(tarfile.GNU_FORMAT, 'utf-8') + data + bytes(-len(data) % BLOCK)


def unpack(record: bytes) -> tuple[Header, bytes]:
  """The header and the video that `pack` was given.

  Raises:
    VideoError: `record` is no such piece.
  """
  try:
    with tarfile.open(fileobj=io.BytesIO(record)) as tar:
      about, data = (tar.extractfile(member).read() for member in tar)  # type: ignore
    return Header(**json.loads(about)), data
  except (tarfile.TarError, ValueError, TypeError, AttributeError) as e:
    raise VideoError(f'not a record of a video ({e})') from e


def check(header: Header, data: bytes) -> None:
  """Raises a VideoError if the bytes of a video are not those that were written."""
  if len(data) != header.size or hashlib.sha256(data).hexdigest() != header.sha256:
    raise VideoError('its checksum is wrong')


@contextmanager
def temporary() -> Iterator[tuple[Any, str]]:
  """A new local file, removed when it is closed, and a path by which all processes can open it.

  Raises:
    UserError: there is no room for what is written to it in this context.
  """
  proc = os.path.isdir('/proc/self/fd')  # No file stays behind then, however this process ends.
  file: Any = tempfile.TemporaryFile() if proc else tempfile.NamedTemporaryFile()
  try:
    yield file, f'/proc/{os.getpid()}/fd/{file.fileno()}' if proc else file.name
    file.flush()
  except OSError as e:
    if e.errno != errno.ENOSPC:
      raise
    what = f'{tempfile.gettempdir()} has no room for a table of the videos'
    raise UserError(f'{what}: set TMPDIR to another folder.') from e


class Table(Sequence):
  """Rows of a text and some numbers in a file, of which a few are in memory at a time.

  The file holds the numbers of all rows, then their texts in UTF-8. It is read, not mapped: mapped
  pages count as memory of each process, and one that the disk cannot read kills the process.

  `path` is local and other processes can open it. `keep`, such as a temporary file, is kept alive
  as long as the table.
  """

  # Must have `text`, the bytes of the row's text, and `end`, where it ends among the texts.
  ROW: np.dtype

  def __init__(self, path: str, count: int, keep: Any = None):
    self.path, self.count, self._keep = path, count, keep
    self._file = open(path, 'rb', buffering=0)

  def __reduce__(self):
    return type(self), (self.path, self.count)

  @classmethod
  def columns(cls) -> list[str]:
    """The names of the numbers of a row."""
    return [name for name in cls.ROW.names or () if name not in ('text', 'end')]

  @classmethod
  def of(cls, pairs: Iterable[tuple[str, tuple]]) -> Any:
    """A table of texts, each with the numbers of its row."""
    pairs, count, end = iter(pairs), 0, 0
    with temporary() as (file, path), tempfile.TemporaryFile() as after:
      while some := list(itertools.islice(pairs, FEW)):
        data = [text.encode() for text, _ in some]
        rows = np.empty(len(some), cls.ROW)
        columns = zip(*(numbers for _, numbers in some), strict=True)
        for name, column in zip(cls.columns(), columns, strict=True):
          rows[name] = np.array(column, cls.ROW[name])
        rows['text'] = [*map(len, data)]
        rows['end'] = end + rows['text'].cumsum(dtype=np.int64)
        count, end = count + len(some), rows['end'][-1]
        file.write(rows)
        after.write(b''.join(data))
      after.seek(0)
      shutil.copyfileobj(after, file)
    return cls(path, count, file)

  def rows(self, first: int, end: int) -> np.ndarray:
    """Rows without their texts."""
    if not 0 <= first <= end <= self.count:
      raise IndexError(first)
    size = self.ROW.itemsize
    data = os.pread(self._file.fileno(), (end - first) * size, first * size)
    return np.frombuffer(data, self.ROW)

  def pairs(self, first: int, end: int) -> Iterator[tuple[str, tuple]]:
    """Rows in the form that `of` takes."""
    texts = self.count * self.ROW.itemsize
    for at in range(first, end, FEW):
      rows = self.rows(at, min(at + FEW, end))
      begins, begin = rows['end'] - rows['text'], int(rows['end'][0] - rows['text'][0])
      data = os.pread(self._file.fileno(), int(rows['end'][-1]) - begin, texts + begin)
      places = zip(*((x - begin).tolist() for x in (begins, rows['end'])), strict=True)
      for (a, b), numbers in zip(places, rows[self.columns()].tolist(), strict=True):
        yield data[a:b].decode(), numbers

  def item(self, text: str, *numbers: Any) -> Any:
    """The object that users of the table get for a row."""
    raise NotImplementedError

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, i: Any) -> Any:
    if isinstance(i, slice):
      return tuple(self[k] for k in range(*i.indices(self.count)))
    i = range(self.count)[i]
    [(text, numbers)] = self.pairs(i, i + 1)
    return self.item(text, *numbers)

  def __iter__(self) -> Iterator[Any]:
    return (self.item(text, *numbers) for text, numbers in self.pairs(0, self.count))


class Index(Table):
  """What is known of each video: its header, the number of its shard, and where it begins there."""

  ROW = np.dtype(
    [(name, '<i8') for name in ('offset', 'end', 'size')]
    + [('rate', '<f8')]
    + [(name, '<i4') for name in ('text', 'shard', 'label', 'frames', 'width', 'height')]
    + [('sha256', 'V32')]
  )

  @classmethod
  def pair(cls, header: Header, shard: int, offset: int) -> tuple[str, tuple]:
    """The row of a video."""
    known = asdict(header) | dict(shard=shard, offset=offset, sha256=bytes.fromhex(header.sha256))
    return header.id, tuple(known[name] for name in cls.columns())

  @classmethod
  def joined(cls, parts: Iterable[tuple['Index', int]]) -> 'Index':
    """One index of several, each given with the number of its first shard."""
    at = cls.columns().index('shard')
    return cls.of(
      (text, (*numbers[:at], numbers[at] + first, *numbers[at + 1 :]))
      for index, first in parts
      for text, numbers in index.pairs(0, len(index))
    )

  def item(self, text: str, *numbers: Any) -> Header:
    known = dict(zip(self.columns(), numbers, strict=True)) | {'id': text}
    known['sha256'] = known['sha256'].hex()
    return Header(**{name: known[name] for name in Header.__dataclass_fields__})


def holds_shards(folder: str) -> bool:
  """Whether a folder has been written by `prepare`, completely or not."""
  return storage.is_file(f'{folder}/{MANIFEST}') or storage.is_folder(f'{folder}/{PARTS}')


def open_index(folder: str, manifest: dict[str, Any]) -> Index:
  """Copies the index of a folder to this machine, where it outlives the folder's mount.

  Raises:
    ValueError: it is not the one that was written.
    UserError: there is no room for it.
  """
  about = manifest['index']
  with temporary() as (copy, path):
    storage.fetch(f'{folder}/{about["name"]}', path)
  if hashlib.file_digest(copy, 'sha256').hexdigest() != about['sha256']:
    raise ValueError(f'{about["name"]} is not the one that was written')
  return Index(path, manifest['records'], copy)


class ShardSource:
  """A folder of shards, local or in a bucket, as a data set; sample i is video i of its index.

  Attributes:
    headers: The `Header` of each video.
    class_names: May be empty.
    manifest: The content of manifest.json.
    largest: Height and width that no picture exceeds.

  Raises:
    UserError: the folder is not complete, or is damaged.
    OSError: the disk or store that it lies on does not answer.
  """

  def __init__(self, folder: str):
    self.folder = folder.rstrip('/') or folder
    self._where = storage.absolute(self.folder)
    if not storage.is_file(f'{folder}/{MANIFEST}'):
      raise UserError(f'the shards in {folder} are not complete: start the same prepare again.')
    try:
      self.manifest = json.loads(storage.read_text(f'{folder}/{MANIFEST}'))
      version, shards = self.manifest['version'], self.manifest['shards']
      if version != VERSION:
        todo = f'python -m vmae_jax.prepare upgrade {folder}' if version == 1 else 'prepare it anew'
        raise UserError(f'{folder} is of version {version}, this code reads {VERSION}: {todo}.')
      self.class_names: tuple[str, ...] = tuple(self.manifest['classes'])
      if not self.manifest['records']:
        raise UserError(f'the shards in {folder} hold no video: all of them failed.')
      self.largest = tuple(self.manifest['largest'])
      self.headers = open_index(self._where, self.manifest)
      sizes = storage.sizes(folder)
      for shard in shards:
        if shard['name'] not in sizes:
          raise ValueError(f'{shard["name"]}: No such file')
        if sizes[shard['name']] != shard['size']:
          raise ValueError(f'{shard["name"]} has another size than when it was written')
    except (OSError, ValueError, KeyError, TypeError) as e:
      if may_pass(e):
        raise
      raise UserError(
        f'the shards in {folder} are damaged ({e}): copy them again, or prepare them anew.'
      ) from e

  def __len__(self) -> int:
    return self.headers.count

  def name(self, i: int) -> str:
    return f'{self.folder}:{self.headers[i].id}'

  def label(self, i: int) -> int:
    return int(self.headers.rows(i, i + 1)['label'][0])

  def about(self) -> str:
    return self.manifest['hash'][:12]

  def read(self, i: int) -> tuple[Header, bytes]:
    """The header and the bytes of a video.

    Raises:
      VideoError: they cannot be read, or are not those that were written.
    """
    header = self.headers[i]
    shard, begin = self.headers.rows(i, i + 1)[['shard', 'offset']][0].tolist()
    path = f'{self._where}/{self.manifest["shards"][shard]["name"]}'
    try:
      data = storage.read(path, begin, begin + header.size)
    except (OSError, ValueError) as e:
      raise VideoError(f'its record cannot be read: {" ".join(str(e).split())[:200]}') from e
    check(header, data)
    return header, data

  def open(self, i: int, *, vectors: bool = False) -> Video:
    return Video(io.BytesIO(self.read(i)[1]), vectors=vectors)
