"""The videos of an incomplete shard, as files, so that a restart encodes none of them again.

A worker encodes a video and writes its records to a folder as PLACE-CLIP (a film that is cut has
several), then PLACE.json, which says how many there are or why there are none. When every video
of the shard has this file, `pack` puts the records together.
"""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from typing import Any

import av

from vmae_jax import storage
from vmae_jax.data import shards
from vmae_jax.data.shards import BLOCK, END, Header
from vmae_jax.data.sources import VIDEO_SUFFIXES
from vmae_jax.errors import Unavailable, VideoError
from vmae_jax.prepare.encoding import Encoded, Encoding, cut_film, encode_video
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.pool import Lost, renew

Failure = dict[str, Any]  # reason; may_pass: true if another try may succeed; in a part also id.


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
  """A video to encode."""

  folder: str  # Its files are written here.
  place: int  # Of the video in its shard.
  video: Listed
  encoding: Encoding | None  # None keeps the file's own bytes.
  cut: float  # Seconds of each clip that it is cut into; 0 keeps it whole.


def clip_id(id: str, clip: int) -> str:
  """The name of a clip of a film: film.mp4 has film@00000.mp4, film@00001.mp4 and so on."""
  stem, suffix = os.path.splitext(id)
  if suffix.lower() not in VIDEO_SUFFIXES:
    stem, suffix = id, ''
  return f'{stem}@{clip:05d}{suffix}'


def stage(task: Task) -> int | str | Lost | OSError:
  """Runs in the workers: writes the records of a video.

  Returns:
    How many bytes its encoded clips have; the reason if it failed, which is written as well; `Lost`
    if another try may succeed; or the error of the disk that is written to.
  """
  size = 0
  try:
    for clip, got in enumerate(_encode(task)):
      if isinstance(got, Lost):
        return got
      if isinstance(got, str):
        write_failure(task, reason=got)
        return got
      if got is not None:
        header = Header(
          id=clip_id(task.video.id, clip) if task.cut else task.video.id,
          label=task.video.label,
          rate=got.rate,
          frames=got.frames,
          width=got.width,
          height=got.height,
          size=len(got.data),
          sha256=got.sha256,
        )
        storage.write(f'{task.folder}/{task.place}-{clip}', shards.pack(header, got.data))
        size += len(got.data)
      renew()
    _write_result(task.folder, task.place, {'clips': clip + 1})
  except OSError as e:
    return e
  return size


def _encode(task: Task) -> Iterator[Encoded | str | Lost | None]:
  """The clips, None for those that are there already, and at the end the reason of a failure."""
  path = task.video.path
  try:
    if task.video.damage:
      yield task.video.damage
    elif not task.cut or task.encoding is None:
      yield encode_video(path, task.encoding)
    else:
      there = set(os.listdir(task.folder))
      done = (f'{task.place}-{clip}' for clip in count())
      yield from cut_film(path, task.encoding, seconds=task.cut, done=lambda _: next(done) in there)
  except (VideoError, OSError) as e:
    reason = str(e) if isinstance(e, VideoError) else e.strerror or 'cannot be read'
    yield Lost(reason) if _may_pass(e, path) else reason
  except Exception as e:  # Libraries of stores have errors of their own.
    yield Lost(' '.join(f'{type(e).__name__}: {e}'.split())[:200])


def _may_pass(e: BaseException | None, path: str) -> bool:
  """Whether the disk, the store or the network failed, rather than the file being damaged."""
  while e is not None:
    if isinstance(e, av.FFmpegError):  # Damaged files give `Input/output error`, too.
      return storage.read_failure(path) is not None
    # Damaged pictures give an OSError, too, but without a number or a file.
    if isinstance(e, OSError) and (e.errno or e.filename):
      return not isinstance(e, storage.FINAL)
    e = e.__cause__
  return False


def _write_result(folder: str, place: int, result: dict[str, Any]) -> None:
  storage.write_text(f'{folder}/{place}.json', json.dumps(result))


def write_failure(task: Task, **failure: Any) -> None:
  """Writes why a video has failed, and removes its clips."""
  for name in os.listdir(task.folder):
    if name.startswith(f'{task.place}-'):
      os.remove(f'{task.folder}/{name}')
  _write_result(task.folder, task.place, failure)


def staged(folder: str) -> dict[int, dict[str, Any]]:
  """What is done: from the place of a video to `clips`, their number, or to the failure."""
  names = [name for name in os.listdir(folder) if name.endswith('.json')]
  return {int(name[:-5]): json.loads(storage.read_text(f'{folder}/{name}')) for name in names}


