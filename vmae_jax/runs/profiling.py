"""A trace of a few steps: what the host and the devices did, and when."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from vmae_jax import storage

STEPS = 3  # Consecutive steps; the first may be unusual.


class StepProfile:
  """Traces `STEPS` steps of a run, from the step `first` on, for TensorBoard or Perfetto.

  Each process writes one trace to WORKDIR/plugins/profile; there is none if `first` is 0.
  """

  def __init__(self, workdir: str, first: int):
    self._workdir, self._first = workdir, first
    self._on: tempfile.TemporaryDirectory | None = None  # JAX cannot write to buckets.

  @contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Surrounds the start of a step: begins the trace if it is due, and marks the step in it."""
    if number == self._first:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # Python calls would make it a hundred times larger.
      self._on = tempfile.TemporaryDirectory()
      jax.profiler.start_trace(self._on.name, profiler_options=options)
    with jax.profiler.StepTraceAnnotation('train', step_num=number):
      yield

  def after(self, number: int, results: Any) -> None:
    """Ends the trace after its last step, whose `results` it waits for."""
    if self._on and number >= self._first + STEPS - 1:
      jax.block_until_ready(results)
      self.close()

  def close(self) -> None:
    """Ends and stores the trace, if one has begun."""
    if self._on is not None:
      jax.profiler.stop_trace()
      with self._on as folder:
        for name in storage.walk(folder):
          storage.make_folder(f'{self._workdir}/{os.path.dirname(name)}')
          storage.write(f'{self._workdir}/{name}', storage.read(f'{folder}/{name}'))
      self._on = None
