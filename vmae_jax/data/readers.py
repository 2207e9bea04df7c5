"""Threads and processes that read videos into rows of batches; no video can stop or crash them.

Each process tells which sample each of its threads opens. If it dies, by a fault in a decoder, the
samples that were open are suspects, and from then on are read one at a time. A suspect that is open
when a process dies again is the culprit, and is given up.
"""

import atexit
import collections
import contextlib
import itertools
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from vmae_jax.data.frames import Cut
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError, VideoError
from vmae_jax.patience import Closed, PatientSource
from vmae_jax.types import UInt8

MOST_DEATHS = 3  # More deaths of processes without a culprit, within NEAR visits, end the run.
NEAR = 1000


class Block:
  """Memory of a batch, which other processes can map by its file descriptor, if it has one."""

  def __init__(self, size: int, *, shared: bool):
    self.fd = -1
    if shared:  # Without a name nothing stays behind, and the limit of /dev/shm does not apply.
      if hasattr(os, 'memfd_create'):
        self.fd = os.memfd_create('clips')
      else:
        with tempfile.TemporaryFile() as file:
          self.fd = os.dup(file.fileno())
      os.ftruncate(self.fd, size)
      weakref.finalize(self, os.close, self.fd)
    self.memory = mmap.mmap(self.fd, size, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    if hasattr(mmap, 'MADV_HUGEPAGE'):  # Copying takes three quarters of the time then.
      with contextlib.suppress(OSError):  # This kernel has none.
        self.memory.madvise(mmap.MADV_HUGEPAGE)


class Row(NamedTuple):
  """One row of a batch: its array, and where that lies in which block."""

  pixels: Cut
  block: Block
  offset: int


class Memory:
  """Memory for batches, which is used again once nothing refers to it.

  A device may read a batch long after `jax.device_put` has returned, and on a CPU the array that
  it returns is that memory itself. In both cases JAX holds a reference.
  """

  def __init__(self, row: tuple[int, int, int, int], *, shared: bool):
    self.row, self.shared = row, shared
    self.row_bytes = int(np.prod(row))
    self.free: dict[int, collections.deque[Block]] = collections.defaultdict(collections.deque)

  def take(self, rows: int) -> tuple[UInt8[np.ndarray, 'b n h w 3'], list[Row]]:
    """An array of so many rows, with any content, and its rows."""
    try:
      block = self.free[rows].pop()
    except IndexError:
      block = Block(rows * self.row_bytes, shared=self.shared)
    array = np.ndarray((rows, *self.row), np.uint8, buffer=block.memory)
    weakref.finalize(array, self.free[rows].append, block).atexit = False
    return array, [Row(array[k], block, k * self.row_bytes) for k in range(rows)]


# Draws the clips of (source, epoch, sample, rows), see `vmae_jax.data.clips.ClipSampler.draw`.
Draw = Callable[[Source, int, int, Sequence[Cut]], dict[str, Any]]


class Threads:
  """Threads of this process that draw clips."""

  def __init__(self, source: Source, draw: Draw, *, threads: int):
    self._source, self._draw = source, draw
    self._pool = ThreadPoolExecutor(threads, thread_name_prefix='reader')

  def submit(self, epoch: int, sample: int, rows: Sequence[Row]) -> Future:
    """What `draw` returns, which also fills these rows."""
    return self._pool.submit(self._draw, self._source, epoch, sample, [row.pixels for row in rows])

  def close(self) -> None:
    self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(eq=False)
class _Task:
  """One visit, from `submit` until it is answered."""

  future: Future
  epoch: int
  sample: int
  rows: Sequence[Row]
  opened: int = -1  # The sample that is being read: a replacement may be another than asked for.


@dataclass(eq=False)
class _Worker:
  """A decoding process, as seen by the process that started it."""

  process: Any
  pipe: Any  # Tasks go to it; what it opens and its answers come back.
  handles: Any  # File descriptors of blocks go to it, in the order of their numbers in `blocks`.
  tasks: dict[int, _Task] = field(default_factory=dict)
  blocks: dict[Block, int] = field(default_factory=dict)


class Processes:
  """Processes that draw clips, each in several threads; those that die are started again."""

  def __init__(self, source: PatientSource, draw: Draw, *, count: int, threads: int, row):
    self.suspects: set[int] = set()  # Samples that were open when a process died.
    self.culprits: set[int] = set()  # Samples that are not opened again.
    self.deaths: list[int] = []  # The last tickets when processes died without a culprit.
    self._given = (source, draw, threads, row)
    self._tickets = itertools.count()
    self._lock = threading.RLock()
    self._error: Exception | None = None
    self._workers = [self._start() for _ in range(count)]
    atexit.register(self.close)  # Else multiprocessing would wait for them.

  def _start(self) -> _Worker:
    context = multiprocessing.get_context('spawn')
    (pipe, its_pipe), (handles, its_handles) = context.Pipe(), context.Pipe()
    process = context.Process(target=_serve, args=(its_pipe, its_handles, *self._given))
    process.daemon = True
    process.start()
    its_pipe.close()
    its_handles.close()
    worker = _Worker(process, pipe, handles)
    threading.Thread(target=self._listen, args=(worker,), name='listener', daemon=True).start()
    return worker

  def submit(self, epoch: int, sample: int, rows: Sequence[Row]) -> Future:
    """As `Threads.submit`."""
    task = _Task(Future(), epoch, sample, rows)
    with self._lock:
      if self._error is not None:
        raise self._error
      self._send(min(self._workers, key=lambda worker: len(worker.tasks)), task)
    return task.future

  def _send(self, worker: _Worker, task: _Task) -> None:
    ticket = next(self._tickets)
    worker.tasks[ticket] = task
    places = []
    try:
      for row in task.rows:
        if row.block not in worker.blocks:
          worker.blocks[row.block] = len(worker.blocks)
          reduction.send_handle(worker.handles, row.block.fd, worker.process.pid)
        places.append((worker.blocks[row.block], row.offset, len(row.block.memory)))
      about = (frozenset(self.suspects), frozenset(self.culprits))
      worker.pipe.send((ticket, task.epoch, task.sample, places, *about))
    except OSError:
      pass  # The process has died, which `_listen` finds.

  def _listen(self, worker: _Worker) -> None:
    """Receives the messages of a process until it ends."""
    try:
      while True:
        ticket, opened, answer = worker.pipe.recv()
        with self._lock:
          if answer is None:
            worker.tasks[ticket].opened = opened
            continue
          task = worker.tasks.pop(ticket)
          self.suspects.discard(task.opened)
        if isinstance(answer, BaseException):
          task.future.set_exception(answer)
        else:
          task.future.set_result(answer)
    except (EOFError, OSError):
      worker.process.join()
      with self._lock:
        self._died(worker)

  def _died(self, worker: _Worker) -> None:
    if self._error is None:
      opened = {task.opened for task in worker.tasks.values()} - {-1}
      found = opened & (self.suspects | self.culprits)
      if found:  # The others that were open are no suspects any more.
        self.culprits |= found
        self.suspects -= opened
        self.deaths = []
      else:
        self.suspects |= opened
        at = next(self._tickets)
        self.deaths = [*(death for death in self.deaths if at - death < NEAR), at]
      what = f'a decoding process died (exit code {worker.process.exitcode})'
      if len(self.deaths) > MOST_DEATHS:
        self._error = UserError(
          f'{what}, now {len(self.deaths)} times within {NEAR} videos: if memory runs out (exit '
          'code -9), lower data.workers or data.threads.'
        )
    tasks, worker.tasks = list(worker.tasks.values()), {}
    if self._error is not None:
      for task in tasks:
        task.future.set_exception(self._error)
      return
    logging.warning('%s; another is started, and no clip is lost.', what)
    new = self._workers[self._workers.index(worker)] = self._start()
    for task in tasks:
      task.opened = -1
      self._send(new, task)

  def close(self) -> None:
    """Ends the processes; the futures of their tasks raise Closed."""
    atexit.unregister(self.close)
    with self._lock:
      self._error = self._error or Closed()
      for worker in self._workers:
        worker.process.kill()
    for worker in self._workers:
      worker.process.join()


def _serve(pipe, handles, source: PatientSource, draw: Draw, threads: int, row) -> None:
  """What a decoding process runs; it ends with the process that started it."""
  for number in (signal.SIGINT, signal.SIGTERM):  # That process handles them and may save first.
    signal.signal(number, signal.SIG_IGN)
  blocks: list[mmap.mmap] = []
  sending, suspected = threading.Lock(), threading.Lock()

  def run(ticket, epoch, sample, pixels, suspects, culprits) -> None:
    alone = False

    def tell(i: int) -> None:
      nonlocal alone
      if i in culprits:
        raise VideoError('the process that decodes it dies')
      if i in suspects and not alone:
        alone = suspected.acquire()
      with sending:
        pipe.send((ticket, i, None))

    try:
      answer: Any = draw(source.telling(tell), epoch, sample, pixels)
    except BaseException as e:  # Whatever it is, the caller must see it rather than wait.
      answer = e
      try:
        pickle.loads(pickle.dumps(e))
      except Exception as why:  # Such as one whose constructor takes more than its message.
        answer = RuntimeError(f'{e!r} ({why})')
    with sending:
      pipe.send((ticket, -1, answer))
    if alone:
      suspected.release()

  pool = ThreadPoolExecutor(threads)
  try:
    while True:
      ticket, epoch, sample, places, *about = pipe.recv()
      pixels = []
      for block, offset, size in places:
        if block == len(blocks):
          fd = reduction.recv_handle(handles)
          blocks.append(mmap.mmap(fd, size))
          os.close(fd)
        pixels.append(np.ndarray(row, np.uint8, buffer=blocks[block], offset=offset))
      pool.submit(run, ticket, epoch, sample, pixels, *about)
  except (EOFError, OSError):
    os._exit(1)
