"""Calls that may never come back, such as a read from a dead network mount, with a time limit.

A thread that is stuck in the system cannot be ended. It is left alone, others take its place, and
it joins them again should it come back after all. What is stuck is asked for no second time.
"""

import errno
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from vmae_jax.errors import Unavailable, VideoError

TICK = 0.5  # Seconds. A process that is stopped for minutes (SIGSTOP) has waited for one tick.
MOST_STUCK = 16  # More calls that are stuck at a time, in one process, stop the run.


class NoAnswer(VideoError):
  """A call took too long."""

  errno = errno.ETIMEDOUT


class Closed(Exception):
  """The call was given up since nobody waits for it any more."""


class _Call:
  """A call on its way: its result or exception, once `ended` is set by a thread or by `close`."""

  def __init__(self, function: Callable[[], Any]):
    self.function = function
    self.ended = threading.Event()
    self.result: Any = None
    self.error: BaseException | None = None


class Patience:
  """Calls functions in threads of its own and gives up those that take too long.

  Another process gets one of its own: nothing but the limit is sent there.

  Args:
    seconds: That a call may take.
  """

  def __init__(self, seconds: float):
    self.seconds = seconds
    self._lock = threading.Lock()
    self._idle: list[SimpleQueue] = []  # Of threads that wait for a call.
    self._waiting: set[_Call] = set()
    self._stuck: dict[int, _Call] = {}
    self._closed = False

  def __reduce__(self):
    return Patience, (self.seconds,)

  def __call__(self, i: int, name: str, function: Callable[[], Any]) -> Any:
    """The function's result.

    Args:
      i: What it reads, a sample's number.
      name: The same for people.
      function: Has no arguments.

    Raises:
      NoAnswer: there was none in time, or an earlier call for `i` is still stuck.
      Unavailable: too many calls are stuck.
      Closed: `close` was called meanwhile.
    """
    call = _Call(function)
    with self._lock:
      if self._closed:
        raise Closed
      if i in self._stuck:
        raise NoAnswer(f'no answer in {self.seconds:g} s')
      self._waiting.add(call)
      calls = self._idle.pop() if self._idle else self._start()
    calls.put(call)
    left = self.seconds
    while left > 0 and not call.ended.wait(min(left, TICK)):
      left -= TICK
    with self._lock:
      self._waiting.discard(call)
      if not call.ended.is_set():
        self._stuck[i] = call
        if len(self._stuck) > MOST_STUCK:
          raise Unavailable(
            f'more than {MOST_STUCK} videos give no answer in {self.seconds:g} s, such as {name}: '
            'is the disk or network mount that they lie on alive? data.seconds sets the limit.'
          )
        raise NoAnswer(f'no answer in {self.seconds:g} s')
    if call.error is not None:
      raise call.error
    return call.result

  def _start(self) -> SimpleQueue:
    calls: SimpleQueue = SimpleQueue()
    # A daemon: the process must end although the thread does not.
    threading.Thread(target=self._serve, args=(calls,), name='patience', daemon=True).start()
    return calls

  def _serve(self, calls: SimpleQueue) -> None:
    """The life of a thread: one call after the other, until None comes."""
    while (call := calls.get()) is not None:
      try:
        call.result = call.function()
      except BaseException as e:  # Whatever it is, the caller must see it.
        call.error = e
      with self._lock:
        call.ended.set()
        self._stuck = {i: other for i, other in self._stuck.items() if other is not call}
        if self._closed:
          return
        self._idle.append(calls)
      del call  # Else its frames would stay until the next one.

  def close(self) -> None:
    """Gives up all calls and ends the threads that are not stuck."""
    with self._lock:
      self._closed = True
      for call in self._waiting:
        call.error = Closed()
        call.ended.set()
      for calls in self._idle:
        calls.put(None)
      self._idle.clear()


def ask_all(function: Callable[[str], Any], names: Iterable[str], *, seconds: float) -> list[Any]:
  """What `function` says of each name, asked in 32 threads.

  Args:
    function: Such as a look-up of a file.
    names: Paths, or what else it takes.
    seconds: That one answer may take.

  Returns:
    The answers, in this order; in place of one that did not come the NoAnswer.

  Raises:
    Unavailable: more than MOST_STUCK did not come.
  """
  patience = Patience(seconds)

  def ask(numbered: tuple[int, str]) -> Any:
    i, name = numbered
    try:
      return patience(i, name, lambda: function(name))
    except NoAnswer as e:
      return e

  with ThreadPoolExecutor(32) as pool:  # A look-up over a network is all waiting.
    try:
      return list(pool.map(ask, enumerate(names)))
    finally:
      patience.close()  # Else the pool would wait for what others have asked.
