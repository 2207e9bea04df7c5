"""Writes shards, in parallel, so that it can be killed at any moment and started again.

A video's place in the list decides its shard. Videos are encoded to files (`staging`), which are
packed into shards. When all shards are there, they get their names, and the folder its index and
manifest. So the bytes are the same whether a run was interrupted or not, and at most the videos in
work are encoded again.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from typing import Any

from tqdm import tqdm

from vmae_jax import lock, storage
from vmae_jax.data.shards import MANIFEST, PARTS, VERSION, open_index
from vmae_jax.errors import Unavailable, UserError
from vmae_jax.prepare import staging
from vmae_jax.prepare.encoding import Encoding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.pool import Lost, run_all
from vmae_jax.prepare.shard_sets import Part, check_plan, describe, write_manifest
from vmae_jax.prepare.staging import Failure, Task, stage

SHARD_BYTES = 1.5e9  # About so many in a shard.
FEW_VIDEOS = 64  # Up to so many are one shard, unless they are copied and large.
PILOT = 4  # Videos that are encoded first, to estimate how much room all will take.
MARGIN = 1.1  # Of this estimate.
MOST_FAILURES = 0.05  # A larger share of the videos is an error,
FEW = 3  # but never so few videos.

Shards = dict[str, Sequence[Listed]]  # From the name to the videos.


def too_many(failures: int, videos: int) -> bool:
  """Whether so many of the videos are too many to be left out."""
  return failures > max(FEW, MOST_FAILURES * videos)


def shard_names(videos: int, shard_videos: int, first: int = 0) -> list[str]:
  """Names of the shards of so many videos, numbered from `first` on."""
  return [f'shard-{first + i:05d}.tar' for i in range(-(-videos // shard_videos))]


def shard_size(
  videos: Sequence[Listed], *, encoding: Encoding | None, workers: int, seconds: float
) -> int:
  """How many videos take about SHARD_BYTES, estimated by some at equal distances in the list."""

  def some(count: int) -> list[Listed]:
    return list(videos[:: -(-len(videos) // count)])

  if encoding is None:
    with ThreadPoolExecutor(32) as pool:
      sizes = [size for size in pool.map(_size, some(256)) if size]
  elif len(videos) <= FEW_VIDEOS:
    return FEW_VIDEOS
  else:
    with tempfile.TemporaryDirectory() as folder:
      tasks = [
        Task(folder=folder, place=place, video=video, encoding=encoding, cut=0.0)
        for place, video in enumerate(some(PILOT))
      ]
      found = run_all(stage, tasks, workers=workers, seconds=seconds)
      sizes = [got for _, got in found if isinstance(got, int)]
  return max(1, round(SHARD_BYTES * len(sizes) / sum(sizes))) if sizes else FEW_VIDEOS


def write_shards(
  videos: Sequence[Listed],
  out: str | os.PathLike,
  *,
  about: dict[str, Any],
  classes: Sequence[str],
  encoding: Encoding | None,
  cut: float = 0.0,
  shard_videos: int = 0,
  first: int = 0,
  workers: int,
  seconds: float,
  retry: bool = False,
  write: Callable[[Shards], None] | None = None,
) -> dict[str, Any]:
  """Writes the videos of one split as shards, or continues a run that was killed.

  Args:
    videos: In the order of the records; at least one.
    out: A folder: new, empty, or left by a run with the same arguments.
    about: More entries of the manifest.
    classes: Names, may be empty.
    encoding: None keeps the files' own bytes.
    cut: Seconds of the clips that each video becomes, see `cut_film`; 0 keeps it whole.
    shard_videos: Videos in a shard; 0 is 1 with `cut`, else see `shard_size`.
    first: The number of the first shard.
    workers: Processes that encode.
    seconds: Time limit for one video, or one clip of it.
    retry: Tries all failed videos again, even if the shards are complete.
    write: Writes these shards as `staging.pack` does, in place of this machine's processes.

  Returns:
    The manifest. Its `failures` have `may_pass` if another try may succeed.

  Raises:
    UserError: the folder holds something else or cannot be written, or has too little room.
    Unavailable: too many videos gave no answer, or the disk is full; the same call continues.
  """
  out = os.fspath(out)
  listed = ''.join(f'{json.dumps(video.id)} {video.label}\n' for video in videos)
  plan = about | {
    'version': VERSION,
    'encoding': encoding and asdict(encoding),
    'cut': cut or None,
    'videos': len(videos),
    'videos_hash': hashlib.sha256(listed.encode()).hexdigest(),
    'classes': list(classes),
  }
  if cut or shard_videos:
    plan['shard_videos'] = shard_videos or 1
  try:
    storage.make_folder(out)
    with nullcontext() if storage.is_remote(out) else lock.held(out):
      found = check_plan(out, plan)
      manifest = found if found and 'shards' in found else None  # Else found is only a plan.
      if 'shard_videos' not in plan:
        size = functools.partial(shard_size, encoding=encoding, workers=workers, seconds=seconds)
        plan['shard_videos'] = found['shard_videos'] if found else size(videos)
      each = plan['shard_videos']
      names = shard_names(len(videos), each, first)
      shards = {name: videos[i * each : (i + 1) * each] for i, name in enumerate(names)}
      parts = _parts_of(out, manifest, shards, cut) if manifest else {}
      begun = storage.is_folder(f'{out}/{PARTS}')
      parts |= _read_parts(out) if begun else {}
      again = _again(_failures(out, parts, names), len(videos), retry)
      missing = {
        name: members
        for name, members in shards.items()
        if name not in parts or any(map(again, parts[name]['failures']))
      }
      if manifest and not begun and not missing:
        return manifest
      storage.make_folder(f'{out}/{PARTS}')
      storage.write_text(f'{out}/{PARTS}/plan.json', json.dumps(plan))
      for name, members in missing.items():
        if write is None:
          staging.reopen(f'{out}/{PARTS}', name, members, parts.get(name), cut=cut, again=again)
        if parts.pop(name, None):
          storage.remove(f'{out}/{PARTS}/{name}.json')
      if write is None:
        make_task = functools.partial(Task, encoding=encoding, cut=cut)
        failures = _failures(out, parts, names)
        _encode_missing(out, missing, failures, len(videos), make_task, workers, seconds)
      elif missing:
        write(missing)
      parts |= _read_parts(out)
      _check_answers(_failures(out, parts, names), len(videos))
      return _finish(out, plan, {name: parts[name] for name in names})
  except OSError as e:
    text = f'{out} cannot be written ({e.strerror or e})'
    if isinstance(e, storage.FINAL):
      raise UserError(f'{text}: give another folder, or the right to write there.') from e
    raise Unavailable(f'{text}; the same command continues from here.') from e


def _read_parts(out: str) -> dict[str, Part]:
  """What `staging.pack` has said of the shards that are packed."""
  there, done = set(storage.names(f'{out}/{PARTS}')), set(storage.names(out))
  names = [name for name in there if name.endswith('.json') and name != 'plan.json']
  with ThreadPoolExecutor(32) as pool:  # Network disks and buckets mostly make it wait.
    texts = pool.map(lambda name: storage.read_text(f'{out}/{PARTS}/{name}'), names)
    parts = {name[:-5]: json.loads(text) for name, text in zip(names, texts, strict=True)}
  return {
    name: part
    for name, part in parts.items()
    if part['shard'] is None or staging.content(part) in there or name in done
  }


def _parts_of(out: str, manifest: dict[str, Any], shards: Shards, cut: float) -> dict[str, Part]:
  """What `staging.pack` said of the shards of a complete folder, from its manifest and index."""
  failures, rows = iter(manifest['failures']), iter(())
  if manifest['records']:
    index = open_index(out, manifest)
    rows = zip(index, index.rows(0, len(index))['offset'].tolist(), strict=True)
  shard_of = {shard['name']: shard for shard in manifest['shards']}
  parts = {}
  for name, members in shards.items():
    shard = shard_of.get(name)
    some = list(islice(rows, shard['records'] if shard else 0))
    headers = [header for header, _ in some]
    failed = sum(not records for records in staging.by_place(members, headers, cut))
    parts[name] = {
      'shard': shard,
      'headers': [asdict(header) for header in headers],
      'offsets': [offset for _, offset in some],
      'failures': list(islice(failures, failed)),
    }
  return parts


def _failures(out: str, parts: dict[str, Part], names: Sequence[str]) -> list[Failure]:
  """All known failures, in packed shards and in others."""
  found = [failure for part in parts.values() for failure in part['failures']]
  for name in names:
    if name not in parts and os.path.isdir(folder := f'{out}/{PARTS}/{name}'):
      found += [result for result in staging.staged(folder).values() if 'reason' in result]
  return found


def _again(failures: list[Failure], videos: int, retry: bool) -> Callable[[Failure], bool]:
  """Tells which failed videos are tried again."""
  outage = too_many(sum('may_pass' in failure for failure in failures), videos)
  return lambda failure: retry or (outage and 'may_pass' in failure)


def _check_answers(failures: list[Failure], videos: int) -> None:
  """Raises `Unavailable` if too many failures may pass."""
  lost = [failure for failure in failures if 'may_pass' in failure]
  if too_many(len(lost), videos):
    raise Unavailable(
      f'{len(lost)} of {videos} videos gave no answer or killed their worker, such as '
      f'{lost[-1]["id"]} ({lost[-1]["reason"]}): is their disk or store alive, is there memory for '
      'so many --workers? The same command tries them again.'
    )


def _encode_missing(
  out: str,
  missing: Shards,
  failures: list[Failure],
  videos: int,
  make_task: Callable[..., Task],
  workers: int,
  seconds: float,
) -> None:
  """Encodes what is missing in the folders of these shards, and packs them.

  `failures` are those known before, `videos` is the number of videos of all shards, and `make_task`
  makes a task of folder, place and video.
  """
  left, tasks = {}, []
  for name, members in missing.items():
    folder = f'{out}/{PARTS}/{name}'
    there = staging.staged(folder)
    places = [place for place in range(len(members)) if place not in there]
    tasks += [make_task(folder=folder, place=place, video=members[place]) for place in places]
    left[name] = len(places)
  pilots = tasks[:: -(-len(tasks) // PILOT)] if tasks and tasks[0].encoding is not None else []
  others = [task for task in tasks if task not in pilots]
  with ThreadPoolExecutor(32) as pool:  # Network disks mostly make it wait.
    sizes = dict(zip(tasks, pool.map(_size, [task.video for task in tasks]), strict=True))
  before = after = 0
  bar = tqdm(total=videos, initial=videos - len(tasks), unit='video', desc=out, smoothing=0.05)
  with bar, ThreadPoolExecutor(1) as packer:  # In a thread, so that no worker waits for a task.

    def pack(name: str) -> Future:
      parts = f'{out}/{PARTS}'
      return packer.submit(staging.pack, f'{parts}/{name}', missing[name], parts, name)

    packing = deque(pack(name) for name in left if not left[name])
    for some in (pilots, others):
      if some is others:
        ratio = after / before if before else 1.0
        _check_room(out, ratio * sum(sizes[task] for task in others))
      for task, got in run_all(stage, some, workers=workers, seconds=seconds):
        if isinstance(got, OSError):
          raise got
        if isinstance(got, int):
          before, after = before + sizes[task], after + got
        else:
          failures.append({'id': task.video.id, 'reason': str(got)})
          bar.set_postfix(failed=len(failures))
        if isinstance(got, Lost):
          failures[-1]['may_pass'] = True
          staging.write_failure(task, reason=str(got), may_pass=True)
          _check_answers(failures, videos)
        bar.update()
        name = os.path.basename(task.folder)
        left[name] -= 1
        if not left[name]:
          packing.append(pack(name))
        while packing and packing[0].done():
          packing.popleft().result()
    for future in packing:
      future.result()


def _size(video: Listed) -> int:
  try:
    return storage.size(video.path)
  except OSError:
    return 0


def _check_room(out: str, size: float) -> None:
  """Raises a UserError if the disk has too little room for so many bytes."""
  needed, free = size * MARGIN, shutil.disk_usage(out).free
  if needed > free:
    raise UserError(
      f'{out} needs about {needed / 1e9:.2f} GB more and its disk has {free / 1e9:.2f} GB: make '
      'room, give another folder, or encode smaller (--short-side, --crf).'
    )


def _finish(out: str, plan: dict[str, Any], part_of: dict[str, Part]) -> dict[str, Any]:
  """Gives the shards their names, then writes the index and the manifest."""
  parts = part_of.values()
  index, manifest = describe(plan, parts)
  there = set(storage.names(f'{out}/{PARTS}'))
  if storage.is_file(f'{out}/{MANIFEST}'):  # From before failed videos were tried again.
    for name, part in part_of.items():
      if f'{name}.json' not in there:
        storage.write_text(f'{out}/{PARTS}/{name}.json', json.dumps(part))
    storage.remove(f'{out}/{MANIFEST}')
  for part in parts:
    if part['shard'] and staging.content(part) in there:
      storage.move(f'{out}/{PARTS}/{staging.content(part)}', f'{out}/{part["shard"]["name"]}')
  write_manifest(out, index, manifest)
  if storage.is_remote(out):
    storage.remove(f'{out}/{PARTS}')
  else:
    shutil.rmtree(f'{out}/{PARTS}', ignore_errors=True)
  return manifest
