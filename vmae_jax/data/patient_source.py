"""Sources that give up videos which give no answer in time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.sources import Frames, Source
from vmae_jax.data.video import Shrink
from vmae_jax.errors import UserError
from vmae_jax.patience import Closed, NoAnswer, Patience
from vmae_jax.types import Int, UInt8


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

  def read(
    self, indices: Sequence[int] | Int[np.ndarray, ' T'], *, shrink: Shrink | None = None
  ) -> UInt8[np.ndarray, 'T H W 3']:
    return self._ask(lambda: self._frames.read(indices, shrink=shrink))

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
