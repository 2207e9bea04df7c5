"""Calls that may never come back, such as a read from a dead network mount, with a time limit.

A thread that is stuck in the system cannot be ended. It is left alone, others take its place, and
it joins them again should it come back after all. What is stuck is asked for no second time.
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

TICK = 0.5  # Seconds. A process that is stopped for minutes (SIGSTOP) has waited for one tick.
# A call that takes longer than all but a thousandth of the last ones is made once more, beside it.
LATE, OF_LAST = 0.999, 4096
MOST_STUCK = 16  # More calls that are stuck at a time, in one process, stop the run.

TRY_FOR = 4.0  # Times the limit of one answer.
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0  # Seconds from one try to the next.


class NoAnswer(VideoError):
  """A call took too long."""

  errno = errno.ETIMEDOUT


class Closed(Exception):
  """The call was given up since nobody waits for it any more."""


# What is no fault of the sample that was being read.
NOT_ITS_FAULT = (UserError, Unavailable, Closed)


class _Call:
  """A call on its way: its result or exception, once `ended` is set by a thread or by `close`."""

  def __init__(self, function: Callable[[], Any]):
    self.function = function
    self.ended = threading.Event()
    self.result: Any = None
    self.error: BaseException | None = None


class Patience:
  """Calls functions in threads of its own and gives up those that take more than so many seconds.

  Another process gets one of its own: nothing but the limit is sent there.
  """

  def __init__(self, seconds: float):
    self.seconds = seconds
    self._lock = threading.Lock()
    self._idle: list[SimpleQueue] = []  # Of threads that wait for a call.
    self._waiting: set[_Call] = set()
    self._stuck: dict[int, _Call] = {}
    self._closed = False
    self._took: deque[float] = deque(maxlen=OF_LAST)  # Seconds, of calls that were answered.
    self._late, self._until_next = float('inf'), OF_LAST // 4

  def __reduce__(self):
    return Patience, (self.seconds,)

  def __call__(self, i: int, name: str, function: Callable[[], Any], *, hedge: bool = False) -> Any:
    """The function's result.

    Args:
      i: What it reads, a sample's number.
      name: The same for people.
      function: Has no arguments.
      hedge: Whether a second thread may call it, too, if it is late; the first answer counts.

    Raises:
      NoAnswer: there was none in time, or an earlier call for `i` is still stuck.
      Unavailable: too many calls are stuck.
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
      tick = min(left, TICK, max(late, 0.001))
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
    """The life of a thread: one call after the other, until None comes."""
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
      del call, result, error  # Else its frames would stay until the next one.

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


def ask_all(function: Callable[[Any], Any], names: Iterable[Any], *, seconds: float) -> list[Any]:
  """What `function`, such as a look-up of a file, says of each name, asked in 32 threads.

  Returns:
    The answers, in this order; in place of one that did not come in so many seconds the NoAnswer.

  Raises:
    Unavailable: more than MOST_STUCK did not come.
  """
  patience = Patience(seconds)

  def ask(numbered: tuple[int, Any]) -> Any:
    i, name = numbered
    try:
      return patience(i, str(name), lambda: function(name))
    except NoAnswer as e:
      return e

  with ThreadPoolExecutor(32) as pool:  # A look-up over a network is all waiting.
    try:
      return list(pool.map(ask, enumerate(names)))
    finally:
      patience.close()  # Else the pool would wait for what others have asked.


class PatientSource:
  """A source whose videos are given up, as broken ones are, if they give no answer in time."""

  def __init__(self, source: Any, patience: Patience):
    self.class_names = source.class_names
    self.largest = getattr(source, 'largest', None)
    self._given_up: set[int] = set()  # What was asked for in vain.
    self._source, self._patience = source, patience
    self._tell: Callable[[int], None] | None = None

  def telling(self, tell: Callable[[int], None]) -> 'PatientSource':
    """The same source, which calls `tell` with the number of a video before it is read."""
    told = copy.copy(self)
    told._tell = tell
    return told

  def __len__(self) -> int:
    return len(self._source)

  def name(self, i: int) -> str:
    return self._source.name(i)

  def label(self, i: int) -> int:
    return self._source.label(i)

  def open(self, i: int, **options: Any) -> Any:
    return self._source.open(i, **options)

  def ask(self, i: int, read: Callable[[], Any]) -> Any:
    """What `read`, of video i, returns; called again for a while if that may mend what failed.

    Another thread calls it as well where it is late.
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
      time.sleep(pause * random.uniform(0.5, 1.5))  # Lest all ask at once.
      pause = min(2 * pause, LAST_PAUSE)


def reason(error: Exception) -> str:
  """Why a video could not be read, in one line."""
  text = ' '.join(str(error).split())
  return text if isinstance(error, VideoError) else f'{type(error).__name__}: {text}'
