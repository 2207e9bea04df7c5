"""Stops a run on SIGTERM, which job managers send, and on Ctrl-C."""

import os
import signal
import threading
from typing import Any

from vmae_jax import peers
from vmae_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED

SIGNALS = signal.SIGINT, signal.SIGTERM

_stop: 'Stop | None' = None  # That of the training loop, while it runs.
_heeding = False


def heed() -> None:
  """Makes SIGTERM end the process with 75 and Ctrl-C with 130, at once.

  Once a `Stop` has been asked for the first time, the training loop decides when the process ends;
  then a further SIGTERM is ignored, and a second Ctrl-C ends the process at once.

  A thread handles signals. Python's own handlers wait for the main thread, which may compile for
  minutes, and an exception that they raise in a callback of XLA is lost.
  """
  global _heeding
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  _heeding = True
  for number in SIGNALS:
    signal.signal(number, lambda *_: None)
  signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  # Child processes handle their own signals; none may arrive between the fork and `_default`.
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
  """Handles signals, whose numbers come as bytes; runs in a thread."""
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
  """Notes SIGTERM and Ctrl-C for the loop, which calls `asked` after each step.

  With several processes JAX passes SIGTERM on, so that all stop after the same step; Ctrl-C counts
  as SIGTERM. Without `heed`, as in a notebook, a second Ctrl-C raises KeyboardInterrupt. `began`
  says whether the loop has called `asked` or `noted`.
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
    _stop = None  # Nothing is left to save.
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number, _):
    signal.signal(number, self._before[number])
    self.note()

  def note(self) -> None:
    """Notes that the process was signalled."""
    if peers.joined() and not self._signalled:
      os.kill(os.getpid(), signal.SIGTERM)  # For JAX's own handler.
    self._signalled = True

  def asked(self, step: int) -> bool:
    """Whether the run shall stop after this step; the same in all processes."""
    self.began = True
    if peers.joined():
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._signalled

  def noted(self) -> bool:
    """Whether this process was signalled; False if there are several, which agree in `asked`."""
    self.began = True
    return self._signalled and not peers.joined()
