"""Time limits for calls that may never return, such as a read from a dead network mount.

A thread that hangs in a system call cannot be ended. It is left alone, and other threads take its
place; if its call returns after all, it is used again. While a call for a sample hangs, no second
call is made for that sample.
"""

import copy
import errno
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from absl import logging

from vmae_jax.errors import Unavailable, UserError, VideoError, may_pass

TICK = 0.5  # Seconds. If the process is stopped for minutes (SIGSTOP), they count as one tick.
# A call is late if it takes longer than this share of the last calls: it is then made a second
# time, in parallel.
LATE, OF_LAST = 0.999, 4096
MOST_STUCK = 16  # If more calls than this hang at a time, in one process, the run stops.

TRY_FOR = 4.0  # For how long a read is retried, in multiples of the time limit of one call.
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0  # Seconds from one attempt to the next.


class NoAnswer(VideoError):
  """A call took too long."""

  errno = errno.ETIMEDOUT


class Closed(Exception):
  """The call was abandoned by `close`."""


# Errors that do not mean that the sample is broken.
NOT_ITS_FAULT = (UserError, Unavailable, Closed)


class _Call:
  """A call in progress; its result or error is valid once a thread or `close` has set `ended`."""

  def __init__(self, function: Callable[[], Any]):
    self.function = function
    self.ended = threading.Event()
    self.result: Any = None
    self.error: BaseException | None = None


class Patience:
  """Calls functions in its own threads and gives up those that take longer than `seconds`.

  Pickling keeps the limit alone: another process starts its own threads.
  """

  def __init__(self, seconds: float):
    self.seconds = seconds
    self._lock = threading.Lock()
    self._idle: list[SimpleQueue] = []  # Of threads that wait for a call.
    self._waiting: set[_Call] = set()
    self._stuck: dict[int, _Call] = {}
    self._closed = False
    self._took: deque[float] = deque(maxlen=OF_LAST)  # Seconds that the last calls took.
    # Seconds after which a call is late, and the number of calls until that is computed again.
    self._late, self._until_next = float('inf'), OF_LAST // 4

  def __reduce__(self):
    return Patience, (self.seconds,)

  def __call__(self, i: int, name: str, function: Callable[[], Any], *, hedge: bool = False) -> Any:
    """Returns the result of `function`, or raises its exception.

    Args:
      i: The number of the sample that it reads.
      name: The name of that sample, for messages.
      function: Has no arguments.
      hedge: Whether a second thread may call it, too, if it is late; the first answer counts.

    Raises:
      NoAnswer: no answer came in time, or an earlier call for `i` still hangs.
      Unavailable: too many calls hang.
      Closed: `close` was called meanwhile.
    """
    call, began = _Call(function), time.monotonic()
    with self._lock:
      if self._closed:
        raise Closed
      if i in self._stuck:
        raise NoAnswer(f'no answer in {self.seconds:g} s')
      self._waiting.add(call)
      self._begin(call)
    late = self._late if hedge else self.seconds
    left = self.seconds
    while left > 0:
      tick = min(left, TICK, late if late > 0 else TICK)
      if call.ended.wait(tick):
        break
      left, before, late = left - tick, late, late - tick
      if before > 0 >= late and left > 0:
        with self._lock:
          self._begin(call)
    with self._lock:
      self._note(time.monotonic() - began)
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

  def _note(self, seconds: float) -> None:
    self._took.append(seconds)
    self._until_next -= 1
    if self._until_next < 0:
      self._until_next = OF_LAST // 16
      self._late = sorted(self._took)[int(LATE * len(self._took))]

  def _begin(self, call: _Call) -> None:
    (self._idle.pop() if self._idle else self._start()).put(call)

  def _start(self) -> SimpleQueue:
    calls: SimpleQueue = SimpleQueue()
    # A daemon: the process must end although the thread does not.
    threading.Thread(target=self._serve, args=(calls,), name='patience', daemon=True).start()
    return calls

  def _serve(self, calls: SimpleQueue) -> None:
    """Runs in each thread: makes one call after another, until None comes."""
    while (call := calls.get()) is not None:
      result = error = None
      try:
        result = call.function()
      except BaseException as e:  # Whatever it is, the caller must see it.
        error = e
      with self._lock:
        if not call.ended.is_set():
          call.result, call.error = result, error
          call.ended.set()
        self._stuck = {i: other for i, other in self._stuck.items() if other is not call}
        if self._closed:
          return
        self._idle.append(calls)
      del call, result, error  # Else they would stay in memory until the next call.

  def close(self) -> None:
    """Gives up all calls and ends the threads that do not hang."""
    with self._lock:
      self._closed = True
      for call in self._waiting:
        call.error = Closed()
        call.ended.set()
      for calls in self._idle:
        calls.put(None)
      self._idle.clear()


def ask_all(function: Callable[[Any], Any], names: Iterable[Any], *, seconds: float) -> list[Any]:
  """Calls `function`, such as a look-up of a file, with each name, in 32 threads.

  Returns:
    The answers in the order of `names`; a NoAnswer in place of one that took over `seconds`.

  Raises:
    Unavailable: more than MOST_STUCK calls hang.
  """
  patience = Patience(seconds)

  def ask(numbered: tuple[int, Any]) -> Any:
    i, name = numbered
    try:
      return patience(i, str(name), lambda: function(name))
    except NoAnswer as e:
      return e

  with ThreadPoolExecutor(32) as pool:  # Far above the cores: threads mostly wait for a network.
    try:
      return list(pool.map(ask, enumerate(names)))
    finally:
      patience.close()  # After an error: else the pool would wait for the other calls.


class PatientSource:
  """A source whose videos count as broken if they give no answer in time."""

  def __init__(self, source: Any, patience: Patience):
    self.class_names = source.class_names
    self.largest = getattr(source, 'largest', None)
    self._given_up: set[int] = set()  # Videos for which every attempt failed.
    self._source, self._patience = source, patience
    self._tell: Callable[[int], None] | None = None

  def telling(self, tell: Callable[[int], None]) -> 'PatientSource':
    """A copy that calls `tell` with the number of each video before it is read."""
    source = copy.copy(self)
    source._tell = tell
    return source

  def __len__(self) -> int:
    return len(self._source)

  def name(self, i: int) -> str:
    return self._source.name(i)

  def label(self, i: int) -> int:
    return self._source.label(i)

  def open(self, i: int, **options: Any) -> Any:
    return self._source.open(i, **options)

  def ask(self, i: int, read: Callable[[], Any]) -> Any:
    """Returns the result of `read`, which reads video `i`.

    An error that may be temporary is followed by further attempts; a late call is made a second
    time in parallel.
    """
    if self._tell:
      self._tell(i)
    seconds = 0.0 if i in self._given_up else TRY_FOR * self._patience.seconds
    end, pause = time.monotonic() + seconds, FIRST_PAUSE
    while True:
      try:
        return self._patience(i, self.name(i), read, hedge=True)
      except NOT_ITS_FAULT:
        raise
      except Exception as e:
        if not may_pass(e):
          raise
        if time.monotonic() + pause > end:
          self._given_up.add(i)
          raise
        logging.warning('%s: %s; trying again.', self.name(i), reason(e))
      time.sleep(pause * random.uniform(0.5, 1.5))  # So that processes do not all ask at once.
      pause = min(2 * pause, LAST_PAUSE)


def reason(error: Exception) -> str:
  """Why a video could not be read, in one line."""
  text = ' '.join(str(error).split())
  return text if isinstance(error, VideoError) else f'{type(error).__name__}: {text}'
