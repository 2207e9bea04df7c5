"""Decoding many videos completely, in processes that may crash or hang."""

import contextlib
import functools
import hashlib
import io
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

from vmae_jax import storage
from vmae_jax.data.frame_folder import FrameFolder
from vmae_jax.data.lists import IMAGE_SUFFIXES
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import FileSource
from vmae_jax.data.video import Video
from vmae_jax.errors import UNAVAILABLE, VideoError, may_pass
from vmae_jax.prepare.pool import Lost, run_all


@dataclass(frozen=True)
class Finding:
  """The state of one video.

  `reason` says why a frame does not decode, else it is empty; `odd` has the warnings of `check`.
  """

  path: str
  reason: str = ''
  odd: str = ''
  frames: int = 0
  rate: float = 0.0
  width: int = 0
  height: int = 0
  codec: str = ''
  content_hash: str = ''
  size: int = 0


def _failed(path: str, e: VideoError | OSError, **known: Any) -> Finding | Lost:
  reason = str(e) if isinstance(e, VideoError) else e.strerror or 'cannot be read'
  return Lost(f'{UNAVAILABLE}{reason}') if may_pass(e) else Finding(path, reason=reason, **known)


def _decode(path: str, opened: Callable[[], Video | FrameFolder], **known: Any) -> Finding | Lost:
  try:
    with opened() as video:
      return Finding(
        path,
        odd='; '.join(video.check()),
        frames=video.num_frames,
        rate=video.rate,
        width=video.width,
        height=video.height,
        codec=video.codec,
        **known,
      )
  except VideoError as e:
    return _failed(path, e, **known)


def _hash(data: bytes) -> dict[str, Any]:
  return {'content_hash': hashlib.md5(data).hexdigest(), 'size': len(data)}


def examine(path: str) -> Finding | Lost:
  """Decodes all frames of a video, once, and hashes its file, or the files of its frames.

  Returns `Lost` if its disk or store does not answer.
  """
  try:
    if path.lower().endswith(('/', *IMAGE_SUFFIXES)):
      frames = FrameFolder(path)
      data = b''.join(frames.file(i) for i in range(frames.num_frames))
      return _decode(path, lambda: frames, **_hash(data))
    file = storage.video_file(path)
    with open(path, 'rb') if file is path else contextlib.nullcontext(file) as f:
      content_hash = hashlib.file_digest(f, 'md5').hexdigest()
      size = f.seek(0, io.SEEK_END)
      f.seek(0)
  except (VideoError, OSError) as e:
    return _failed(path, e)
  return _decode(path, lambda: Video(file), content_hash=content_hash, size=size)


def examine_record(source: ShardSource, i: int) -> Finding | Lost:
  """As `examine`, for a record, whose number of frames is also compared with its header."""
  name = source.name(i)
  try:
    header, data = source.read(i)
  except VideoError as e:
    return _failed(name, e)
  found = _decode(name, lambda: Video(io.BytesIO(data)), **_hash(data))
  if isinstance(found, Finding) and not found.reason and found.frames != header.frames:
    reason = f'has {found.frames} frames, its header says {header.frames}'
    return Finding(name, reason=reason, **_hash(data))
  return found


def examine_all(
  source: FileSource | ShardSource, *, known: Container[str] = (), workers: int, seconds: float
) -> Iterator[Finding]:
  """Examines every file or record in parallel; yields the findings as they come.

  Names that are `known` are left out, and a file that is named repeatedly is examined once. A
  worker that a video kills, or that takes longer than so many seconds, is replaced, and the video
  is reported. The reason begins with UNAVAILABLE if a disk or store did not answer twice.
  """
  function: Callable[[Any], Finding | Lost] = examine
  names = [source.name(i) for i in range(len(source))]
  tasks: dict[Any, str] = {name: name for name in names}
  if isinstance(source, ShardSource):
    function, tasks = functools.partial(examine_record, source), dict(enumerate(names))
  waiting = [task for task, name in tasks.items() if name not in known]
  for task, found in run_all(function, waiting, workers=workers, seconds=seconds):
    yield Finding(tasks[task], reason=str(found)) if isinstance(found, Lost) else found
