"""Writes shards, in parallel, so that it can be killed at any moment and started again.

Which video goes into which shard is fixed by its place in the list. A shard grows under a
temporary name, in the order of the list; when it is complete, first its part of the index and
then the shard itself get their names. So what has a name is complete, an unbroken run and a
broken one end in the same bytes, and at most the shards in work are done again.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from vmae_jax import storage
from vmae_jax.data.shards import (
  INDEX,
  MANIFEST,
  PARTS,
  VERSION,
  WRITER_OPTIONS,
  Header,
  pack,
  write_index,
)
from vmae_jax.data.video import VideoError
from vmae_jax.errors import UserError
from vmae_jax.prepare.encoding import Encoded, Encoding, encode_video
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.pool import Lost, run_all

# Readers keep every shard open: many fewer than the 1024 files that systems allow a process.
MOST_SHARDS, LEAST_VIDEOS = 512, 64
PILOT = 4  # Videos that are encoded to learn how much room all will take.
MARGIN = 1.1

Task = tuple[int, Listed, Encoding | None]  # Place in the list, video, how it is encoded.


def _encode(task: Task) -> Encoded | str:
  """Runs in the workers: the video or the reason why there is none."""
  _, video, encoding = task
  if video.damage:
    return video.damage
  try:
    return encode_video(video.path, encoding)
  except VideoError as e:
    return str(e)
  except OSError as e:
    return e.strerror or 'cannot be read'


@contextmanager
def _writer_errors() -> Iterator[None]:
  """Turns what ArrayRecord's writer raises into the error of the disk that it is."""
  try:
    yield
  except (RuntimeError, ValueError) as e:
    raise OSError(' '.join(str(e).split())[:200]) from e


@dataclass
class _Shard:
  """A shard that is being written: videos come in any order and go out in that of the list."""

  path: Path
  waiting: dict[int, Encoded | str] = field(default_factory=dict)
  headers: list[Header] = field(default_factory=list)
  failures: list[dict[str, str]] = field(default_factory=list)
  next: int = 0
  writer: Any = None

  def add(self, place: int, result: Encoded | str, videos: Sequence[Listed]) -> bool:
    """Takes the video at `place` of this shard's `videos`; returns whether all are there."""
    self.waiting[place] = result
    while self.next in self.waiting:
      video, got = videos[self.next], self.waiting.pop(self.next)
      self.next += 1
      if isinstance(got, str):
        self.failures.append({'id': video.id, 'reason': got})
        continue
      header = Header(
        id=video.id,
        label=video.label,
        rate=got.rate,
        frames=got.frames,
        width=got.width,
        height=got.height,
        size=len(got.data),
        sha256=got.sha256,
      )
      with _writer_errors():
        if self.writer is None:
          self.writer = ArrayRecordWriter(str(self.path), WRITER_OPTIONS)
        self.writer.write(pack(header, got.data))
      self.headers.append(header)
    return self.next == len(videos)

  def close(self) -> None:
    writer, self.writer = self.writer, None
    if writer is not None:
      with _writer_errors():
        writer.close()


def _finish(shard: _Shard, out: Path, name: str) -> None:
  """Gives a complete shard its name, and its part of the index before that."""
  shard.close()
  part: dict[str, Any] = {'shard': None, 'failures': shard.failures}
  part['headers'] = [asdict(header) for header in shard.headers]
  if shard.headers:  # Else there is no file.
    with open(shard.path, 'rb+') as f:
      os.fsync(f.fileno())
      sha256 = hashlib.file_digest(f, 'sha256').hexdigest()
    size = shard.path.stat().st_size
    part['shard'] = dict(name=name, records=len(shard.headers), size=size, sha256=sha256)
  storage.write_text(str(out / PARTS / f'{name}.json'), json.dumps(part))
  if shard.headers:
    shard.path.replace(out / name)


