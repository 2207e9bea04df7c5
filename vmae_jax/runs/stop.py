"""Being asked to stop: SIGTERM from a job manager, Ctrl-C from a person."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Stop:
  """Turns SIGTERM and Ctrl-C into a question the loop asks once a step.

  With several processes JAX passes SIGTERM on, so that all stop after the same step; Ctrl-C
  counts as one. A second Ctrl-C ends the process at once.
  """

  def __enter__(self):
    self._signalled = False
    self._before = {}
    if threading.current_thread() is threading.main_thread():
      signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
      for number in signals:
        self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number, _):
    self._signalled = True
    signal.signal(number, self._before[number])
    if jax.process_count() > 1:
      signal.raise_signal(signal.SIGTERM)  # JAX has its own handler of it.

  def asked(self, step: int) -> bool:
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._signalled

  def noted(self) -> bool:
    """Whether this process alone was signalled; between steps, several cannot agree on it."""
    return self._signalled and jax.process_count() == 1
