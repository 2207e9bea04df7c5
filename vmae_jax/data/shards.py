"""Shards of encoded videos, read by random access: what `python -m vmae_jax.prepare` writes.

A folder of shards holds one split of a data set:

  manifest.json   counts, names of the classes, how it was encoded, what failed, hashes
  index.csv       a line a record, in their order: id, label, rate, frames, width, height, ...
  shard-00000-of-00016.array_record   and so on: the records

A record is the length of its header (4 bytes, little-endian), the header (JSON, UTF-8: the
columns of index.csv) and the bytes of a video file.
"""

import csv
import hashlib
import io
import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

from vmae_jax import storage
from vmae_jax.data.range_records import RangeRecords
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError

VERSION = 1
MANIFEST, INDEX, PARTS = 'manifest.json', 'index.csv', '.parts'
# One record a chunk, for random access; compressing videos again would only cost time.
WRITER_OPTIONS = 'group_size:1,uncompressed'


@dataclass(frozen=True, kw_only=True)
class Header:
  """What is known of one video; also the columns of index.csv.

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


COLUMNS = tuple(Header.__dataclass_fields__)


def pack(header: Header, data: bytes) -> bytes:
  """A record."""
  text = json.dumps(asdict(header), ensure_ascii=False, separators=(',', ':')).encode()
  return struct.pack('<I', len(text)) + text + data


def unpack(record: bytes) -> tuple[Header, bytes]:
  """The header and the video of a record.

  Raises:
    VideoError: it is no such record.
  """
  try:
    (length,) = struct.unpack_from('<I', record)
    header = Header(**json.loads(record[4 : 4 + length]))
  except (struct.error, ValueError, TypeError) as e:
    raise VideoError(f'not a record of a video ({e})') from e
  return header, record[4 + length :]


def check(header: Header, data: bytes) -> None:
  """Raises a VideoError for a video that is not the one that was written."""
  if len(data) != header.size or hashlib.sha256(data).hexdigest() != header.sha256:
    raise VideoError('its checksum is wrong')


def write_index(headers: list[Header]) -> str:
  """The text of index.csv."""
  out = io.StringIO()
  rows = csv.writer(out, lineterminator='\n')
  rows.writerow(COLUMNS)
  rows.writerows(asdict(header).values() for header in headers)
  return out.getvalue()


def read_index(text: str) -> tuple[Header, ...]:
  """The records that the text of index.csv tells."""
  rows = csv.reader(io.StringIO(text, newline=''))
  if tuple(next(rows, ())) != COLUMNS:
    raise ValueError('the columns are others')
  kinds = [Header.__dataclass_fields__[name].type for name in COLUMNS]
  return tuple(
    Header(**{k: t(x) for k, t, x in zip(COLUMNS, kinds, row, strict=True)})  # type: ignore
    for row in rows
  )


def holds_shards(folder: str) -> bool:
  """Whether a folder has been written by `prepare`, completely or not."""
  return storage.is_file(f'{folder}/{MANIFEST}') or storage.is_folder(f'{folder}/{PARTS}')


def _open_records(folder: str, shards: list[dict[str, Any]]) -> Any:
  """What `[i]` gives record i of."""
  if storage.is_remote(folder):
    return RangeRecords([(f'{folder}/{s["name"]}', s['size'], s['records']) for s in shards])
  import grain  # Not above: it takes a second, and who writes shards does not need it.

  return grain.sources.ArrayRecordDataSource(
    [f'{folder}/{s["name"]}[0:{s["records"]}]' for s in shards]
  )


class ShardSource:
  """A folder of shards, here or elsewhere, as a data set; sample i is record i.

  Attributes:
    headers: Of all records.
    class_names: May be empty.
    manifest: The content of manifest.json.

  Raises:
    UserError: the folder is not complete, or is damaged.
  """

  def __init__(self, folder: str):
    self.folder = folder.rstrip('/') or folder
    if not storage.is_file(f'{folder}/{MANIFEST}'):
      raise UserError(f'the shards in {folder} are not complete: start the same prepare again.')
    try:
      self.manifest = json.loads(storage.read_text(f'{folder}/{MANIFEST}'))
      index = storage.read_text(f'{folder}/{INDEX}')
      version, shards = self.manifest['version'], self.manifest['shards']
      if version != VERSION:
        raise UserError(
          f'{folder} is of version {version}, this is for {VERSION}: prepare it anew.'
        )
      if hashlib.sha256(index.encode()).hexdigest() != self.manifest['hash']:
        raise ValueError(f'{INDEX} is not the one that was written')
      self.headers = read_index(index)
      self.class_names: tuple[str, ...] = tuple(self.manifest['classes'])
      if not self.headers:
        raise UserError(f'the shards in {folder} hold no video: all of them failed.')
      self.largest = tuple(max(getattr(h, x) for h in self.headers) for x in ('height', 'width'))
      sizes = storage.sizes(folder)
      for shard in shards:
        if shard['name'] not in sizes:
          raise ValueError(f'{shard["name"]}: No such file')
        if sizes[shard['name']] != shard['size']:
          raise ValueError(f'{shard["name"]} has another size than when it was written')
      self._records = _open_records(storage.absolute(self.folder), shards)
    except (OSError, ValueError, KeyError, TypeError) as e:
      raise UserError(
        f'the shards in {folder} are damaged ({e}): copy them again, or prepare them anew.'
      ) from e

  def __len__(self) -> int:
    return len(self.headers)

  def name(self, i: int) -> str:
    return f'{self.folder}:{self.headers[i].id}'

  def label(self, i: int) -> int:
    return self.headers[i].label

  def about(self) -> str:
    return self.manifest['hash'][:12]

  def read(self, i: int) -> tuple[Header, bytes]:
    """The header and the video of a record.

    Raises:
      VideoError: the record cannot be read, or is not that of the index.
    """
    try:
      record = self._records[i]
    except (RuntimeError, ValueError, OSError, IndexError) as e:
      raise VideoError(f'its record cannot be read: {" ".join(str(e).split())[:200]}') from e
    header, data = unpack(record)
    if header != self.headers[i]:
      raise VideoError(f'its record is that of {header.id!r}')
    if storage.is_remote(self.folder):  # On disks ArrayRecord's own reader does it.
      check(header, data)
    return header, data

  def open(self, i: int) -> Video:
    return Video(io.BytesIO(self.read(i)[1]))
