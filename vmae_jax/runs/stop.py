"""Being asked to stop: SIGTERM from a job manager, Ctrl-C from a person."""

import os
import signal
import threading
from typing import Any

from vmae_jax import peers
from vmae_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED

SIGNALS = signal.SIGINT, signal.SIGTERM

_stop: 'Stop | None' = None  # Of the loop, once it has begun.
_heeding = False


def heed() -> None:
  """Ends the process when it is asked to: with 75 by SIGTERM, with 130 by Ctrl-C.

  From the first question of a `Stop` on, that one says when it ends; then a further SIGTERM is
  ignored, and a second Ctrl-C ends the process at once.

  A thread does so. Python's own handlers wait for the main thread, which may compile for minutes,
  and the exception that they raise there is lost in a callback of XLA's.
  """
  global _heeding
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  _heeding = True
  for number in SIGNALS:
    signal.signal(number, lambda *_: None)
  signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  # A child process is signalled for itself; none may be between the fork and its own handlers.
  os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_default)
  threading.Thread(target=_act, args=(reading,), name='signals', daemon=True).start()


def _block() -> None:
  signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock() -> None:
  signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _default() -> None:
  signal.set_wakeup_fd(-1)
  for number in SIGNALS:
    signal.signal(number, signal.SIG_DFL)
  _unblock()


def _act(reading: int) -> None:
  """Acts on signals; their numbers come as bytes."""
  interrupts = 0
  while True:
    for number in os.read(reading, 64):
      if number not in SIGNALS:
        continue
      interrupts += number == signal.SIGINT
      if number == signal.SIGINT and (interrupts > 1 or not _asking()):
        peers.leave(EXIT_INTERRUPTED, 'stopped: interrupted')
      if not _asking():
        peers.leave(
          EXIT_PREEMPTED,
          'stopped: there is nothing to save yet; start the same command to go on.',
        )
      if number == signal.SIGINT:
        os.write(2, b'stopping after this step; Ctrl-C once more ends at once\n')
      _stop.note()


def _asking() -> bool:
  return _stop is not None and _stop.began


class Stop:
  """Turns SIGTERM and Ctrl-C into a question the loop asks once a step; `began` once it has.

  With several processes JAX passes SIGTERM on, so that all stop after the same step; Ctrl-C
  counts as one. Without `heed`, as in a notebook, a second Ctrl-C raises KeyboardInterrupt.
  """

  def __enter__(self):
    global _stop
    self.began, self._signalled = False, False
    self._before: dict[int, Any] = {}
    if _heeding:
      _stop = self
    elif threading.current_thread() is threading.main_thread():
      signals = SIGNALS[:1] if peers.joined() else SIGNALS
      for number in signals:
        self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_):
    global _stop
    _stop = None  # What follows has nothing to save: another run of a study, or the end.
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number, _):
    signal.signal(number, self._before[number])
    self.note()

  def note(self) -> None:
    """Takes down that the process was signalled."""
    if peers.joined() and not self._signalled:
      os.kill(os.getpid(), signal.SIGTERM)  # JAX has its own handler of it.
    self._signalled = True

  def asked(self, step: int) -> bool:
    self.began = True
    if peers.joined():
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._signalled

  def noted(self) -> bool:
    """Whether this process alone was signalled; between steps, several cannot agree on it."""
    self.began = True
    return self._signalled and not peers.joined()
