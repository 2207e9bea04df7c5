"""Calls that may never come back, such as a read from a dead network mount, with a time limit.

A thread that is stuck in the system cannot be ended. It is left alone, others take its place, and
it joins them again should it come back after all. What is stuck is asked for no second time.
"""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from vmae_jax.data.sources import Frames, Source
from vmae_jax.data.video import VideoError
from vmae_jax.errors import UserError
from vmae_jax.types import Int, UInt8

MOST_STUCK = 16  # More calls that are stuck at a time, in one process, stop the run.


class NoAnswer(VideoError):
  """A call took too long."""


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
      UserError: too many calls are stuck.
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
    call.ended.wait(self.seconds)
    with self._lock:
      self._waiting.discard(call)
      if not call.ended.is_set():
        self._stuck[i] = call
        if len(self._stuck) > MOST_STUCK:
          raise UserError(
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


class PatientSource:
  """A source whose videos are given up, as broken ones are, if they give no answer in time."""

  def __init__(self, source: Source, patience: Patience):
    self.class_names = source.class_names
    self._source, self._patience = source, patience

  def __len__(self) -> int:
    return len(self._source)

  def name(self, i: int) -> str:
    return self._source.name(i)

  def label(self, i: int) -> int:
    return self._source.label(i)

  def open(self, i: int) -> 'PatientFrames':
    name = self._source.name(i)

    def patiently(function: Callable[[], Any]) -> Any:
      return self._patience(i, name, function)

    return PatientFrames(patiently(lambda: self._source.open(i)), patiently)


class PatientFrames:
  """A video of a `PatientSource`."""

  def __init__(self, frames: Frames, patiently: Callable[[Callable[[], Any]], Any]):
    self._frames, self._patiently = frames, patiently
    self._in_use = False  # By a thread that was given up.
    self.num_frames, self.rate = frames.num_frames, frames.rate

  @property
  def height(self) -> int:
    return self._ask(lambda: self._frames.height)

  @property
  def width(self) -> int:
    return self._ask(lambda: self._frames.width)

  def read(self, indices: Sequence[int] | Int[np.ndarray, ' T']) -> UInt8[np.ndarray, 'T H W 3']:
    return self._ask(lambda: self._frames.read(indices))

  def _ask(self, function: Callable[[], Any]) -> Any:
    try:
      return self._patiently(function)
    except (NoAnswer, Closed, UserError):
      self._in_use = True
      raise

  def __enter__(self) -> 'PatientFrames':
    self._frames.__enter__()
    return self

  def __exit__(self, *exception) -> None:
    if not self._in_use:  # A decoder must not be closed while it decodes.
      self._frames.__exit__(*exception)
