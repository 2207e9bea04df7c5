"""Calls a function in parallel, in processes that may crash or hang."""

import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

STARTING = 60.0  # Seconds that a worker may take to start.
_pipe: Any = None  # To the parent, in a worker.


class Lost(Exception):
  """Why a task has no result although another try may give one, in one line.

  Its worker died or took too long, or the function returned it, as for a store without an answer.
  """


def renew() -> None:
  """Restarts the time limit of a task; its function calls this when a part of it is done."""
  if _pipe is not None:
    _pipe.send((False, None))


def _serve(pipe: multiprocessing.connection.Connection, function: Callable[[Any], Any]) -> None:
  """What a worker runs: it receives tasks and sends results."""
  global _pipe
  _pipe = pipe
  threading.Thread(target=_end_with_parent, daemon=True).start()
  with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
    renew()  # The time of starting does not count.
    while True:
      pipe.send((True, function(pipe.recv())))


def _end_with_parent() -> None:
  """Ends this worker when its parent ends: else it would go on after the parent was killed."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


class _Worker:
  """A process that does one task at a time."""

  def __init__(self, function: Callable[[Any], Any]):
    context = multiprocessing.get_context('spawn')
    self.pipe, other = context.Pipe()
    self.process = context.Process(target=_serve, args=(other, function), daemon=True)
    self.process.start()
    other.close()  # Else the pipe stays open when the process dies.
    self.task: Any = None
    self.tries = 0
    self.seconds = self.deadline = 0.0

  def begin(self, task: Any, seconds: float, *, tries: int = 0, more: float = 0.0) -> None:
    self.task, self.tries, self.seconds = task, tries, seconds
    self.deadline = time.monotonic() + seconds + more
    with suppress(BrokenPipeError):  # The process died after its last task: `take` finds that.
      self.pipe.send(task)

  def take(self, ready: bool) -> tuple[bool, Any]:
    """Whether the task is over, and its result."""
    if ready:
      try:
        over, result = self.pipe.recv()
      except (EOFError, ConnectionResetError):
        self.process.join()
        return True, Lost(f'crashes the decoder (exit {self.process.exitcode})')
      if not over:
        self.deadline = time.monotonic() + self.seconds
      return over, result
    return time.monotonic() >= self.deadline, Lost(f'not decoded after {self.seconds:g} s')

  def end(self) -> None:
    self.process.kill()
    self.process.join()
    self.pipe.close()


def run_all(
  function: Callable[[Any], Any], tasks: Iterable[Any], *, workers: int, seconds: float
) -> Iterator[tuple[Any, Any]]:
  """Does tasks in parallel; yields (task, result) as they come.

  A task without a result is done once more, in a new process: the task before may have killed the
  process, or another program may have taken the memory.

  Args:
    function: A function of a module, so that other processes find it. It must not raise. If it
      returns a `Lost`, it is called once more.
    tasks: Its arguments, not None; they are started in this order.
    workers: Processes. One that dies is replaced.
    seconds: A task that takes longer, from its start or its last `renew`, is given up and its
      worker is replaced.

  Yields:
    The task and the function's result, or `Lost` if it had none twice.
  """
  waiting = iter(tasks)
  pool: list[_Worker] = []
  try:
    while len(pool) < workers and (task := next(waiting, None)) is not None:
      pool.append(_Worker(function))
      pool[-1].begin(task, seconds, more=STARTING)
    while busy := [worker for worker in pool if worker.task is not None]:
      patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
      ready = multiprocessing.connection.wait([worker.pipe for worker in busy], patience)
      for i, worker in enumerate(pool):
        if worker.task is None:
          continue
        over, result = worker.take(worker.pipe in ready)
        if not over:
          continue
        done, worker.task = worker.task, None
        more = 0.0
        if isinstance(result, Lost):
          tries = worker.tries + 1
          worker.end()
          worker, more = _Worker(function), STARTING
          pool[i] = worker
          if tries < 2:
            worker.begin(done, seconds, tries=tries, more=more)
            continue
        if (task := next(waiting, None)) is not None:  # Before the caller uses the result.
          worker.begin(task, seconds, more=more)
        yield done, result
  finally:
    for worker in pool:
      worker.end()
