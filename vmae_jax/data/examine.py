"""Decoding many files completely, in processes that may crash or hang."""

import hashlib
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmae_jax.data.video import Video, VideoError

STARTING = 60.0  # Seconds that a worker may take to start, beside its first file.


@dataclass(frozen=True)
class Finding:
  """What is known of one file; `reason` is empty if every frame decodes."""

  path: str
  reason: str = ''
  frames: int = 0
  rate: float = 0.0
  width: int = 0
  height: int = 0
  codec: str = ''
  content_hash: str = ''


def examine(path: str) -> Finding:
  """Decodes all frames of a video, once, and hashes the file."""
  try:
    with open(path, 'rb') as f:
      content_hash = hashlib.file_digest(f, 'md5').hexdigest()
  except OSError as e:
    return Finding(path, reason=e.strerror or 'cannot be read')
  try:
    with Video(path) as video:
      video.check()
      return Finding(
        path,
        frames=video.num_frames,
        rate=video.rate,
        width=video.width,
        height=video.height,
        codec=video.codec,
        content_hash=content_hash,
      )
  except VideoError as e:
    return Finding(path, reason=str(e), content_hash=content_hash)


def _serve(pipe: multiprocessing.connection.Connection) -> None:
  """The life of a worker: a path comes in, a finding goes out."""
  try:
    while True:
      pipe.send(examine(pipe.recv()))
  except (EOFError, KeyboardInterrupt):
    pass


class _Worker:
  """A process that examines one file at a time."""

  def __init__(self):
    context = multiprocessing.get_context('spawn')
    self.pipe, other = context.Pipe()
    self.process = context.Process(target=_serve, args=(other,), daemon=True)
    self.process.start()
    other.close()  # Else the pipe stays open when the process dies.
    self.path: str | None = None
    self.deadline = 0.0

  def begin(self, path: str, seconds: float) -> None:
    self.path, self.deadline = path, time.monotonic() + seconds
    self.pipe.send(path)

  def end(self) -> None:
    self.process.kill()
    self.process.join()
    self.pipe.close()


def examine_all(paths: Sequence[str], *, workers: int, seconds: float) -> Iterator[Finding]:
  """Examines files in parallel; yields the findings as they come.

  Args:
    paths: The files.
    workers: Processes. One that dies of a file is replaced, and the file is reported.
    seconds: After so long a file is given up and its worker replaced.
  """
  waiting = list(reversed(paths))
  pool = [_Worker() for _ in range(min(workers, len(paths)))]
  try:
    for worker in pool:
      worker.begin(waiting.pop(), seconds + STARTING)
    while busy := [worker for worker in pool if worker.path is not None]:
      patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
      ready = multiprocessing.connection.wait([worker.pipe for worker in busy], patience)
      for i, worker in enumerate(pool):
        if worker.path is None:
          continue
        dead = False
        if worker.pipe in ready:
          try:
            yield worker.pipe.recv()
          except EOFError:
            worker.process.join()
            yield Finding(worker.path, f'crashes the decoder (exit {worker.process.exitcode})')
            dead = True
        elif time.monotonic() >= worker.deadline:
          yield Finding(worker.path, f'not decoded after {seconds:g} s')
          dead = True
        else:
          continue
        if dead:
          worker.end()
          worker = pool[i] = _Worker()
        worker.path = None
        if waiting:
          worker.begin(waiting.pop(), seconds + STARTING * dead)
  finally:
    for worker in pool:
      worker.end()
