"""Single records of ArrayRecord files that lie elsewhere, each read as one range of bytes.

ArrayRecord's own reader opens only files of this machine. What its files look like, where records
are neither grouped nor compressed, as in our shards:

  file        blocks of 64 KiB; each begins with a header of 24 bytes, even amid a chunk
  chunk       40 bytes, of which bytes 8 to 16 are the size of its data and byte 24 is its kind,
              and the data: b'\\0' for uncompressed, the length of the list of sizes, that list,
              and the records; all these numbers are varints
  last block  a chunk whose records, all the same, say where the footer begins (a varint field,
              number 1)
  footer      a chunk of records: the first one about the file, then one a chunk of the file,
              which says where that chunk begins (a varint field, number 1)
"""

import bisect
import itertools
import struct
from collections.abc import Sequence

from vmae_jax import storage

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 1 << 16, 24, 40


def _varint(data: bytes, place: int) -> tuple[int, int]:
  """A number and the place behind it."""
  value = shift = 0
  while True:
    byte = data[place]
    value |= (byte & 127) << shift
    place, shift = place + 1, shift + 7
    if byte < 128:
      return value, place


def _without_block_headers(data: bytes, begin: int) -> bytes:
  """The bytes of chunks in a piece of a file that begins at byte `begin`."""
  parts, place = [], 0
  while place < len(data):
    into = (begin + place) % BLOCK
    skip = max(0, BLOCK_HEADER - into)
    end = place + BLOCK - into
    parts.append(data[place + skip : end])
    place = end
  return b''.join(parts)


def _chunk_records(data: bytes, begin: int) -> list[bytes]:
  """The records of the chunk that begins at byte `begin` of its file, of which `data` follow."""
  chunk = _without_block_headers(data, begin)
  (size,) = struct.unpack_from('<Q', chunk, 8)
  kind, content = chunk[24:25], chunk[CHUNK_HEADER : CHUNK_HEADER + size]
  if kind != b'r' or len(content) != size or content[:1] != b'\0':
    raise ValueError('no chunk of uncompressed records')
  length, place = _varint(content, 1)
  sizes, values = [], place + length
  while place < values:
    number, place = _varint(content, place)
    sizes.append(number)
  ends = list(itertools.accumulate(sizes, initial=values))
  if ends[-1] != len(content):
    raise ValueError('the sizes of records are wrong')
  return [content[a:b] for a, b in itertools.pairwise(ends)]


def _first_field(record: bytes) -> int:
  if record[:1] != b'\x08':  # Field 1, a varint.
    raise ValueError('no place is given')
  return _varint(record, 1)[0]


class RangeRecords:
  """Records of several files, counted through.

  Args:
    files: Path, size and number of records of each.
  """

  def __init__(self, files: Sequence[tuple[str, int, int]]):
    self._files = list(files)
    self._ends = list(itertools.accumulate(count for _, _, count in files))
    self._places: dict[int, list[int]] = {}  # File -> where its chunks begin; last the footer.

  def _places_of(self, file: int) -> list[int]:
    if file not in self._places:  # Threads that come at once do it more than once.
      path, size, count = self._files[file]
      begin = size - BLOCK
      last, *_ = _chunk_records(storage.read(path, begin, size), begin)
      footer = _first_field(last)
      records = _chunk_records(storage.read(path, footer, begin), footer)
      places = [_first_field(record) for record in records[1:]]
      if len(places) != count:
        raise ValueError(f'{path} has {len(places)} records, not {count}')
      self._places[file] = [*places, footer]
    return self._places[file]

  def __getitem__(self, i: int) -> bytes:
    """Record i; an OSError or ValueError where there is none."""
    file = bisect.bisect_right(self._ends, i)
    path, _, count = self._files[file]
    places = self._places_of(file)
    k = i - (self._ends[file] - count)
    try:
      (record,) = _chunk_records(storage.read(path, places[k], places[k + 1]), places[k])
    except (struct.error, IndexError) as e:
      raise ValueError(str(e)) from e
    return record
