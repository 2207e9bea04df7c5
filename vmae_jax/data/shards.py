"""Shards of encoded videos, read by random access: what `python -m vmae_jax.prepare` writes.

A folder of shards holds one split of a data set:

  manifest.json     counts, names of the classes, how it was encoded, what failed, hashes
  index-HASH        what is known of each video, see `Index`
  shard-00000.tar   and so on: the videos

A shard is a tar file in WebDataset's layout: of each video ID.json, its header, and ID.mp4.
The index says where the video's bytes lie, so it is read as one range of bytes.
"""

import errno
import hashlib
import io
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmae_jax import storage
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError

VERSION = 2
MANIFEST, PARTS = 'manifest.json', '.parts'
BLOCK = 512  # Of a tar file: all that is in it is filled up to a multiple.
END = bytes(2 * BLOCK)  # Of a tar file.


@dataclass(frozen=True, kw_only=True)
class Header:
  """What is known of one video.

  Attributes:
    id: The data set's own name of the video.
    label: The class, -1 if unknown.
    rate: Average frames a second of the original, 0.0 if it does not say.
    frames: How many the video has.
    width: As displayed.
    height: As displayed.
    size: Bytes of the video.
    sha256: Of these bytes.
  """

  id: str
  label: int
  rate: float
  frames: int
  width: int
  height: int
  size: int
  sha256: str


def pack(header: Header, data: bytes) -> bytes:
  """A video as a piece of a tar file, which `data` ends but for zeros."""
  about = json.dumps(asdict(header), ensure_ascii=False).encode()
  return _member(f'{header.id}.json', about) + _member(f'{header.id}.mp4', data)


def _member(name: str, data: bytes) -> bytes:
  info = tarfile.TarInfo(name)
  info.size = len(data)
  return info.tobuf(tarfile.GNU_FORMAT, 'utf-8') + data + bytes(-len(data) % BLOCK)


def unpack(record: bytes) -> tuple[Header, bytes]:
  """The header and the video that were packed.

  Raises:
    VideoError: there is no such thing.
  """
  try:
    with tarfile.open(fileobj=io.BytesIO(record)) as tar:
      about, data = (tar.extractfile(member).read() for member in tar)  # type: ignore
    return Header(**json.loads(about)), data
  except (tarfile.TarError, ValueError, TypeError, AttributeError) as e:
    raise VideoError(f'not a record of a video ({e})') from e


def check(header: Header, data: bytes) -> None:
  """Raises a VideoError for a video that is not the one that was written."""
  if len(data) != header.size or hashlib.sha256(data).hexdigest() != header.sha256:
    raise VideoError('its checksum is wrong')


class Index:
  """What is known of each video, in rows of a file of which no more than a row is in memory.

  After the rows come the ids, in UTF-8. Rows are read, not mapped: pages that are mapped count as
  memory of each process, and one that a disk does not give kills it.

  Args:
    path: The file, on this machine.
    count: Of videos.
    keep: Must live as long as the index does, such as a temporary file.
  """

  # shard: the number of the video's shard in the manifest; offset: where it begins there;
  # id, end: bytes of its id, and where that ends among the ids.
  ROW = np.dtype(
    [(name, '<i8') for name in ('offset', 'end', 'size')]
    + [('rate', '<f8')]
    + [(name, '<i4') for name in ('id', 'shard', 'label', 'frames', 'width', 'height')]
    + [('sha256', 'V32')]
  )

  def __init__(self, path: str, count: int, keep: Any = None):
    self.path, self.count, self._keep = path, count, keep
    self._file = open(path, 'rb', buffering=0)

  def __reduce__(self):
    return Index, (self.path, self.count)

  def row(self, i: int) -> np.void:
    """The row of video i."""
    if not 0 <= i < self.count:
      raise IndexError(i)
    size = self.ROW.itemsize
    return np.frombuffer(os.pread(self._file.fileno(), size, i * size), self.ROW)[0]

  def __getitem__(self, i: int) -> Header:
    """What is known of video i."""
    row = self.row(i)
    known = {name: row[name].item() for name in self.ROW.names}
    begin = self.count * self.ROW.itemsize + known['end'] - known['id']
    known['id'] = os.pread(self._file.fileno(), known['id'], begin).decode()
    known['sha256'] = known['sha256'].hex()
    return Header(**{name: known[name] for name in Header.__dataclass_fields__})

  @classmethod
  def write(cls, videos: Iterable[tuple[Header, int, int]]) -> bytes:
    """The content of the file, of headers with the numbers of shards and the places in them."""
    ids = bytearray()

    def row(header: Header, shard: int, offset: int) -> tuple:
      id = header.id.encode()
      ids.extend(id)
      known = asdict(header) | dict(id=len(id), end=len(ids), shard=shard, offset=offset)
      known['sha256'] = bytes.fromhex(header.sha256)
      return tuple(known[name] for name in cls.ROW.names)

    return np.fromiter(itertools.starmap(row, videos), cls.ROW).tobytes() + ids

  @classmethod
  def join(cls, parts: Iterable[tuple['Index', int]]) -> bytes:
    """The content of the file of several, each with the number of its first shard."""
    rows, ids = b'', b''
    for index, first in parts:
      some = np.fromfile(index.path, cls.ROW, index.count)
      some['shard'] += first
      some['end'] += len(ids)
      rows += some.tobytes()
      ids += storage.read(index.path, some.nbytes)
    return rows + ids