def _part(out: Path, name: str) -> dict[str, Any] | None:
  """What is known of a finished shard; None if it is not finished."""
  try:
    part = json.loads((out / PARTS / f'{name}.json').read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None
  return part if part['shard'] is None or (out / name).exists() else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
  """Keeps a second process from writing the same folder; a kill frees it."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f'another process is writing {folder}: wait for it or stop it.') from None
    yield
  finally:
    os.close(handle)


def _check_plan(out: Path, plan: dict[str, Any]) -> bool:
  """Whether the folder is complete; raises a UserError if it holds anything else than this."""
  for path in (out / MANIFEST, out / PARTS / 'plan.json'):
    if not path.exists():
      continue
    found = json.loads(path.read_text(encoding='utf-8'))
    differ = [f'{k} {found.get(k)}, not {v}' for k, v in plan.items() if found.get(k) != v]
    if differ:
      text = '; '.join(differ)
      raise UserError(f'{out} holds other shards ({text[:300]}): give another folder.')
    return path.name == MANIFEST
  known = {PARTS}
  if others := sorted(p.name for p in out.iterdir() if p.name not in known):
    raise UserError(f'{out} is not empty, it has {others[0]}: give another folder.')
  return False


def _check_room(out: Path, tasks: list[Task], *, workers: int, seconds: float) -> None:
  """Raises a UserError if the disk has too little room for what these videos become."""
  if not tasks:
    return

  def size(task: Task) -> int:
    try:
      return storage.size(task[1].path)
    except OSError:
      return 0

  with ThreadPoolExecutor(32) as pool:  # On network disks a look-up is all waiting.
    sizes = dict(zip((task[0] for task in tasks), pool.map(size, tasks), strict=True))
  ratio = 1.0
  if tasks[0][2] is not None:
    chosen = tasks[:: -(-len(tasks) // PILOT)]
    before = after = 0
    for task, got in run_all(_encode, chosen, workers=workers, seconds=seconds):
      if isinstance(got, Encoded):
        before, after = before + sizes[task[0]], after + len(got.data)
    ratio = after / before if before else 1.0
  needed, free = ratio * sum(sizes.values()) * MARGIN, shutil.disk_usage(out).free
  if needed > free:
    raise UserError(
      f'{out} needs about {needed / 1e9:.2f} GB more and its disk has {free / 1e9:.2f} GB: make '
      'room, give another folder, or encode smaller (--short-side, --crf).'
    )


def shard_names(videos: int, shard_videos: int) -> list[str]:
  """Names of the shards for so many videos."""
  count = -(-videos // shard_videos)
  return [f'shard-{i:05d}-of-{count:05d}.array_record' for i in range(count)]


def write_shards(
  videos: Sequence[Listed],
  out: Path,
  *,
  about: dict[str, Any],
  classes: Sequence[str],
  encoding: Encoding | None,
  shard_videos: int = 0,
  workers: int,
  seconds: float,
  write: Callable[[dict[str, Sequence[Listed]]], None] | None = None,
) -> dict[str, Any]:
  """Writes the videos of one split as shards, or goes on where a killed run was.

  Args:
    videos: In the order of the records; at least one.
    out: A folder: new, empty, or what a run with the same arguments has left.
    about: More for the manifest.
    classes: Names, may be empty.
    encoding: None keeps the files' own bytes.
    shard_videos: Videos in a shard; 0 is 64, or more where that were more than 512 shards.
    workers: Processes that encode.
    seconds: Time limit for one video.
    write: Writes the shards that are not there yet, from name to videos, instead of processes
      of this one.

  Returns:
    The manifest.

  Raises:
    UserError: the folder holds something else or cannot be written, or the disk is full.
  """
  shard_videos = shard_videos or max(LEAST_VIDEOS, -(-len(videos) // MOST_SHARDS))
  listed = ''.join(f'{json.dumps(video.id)} {video.label}\n' for video in videos)
  plan = about | {
    'version': VERSION,
    'encoding': None if encoding is None else asdict(encoding),
    'shard_videos': shard_videos,
    'videos': len(videos),
    'videos_hash': hashlib.sha256(listed.encode()).hexdigest(),
    'classes': list(classes),
  }
  names = shard_names(len(videos), shard_videos)
  try:
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
      if not _check_plan(out, plan):
        (out / PARTS).mkdir(exist_ok=True)
        storage.write_text(str(out / PARTS / 'plan.json'), json.dumps(plan))
        if write is None:
          _write_missing(videos, out, names, encoding, shard_videos, workers, seconds)
        else:
          places = (i * shard_videos for i in range(len(names)))
          parts = {k: videos[i : i + shard_videos] for k, i in zip(names, places, strict=True)}
          write({name: part for name, part in parts.items() if _part(out, name) is None})
        _write_manifest(out, plan, names)
      shutil.rmtree(out / PARTS, ignore_errors=True)
      return json.loads((out / MANIFEST).read_text(encoding='utf-8'))
  except OSError as e:
    raise UserError(
      f'{out} cannot be written ({e.strerror or e}); started again, this goes on from here.'
    ) from e


def _write_missing(
  videos: Sequence[Listed],
  out: Path,
  names: list[str],
  encoding: Encoding | None,
  shard_videos: int,
  workers: int,
  seconds: float,
) -> None:
  """Writes the shards that are not there yet."""
  tasks: list[Task] = []
  for number, name in enumerate(names):
    if _part(out, name) is None:
      places = range(number * shard_videos, min(len(videos), (number + 1) * shard_videos))
      tasks += [(i, videos[i], encoding) for i in places]
  _check_room(out, tasks, workers=workers, seconds=seconds)
  shards: dict[int, _Shard] = {}
  failed, done = 0, len(videos) - len(tasks)
  bar = tqdm(total=len(videos), initial=done, unit='video', desc=str(out), smoothing=0.05)
  try:
    with bar:
      for (i, _, _), got in run_all(_encode, tasks, workers=workers, seconds=seconds):
        got = str(got) if isinstance(got, Lost) else got
        number, place = divmod(i, shard_videos)
        name = names[number]
        if number not in shards:
          shards[number] = _Shard(out / PARTS / f'{name}.partial')
        mine = videos[number * shard_videos : (number + 1) * shard_videos]
        if shards[number].add(place, got, mine):
          _finish(shards.pop(number), out, name)
        bar.update()
        if isinstance(got, str):
          failed += 1
          bar.set_postfix(failed=failed)
  finally:
    for shard in shards.values():
      with suppress(OSError):  # A full disk, which is being told already.
        shard.close()


def _write_manifest(out: Path, plan: dict[str, Any], names: list[str]) -> None:
  """Writes the index and, when all else is there, the manifest."""
  parts = [_part(out, name) for name in names]
  headers = [Header(**header) for part in parts if part for header in part['headers']]
  index = write_index(headers)
  manifest = plan | {
    'records': len(headers),
    'frames': sum(header.frames for header in headers),
    'bytes': sum(header.size for header in headers),
    'records_of_class': [0] * len(plan['classes']),
    'failures': [failure for part in parts if part for failure in part['failures']],
    'shards': [part['shard'] for part in parts if part and part['shard']],
    'hash': hashlib.sha256(index.encode()).hexdigest(),  # It has the hash of every record.
  }
  for header in headers:
    if 0 <= header.label < len(plan['classes']):
      manifest['records_of_class'][header.label] += 1
  storage.write_text(str(out / INDEX), index)
  storage.write_text(str(out / MANIFEST), json.dumps(manifest, indent=1, ensure_ascii=False) + '\n')
