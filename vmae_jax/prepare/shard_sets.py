"""Whole sets of shards: their index and manifest, appending to them, upgrading from version 1."""

import hashlib
import itertools
import json
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader
from tqdm import tqdm

from vmae_jax import lock, storage
from vmae_jax.data import shards
from vmae_jax.data.shards import MANIFEST, PARTS, VERSION, Header, Index
from vmae_jax.errors import Unavailable, UserError, VideoError
from vmae_jax.prepare.layouts import Listed, read_json
from vmae_jax.prepare.staging import clip_id, write_shard

APPENDED = '.append'  # A folder of new shards, inside the folder that they will belong to.
Part = dict[str, Any]  # What `staging.pack` returns for a shard.


def check_plan(out: str, plan: dict[str, Any]) -> dict[str, Any] | None:
  """The manifest of a complete folder, or the plan of one that was begun; None for a new one.

  Raises:
    UserError: it holds something else than shards of this plan.
  """
  for path in (f'{out}/{MANIFEST}', f'{out}/{PARTS}/plan.json'):
    if not storage.is_file(path):
      continue
    found = read_json(path, dict)
    differ = [f'{k} {found.get(k)}, not {v}' for k, v in plan.items() if found.get(k) != v]
    if differ:
      text = '; '.join(differ)
      hint = 'give another folder, or --append to add what is new'
      raise UserError(f'{out} holds other shards ({text[:300]}): {hint}.')
    return found
  known = {PARTS, lock.NAME}
  if storage.is_folder(out) and (others := set(storage.names(out)) - known):
    raise UserError(f'{out} is not empty, it has {min(others)}: give another folder.')
  return None


def describe(plan: dict[str, Any], parts: Collection[Part]) -> tuple[Index, dict[str, Any]]:
  """The index and the manifest of these shards."""
  done = [part for part in parts if part['shard']]
  index = Index.of(
    Index.pair(Header(**header), number, offset)
    for number, part in enumerate(done)
    for header, offset in zip(part['headers'], part['offsets'], strict=True)
  )
  rows, digest = index.rows(0, len(index)), hashlib.sha256()
  for header in index:
    digest.update(f'{json.dumps(header.id)} {header.label} {header.sha256}\n'.encode())
  labels = Counter(rows['label'].tolist())
  return index, plan | {
    'records': len(index),
    'frames': int(rows['frames'].sum(dtype=int)),
    'bytes': int(rows['size'].sum()),
    'largest': [int(rows[name].max(initial=0)) for name in ('height', 'width')],
    'records_of_class': [labels[i] for i in range(len(plan['classes']))],
    'failures': [failure for part in parts for failure in part['failures']],
    'shards': [part['shard'] for part in done],
    'hash': digest.hexdigest(),
  }


def write_manifest(out: str, index: Index, manifest: dict[str, Any]) -> None:
  """Completes a folder by its index and manifest, to which it adds the name of the index."""
  data = storage.read(index.path)
  sha256 = hashlib.sha256(data).hexdigest()
  manifest['index'] = {'name': f'index-{sha256[:16]}', 'sha256': sha256}
  storage.write(f'{out}/{manifest["index"]["name"]}', data)
  text = json.dumps(manifest, indent=1, ensure_ascii=False) + '\n'
  storage.write_text(f'{out}/{MANIFEST}', text)
  _tidy(out, manifest)


def _tidy(out: str, manifest: dict[str, Any]) -> None:
  """Removes an old index and the folder of appended shards from a complete folder."""
  for name in reversed(storage.names(out)):  # APPENDED last: if it is there, the next call tidies.
    if name == APPENDED or (name.startswith('index-') and name != manifest['index']['name']):
      storage.remove(f'{out}/{name}')