def holds_shards(folder: str) -> bool:
  """Whether a folder has been written by `prepare`, completely or not."""
  return storage.is_file(f'{folder}/{MANIFEST}') or storage.is_folder(f'{folder}/{PARTS}')


def open_index(folder: str, manifest: dict[str, Any]) -> Index:
  """The index of a folder, copied to this machine: no mount that dies may keep it from anybody.

  Raises:
    ValueError: it is another one than was written.
    UserError: there is no room for it.
  """
  about, here = manifest['index'], os.path.isdir('/proc/self/fd')
  copy = tempfile.TemporaryFile() if here else tempfile.NamedTemporaryFile()
  path = f'/proc/{os.getpid()}/fd/{copy.fileno()}' if here else copy.name  # Nothing stays behind.
  try:
    storage.fetch(f'{folder}/{about["name"]}', path)
  except OSError as e:
    if e.errno == errno.ENOSPC:
      what = f'{tempfile.gettempdir()} has no room for a copy of the index of {folder}'
      raise UserError(f'{what}: let TMPDIR name another folder.') from e
    raise
  if hashlib.file_digest(open(path, 'rb'), 'sha256').hexdigest() != about['sha256']:
    raise ValueError(f'{about["name"]} is not the one that was written')
  return Index(path, manifest['records'], copy)


class ShardSource:
  """A folder of shards, here or elsewhere, as a data set; sample i is video i of its index.

  Attributes:
    headers: Of all videos, each by its number.
    class_names: May be empty.
    manifest: The content of manifest.json.
    largest: Height and width that no picture exceeds.

  Raises:
    UserError: the folder is not complete, or is damaged.
  """

  def __init__(self, folder: str):
    self.folder = folder.rstrip('/') or folder
    self._where = storage.absolute(self.folder)  # Also for workers.
    if not storage.is_file(f'{folder}/{MANIFEST}'):
      raise UserError(f'the shards in {folder} are not complete: start the same prepare again.')
    try:
      self.manifest = json.loads(storage.read_text(f'{folder}/{MANIFEST}'))
      version, shards = self.manifest['version'], self.manifest['shards']
      if version != VERSION:
        todo = f'python -m vmae_jax.prepare upgrade {folder}' if version == 1 else 'prepare it anew'
        raise UserError(f'{folder} is of version {version}, this is for {VERSION}: {todo}.')
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
      raise UserError(
        f'the shards in {folder} are damaged ({e}): copy them again, or prepare them anew.'
      ) from e

  def __len__(self) -> int:
    return self.headers.count

  def name(self, i: int) -> str:
    return f'{self.folder}:{self.headers[i].id}'

  def label(self, i: int) -> int:
    return int(self.headers.row(i)['label'])

  def about(self) -> str:
    return self.manifest['hash'][:12]

  def read(self, i: int) -> tuple[Header, bytes]:
    """The header and the bytes of a video.

    Raises:
      VideoError: they cannot be read, or are not those that were written.
    """
    header = self.headers[i]
    shard, begin = (int(x) for x in self.headers.row(i)[['shard', 'offset']])
    path = f'{self._where}/{self.manifest["shards"][shard]["name"]}'
    try:
      data = storage.read(path, begin, begin + header.size)
    except (OSError, ValueError) as e:
      raise VideoError(f'its record cannot be read: {" ".join(str(e).split())[:200]}') from e
    check(header, data)
    return header, data

  def open(self, i: int) -> Video:
    return Video(io.BytesIO(self.read(i)[1]))
