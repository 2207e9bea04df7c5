"""A function called on many things at once, in processes that may crash or hang."""

import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

STARTING = 60.0  # Seconds that a worker may take to start, beside its first task.


class Lost(Exception):
  """A task whose worker died or took too long; the message is the reason, in one line."""


def _serve(pipe: multiprocessing.connection.Connection, function: Callable[[Any], Any]) -> None:
  """The life of a worker: a task comes in, a result goes out."""
  try:
    while True:
      pipe.send(function(pipe.recv()))
  except (EOFError, BrokenPipeError, KeyboardInterrupt):
    pass


class _Worker:
  """A process that does one task at a time."""

  def __init__(self, function: Callable[[Any], Any]):
    context = multiprocessing.get_context('spawn')
    self.pipe, other = context.Pipe()
    self.process = context.Process(target=_serve, args=(other, function), daemon=True)
    self.process.start()
    other.close()  # Else the pipe stays open when the process dies.
    self.task: Any = None
    self.deadline = 0.0

  def begin(self, task: Any, seconds: float) -> None:
    self.task, self.deadline = task, time.monotonic() + seconds
    self.pipe.send(task)

  def end(self) -> None:
    self.process.kill()
    self.process.join()
    self.pipe.close()


def run_all(
  function: Callable[[Any], Any], tasks: Iterable[Any], *, workers: int, seconds: float
) -> Iterator[tuple[Any, Any]]:
  """Does the tasks in parallel; yields (task, result) as they come.

  Args:
    function: Of a module, so that other processes find it. It must not raise.
    tasks: What it is called with, begun in this order; none is None.
    workers: Processes. One that dies is replaced.
    seconds: After so long a task is given up and its worker replaced.

  Yields:
    The task and the function's result, or `Lost` where there is none.
  """
  waiting = iter(tasks)
  pool: list[_Worker] = []
  try:
    while len(pool) < workers and (task := next(waiting, None)) is not None:
      pool.append(_Worker(function))
      pool[-1].begin(task, seconds + STARTING)
    while busy := [worker for worker in pool if worker.task is not None]:
      patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
      ready = multiprocessing.connection.wait([worker.pipe for worker in busy], patience)
      for i, worker in enumerate(pool):
        if worker.task is None:
          continue
        result: Any
        dead = False
        if worker.pipe in ready:
          try:
            result = worker.pipe.recv()
          except (EOFError, ConnectionResetError):
            worker.process.join()
            result = Lost(f'crashes the decoder (exit {worker.process.exitcode})')
            dead = True
        elif time.monotonic() >= worker.deadline:
          result, dead = Lost(f'not decoded after {seconds:g} s'), True
        else:
          continue
        done, worker.task = worker.task, None
        if dead:
          worker.end()
          worker = pool[i] = _Worker(function)
        if (task := next(waiting, None)) is not None:  # Before the caller uses the result.
          worker.begin(task, seconds + STARTING * dead)
        yield done, result
  finally:
    for worker in pool:
      worker.end()
