"""A trace of a few steps: what the host and the devices did, and when."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from vmae_jax import storage

STEPS = 3  # Consecutive ones, as the first of them may be an odd one out.


class StepProfile:
  """Traces `STEPS` steps of a run, in the form that TensorBoard and Perfetto read.

  Traces lie in WORKDIR/plugins/profile, one for each process; they begin with the step `first`, or
  there is none if that is 0.
  """

  def __init__(self, workdir: str, first: int):
    self._workdir, self._first = workdir, first
    self._on: tempfile.TemporaryDirectory | None = None  # JAX writes to no bucket.

  @contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Around the start of a step: begins the trace, if it is due, and marks the step in it."""
    if number == self._first:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # Every call in Python would make it a hundred times larger.
      self._on = tempfile.TemporaryDirectory()
      jax.profiler.start_trace(self._on.name, profiler_options=options)
    with jax.profiler.StepTraceAnnotation('train', step_num=number):
      yield

  def after(self, number: int, results: Any) -> None:
    """Ends the trace once `results`, the last step's, are there."""
    if self._on and number >= self._first + STEPS - 1:
      jax.block_until_ready(results)
      self.close()

  def close(self) -> None:
    """Ends a trace that the run did not see the end of."""
    if self._on is not None:
      jax.profiler.stop_trace()
      with self._on as folder:
        for name in storage.walk(folder):
          storage.make_folder(f'{self._workdir}/{os.path.dirname(name)}')
          storage.write(f'{self._workdir}/{name}', storage.read(f'{folder}/{name}'))
      self._on = None