def write_shard(path: str, name: str, records: Iterable[tuple[Header, bytes]]) -> dict[str, Any]:
  """Writes a shard to the file `path`, which will be called `name` later.

  Returns:
    `headers`; `offsets`, where each video begins; and `shard`: its name, number of records, size
    and hash, or None if there is no record, and then no file.
  """
  headers, offsets, size, digest = [], [], 0, hashlib.sha256()
  with open(path, 'wb') as file:
    for header, data in records:
      piece = shards.pack(header, data)
      size += len(piece)
      headers.append(asdict(header))
      offsets.append(size - -(-len(data) // BLOCK) * BLOCK)
      digest.update(piece)
      file.write(piece)
    digest.update(END)
    file.write(END)
    file.flush()
    os.fsync(file.fileno())
  if not headers:
    os.remove(path)
  shard = dict(name=name, records=len(headers), size=size + len(END), sha256=digest.hexdigest())
  return {'shard': shard if headers else None, 'headers': headers, 'offsets': offsets}


def read_shard(path: str) -> Iterator[tuple[Header, bytes]]:
  """The records of a local shard, in their order."""
  with tarfile.open(path) as tar:
    for about, video in zip(*[iter(tar)] * 2, strict=True):
      yield Header(**json.load(tar.extractfile(about))), tar.extractfile(video).read()


def pack(folder: str, videos: Sequence[Listed], out: str, name: str) -> dict[str, Any]:
  """Packs the records of a folder, which has a result for each video, and removes the folder.

  `out`, a local folder, gets the shard, under the name that `content` gives, and then NAME.json.
  As the shard's name contains its hash, NAME.json always fits its shard, even if two workers
  write both files at the same time.

  Returns:
    What NAME.json holds: what `write_shard` returns, and the `failures`.
  """
  results = staged(folder)

  def records() -> Iterator[tuple[Header, bytes]]:
    for place in range(len(videos)):
      for clip in range(results[place].get('clips', 0)):
        try:
          header, data = shards.unpack(storage.read(f'{folder}/{place}-{clip}'))
          shards.check(header, data)
        except VideoError as e:
          os.remove(f'{folder}/{place}.json')
          os.remove(f'{folder}/{place}-{clip}')
          path = f'{folder}/{place}-{clip}'
          raise Unavailable(f'{path}: {e}; the same command writes it again.') from e
        yield header, data

  partial = f'{out}/{name}.partial'
  part = write_shard(partial, name, records())
  failed = [i for i in range(len(videos)) if 'reason' in results[i]]
  part['failures'] = [{'id': videos[i].id} | results[i] for i in failed]
  if part['shard']:
    os.replace(partial, f'{out}/{content(part)}')
  storage.write_text(f'{out}/{name}.json', json.dumps(part))
  shutil.rmtree(folder, ignore_errors=True)
  return part


def content(part: dict[str, Any]) -> str:
  """The name of a shard's file until all shards of the set are there."""
  return f'{part["shard"]["name"]}.{part["shard"]["sha256"][:16]}'


def by_place(videos: Sequence[Listed], headers: Sequence[Header], cut: float) -> list[list[Header]]:
  """The headers of each video's records, in their order; none for a video that failed."""
  found: list[list[Header]] = []
  left = iter([*headers, None])
  header = next(left)
  for video in videos:
    records: list[Header] = []
    while header and header.id == (clip_id(video.id, len(records)) if cut else video.id):
      records.append(header)
      header = next(left)
      if not cut:
        break
    found.append(records)
  return found


def reopen(
  parts: str,
  name: str,
  videos: Sequence[Listed],
  part: dict[str, Any] | None,
  *,
  cut: float,
  again: Callable[[Failure], bool],
) -> None:
  """Prepares the folder of a shard's files, in `parts`, for the videos that are missing.

  `part` is what `pack` has returned for the shard if that is packed, which this unpacks. `again`
  says whether to try a failed video again.
  """
  folder = f'{parts}/{name}'
  os.makedirs(folder, exist_ok=True)
  for place, result in staged(folder).items():
    if 'reason' in result and again(result):
      os.remove(f'{folder}/{place}.json')
  if part is None:
    return
  there, records = staged(folder), iter(())
  headers = [Header(**header) for header in part['headers']]
  failures = iter(part['failures'])
  if part['shard'] is not None:
    shard = f'{parts}/{content(part)}'
    records = read_shard(shard if os.path.exists(shard) else f'{os.path.dirname(parts)}/{name}')
  for place, clips in enumerate(by_place(videos, headers, cut)):
    failure = None if clips else next(failures)
    for clip, (header, data) in enumerate(islice(records, len(clips))):
      if place not in there:
        storage.write(f'{folder}/{place}-{clip}', shards.pack(header, data))
    if place not in there and clips:
      _write_result(folder, place, {'clips': len(clips)})
    elif place not in there and not again(failure):
      _write_result(folder, place, {k: v for k, v in failure.items() if k != 'id'})
