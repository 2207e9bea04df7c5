"""Whole sets of shards: what is written about them, and sets of version 1 made sets of this one."""

import hashlib
import json
import struct
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader
from tqdm import tqdm

from vmae_jax import lock, storage
from vmae_jax.data.shards import MANIFEST, VERSION, Header, Index, check
from vmae_jax.errors import Unavailable, UserError, VideoError
from vmae_jax.prepare.staging import write_shard

Part = dict[str, Any]  # What `staging.pack` says of a shard.


def describe(plan: dict[str, Any], parts: Collection[Part]) -> tuple[bytes, dict[str, Any]]:
  """The index and the manifest of these shards."""
  done = [part for part in parts if part['shard']]
  rows = [
    (Header(**header), number, offset)
    for number, part in enumerate(done)
    for header, offset in zip(part['headers'], part['offsets'], strict=True)
  ]
  headers = [header for header, _, _ in rows]
  labels = Counter(header.label for header in headers)
  told = ''.join(f'{json.dumps(h.id)} {h.label} {h.sha256}\n' for h in headers)
  return Index.write(rows), plan | {
    'records': len(rows),
    'frames': sum(header.frames for header in headers),
    'bytes': sum(header.size for header in headers),
    'largest': [max((getattr(h, x) for h in headers), default=0) for x in ('height', 'width')],
    'records_of_class': [labels[i] for i in range(len(plan['classes']))],
    'failures': [failure for part in parts for failure in part['failures']],
    'shards': [part['shard'] for part in done],
    'hash': hashlib.sha256(told.encode()).hexdigest(),
  }


def write_manifest(out: str, index: bytes, manifest: dict[str, Any]) -> None:
  """Makes a folder a complete one, whatever it was before; adds to the manifest the index' name."""
  sha256 = hashlib.sha256(index).hexdigest()
  manifest['index'] = {'name': f'index-{sha256[:16]}', 'sha256': sha256}
  storage.write(f'{out}/{manifest["index"]["name"]}', index)
  text = json.dumps(manifest, indent=1, ensure_ascii=False) + '\n'
  storage.write_text(f'{out}/{MANIFEST}', text)
  for name in storage.names(out):
    if name.startswith('index-') and name != manifest['index']['name']:
      storage.remove(f'{out}/{name}')


def upgrade(folder: str) -> bool:
  """Writes the shards of version 1, ArrayRecord files, anew; order and hash of the set stay.

  The old files are removed when all is there, so there must be room for both. Killed before, the
  next call begins anew.

  Returns:
    False where nothing is to do.

  Raises:
    UserError: there is no such folder, or it is damaged.
    Unavailable: it cannot be read or written.
  """
  if not storage.is_file(f'{folder}/{MANIFEST}'):
    raise UserError(f'{folder} has no {MANIFEST}: name a folder of complete shards.')
  try:
    old = json.loads(storage.read_text(f'{folder}/{MANIFEST}'))
    if old['version'] == VERSION:
      return False
    remote, parts = storage.is_remote(folder), []
    with nullcontext() if remote else lock.held(folder):
      for shard in tqdm(old['shards'], unit='shard', desc=folder):
        path, name = f'{folder}/{shard["name"]}', f'{shard["name"][:11]}.tar'
        with tempfile.TemporaryDirectory(dir=None if remote else folder) as mine:
          if remote:
            storage.fetch(path, f'{mine}/old')
            path = f'{mine}/old'
          part = write_shard(f'{mine}/new', name, _records(path, shard['records']))
          storage.put(f'{mine}/new', f'{folder}/{name}')
        parts.append(part | {'failures': []})
      index, manifest = describe(old | {'version': VERSION}, parts)
      manifest |= {name: old[name] for name in ('failures', 'hash')}
      write_manifest(folder, index, manifest)
      for name in ('index.csv', *(shard['name'] for shard in old['shards'])):
        storage.remove(f'{folder}/{name}')
  except (VideoError, RuntimeError, ValueError, KeyError) as e:
    raise UserError(f'the shards in {folder} are damaged ({e}): prepare them anew.') from e
  except OSError as e:
    raise Unavailable(f'{folder} cannot be upgraded: {e.strerror or e}.') from e
  return True


def _records(path: str, count: int) -> Iterator[tuple[Header, bytes]]:
  reader = ArrayRecordReader(path, 'readahead_buffer_size:0,max_parallelism:0')
  for i in range(count):
    [record] = reader.read([i])
    end = 4 + struct.unpack_from('<I', record)[0]
    header, data = Header(**json.loads(record[4:end])), record[end:]
    check(header, data)
    yield header, data
  reader.close()