def append_shards(
  write: Callable[..., dict[str, Any]],
  videos: Sequence[Listed],
  out: str,
  *,
  classes: Sequence[str],
  cut: float = 0.0,
  retry: bool = False,
  **more: Any,
) -> dict[str, Any]:
  """Adds the videos that a complete folder does not have, as further shards, after the others.

  They are written to a folder inside it and then all belong to it at once. If this is killed at any
  moment, the same call continues.

  Args:
    write: `write_shards` or a function that does the same; it gets the other arguments, too. It
      also writes `out` if that is not complete.
    videos: With or without those that the folder has.
    out: The folder.
    classes: Those of the folder, and maybe further ones after them.
    retry: Whether to try again videos that have failed.

  Raises:
    UserError: as `write`, or the folder has other classes or another encoding.
  """
  new = f'{out}/{APPENDED}'
  given = {'classes': classes, 'cut': cut, 'retry': retry} | more
  if not storage.is_file(f'{out}/{MANIFEST}'):
    return write(videos, out, **given)
  source = shards.ShardSource(out)
  old = source.manifest
  if storage.is_file(f'{new}/{MANIFEST}'):
    done = json.loads(storage.read_text(f'{new}/{MANIFEST}'))
    if done['hash'] in old.get('appended', ()):
      _tidy(out, old)
  elif not shards.holds_shards(new):  # It was killed while it removed this.
    storage.remove(new)
  if list(classes[: len(old['classes'])]) != old['classes']:
    raise UserError(f'{out} has other classes: new classes must come after them by name.')
  known = {header.id for header in source.headers}
  known |= {failure['id'] for failure in old['failures'] if not retry}
  added = [video for video in videos if (clip_id(video.id, 0) if cut else video.id) not in known]
  if not added:
    return old
  first = 1 + max(int(shard['name'][6:11]) for shard in old['shards'])
  plan = write(added, new, first=first, **given)
  differ = [name for name in ('encoding', 'cut') if plan[name] != old[name]]
  if differ:
    storage.remove(new)
    raise UserError(f'{out} has another {differ[0]}, {old[differ[0]]}: give the same options.')
  there = storage.names(new)
  for shard in plan['shards']:
    if shard['name'] in there:
      storage.move(f'{new}/{shard["name"]}', f'{out}/{shard["name"]}')
  index = Index.joined([(source.headers, 0), (shards.open_index(new, plan), len(old['shards']))])
  tried = {video.id for video in added}
  counts = itertools.zip_longest(old['records_of_class'], plan['records_of_class'], fillvalue=0)
  manifest = old | {
    'videos_hash': _hash(old['videos_hash'] + plan['videos_hash']),
    'classes': list(classes),
    'largest': [max(pair) for pair in zip(old['largest'], plan['largest'], strict=True)],
    'records_of_class': [sum(pair) for pair in counts],
    'failures': [x for x in old['failures'] if x['id'] not in tried] + plan['failures'],
    'shards': old['shards'] + plan['shards'],
    'hash': _hash(old['hash'] + plan['hash']),
    'appended': [*old.get('appended', ()), plan['hash']],
  }
  manifest |= {name: old[name] + plan[name] for name in ('records', 'frames', 'bytes')}
  manifest['videos'] = manifest['records'] + len(manifest['failures'])
  write_manifest(out, index, manifest)
  return manifest


def _hash(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def upgrade(folder: str) -> bool:
  """Rewrites the shards of version 1, ArrayRecord files; the set keeps its order and hash.

  The old files are removed at the end, so there must be room for both. If it is killed before, the
  next call starts from the beginning.

  Returns:
    False if the folder is of this version already.

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
        with tempfile.TemporaryDirectory(dir=None if remote else folder) as temp:
          if remote:
            storage.fetch(path, f'{temp}/old')
            path = f'{temp}/old'
          part = write_shard(f'{temp}/new', name, _records(path, shard['records']))
          storage.put(f'{temp}/new', f'{folder}/{name}')
        parts.append(part | {'failures': []})
      index, manifest = describe(old | {'version': VERSION}, parts)
      manifest |= {name: old[name] for name in ('failures', 'hash')}
      write_manifest(folder, index, manifest)
      for name in ('index.csv', *(shard['name'] for shard in old['shards'])):
        storage.remove(f'{folder}/{name}')
  except (VideoError, RuntimeError, ValueError, KeyError, TypeError) as e:
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
    shards.check(header, data)
    yield header, data
  reader.close()
