"""Sources whose videos cannot stop a run: neither by giving no answer nor by crashing a process.

Each thread of a decoding process notes on disk which sample it has open. A sample that was open
in a process that died (by a fault in a decoder) is a suspect: in the processes that are started
in its place, suspects are read one at a time. The one that is open when a process dies again is
the culprit, and is given up.
"""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vmae_jax.data.sources import Frames, Source
from vmae_jax.data.video import Shrink
from vmae_jax.errors import Unavailable, VideoError
from vmae_jax.patience import Closed, NoAnswer, Patience
from vmae_jax.types import Int, UInt8

TRY_FOR = 4.0  # Times the limit of one answer.

_one_suspect = threading.Lock()
_watching = threading.Lock()  # Taken for good by the thread that waits for the parent's end.


class PatientSource:
  """A source whose videos are given up, as broken ones are, if they give no answer in time."""

  def __init__(self, source: Source, patience: Patience):
    self.class_names = source.class_names
    self.try_for = TRY_FOR * patience.seconds  # How long to ask again for what is away.
    self.given_up: set[int] = set()  # What was asked for so long.
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
    except (NoAnswer, Closed, Unavailable):
      self._in_use = True
      raise

  def __enter__(self) -> 'PatientFrames':
    self._frames.__enter__()
    return self

  def __exit__(self, *exception) -> None:
    if not self._in_use:  # A decoder must not be closed while it decodes.
      self._frames.__exit__(*exception)


@dataclass(frozen=True)
class Notes:
  """What decoding processes know and write; they get a copy.

  Attributes:
    folder: Of the notes, one file for each thread that has a sample open; None: no processes.
    suspects: Samples that were open when a process died.
    culprits: Samples that are not opened again.
  """

  folder: Path | None = None
  suspects: frozenset[int] = frozenset()
  culprits: frozenset[int] = frozenset()

  @contextmanager
  def watch(self, source: Source) -> Iterator[Source]:
    """The source for one visit; what it opens is noted until the visit is over.

    A decoding process ends itself when the one that started it is gone, however that ended.
    """
    if self.folder is None:
      yield source
      return
    if _watching.acquire(blocking=False):
      threading.Thread(target=_end_with_parent, daemon=True).start()
    watched = _Watched(source, self)
    try:
      yield watched
    finally:
      watched.done()

  def after_death(self) -> 'Notes':
    """What is known when a process has died; other processes may still run."""
    alive = {process.pid for process in multiprocessing.active_children()}
    notes = [note for note in self.folder.iterdir() if int(note.name.split('-')[0]) not in alive]
    opened = frozenset(int(note.read_text() or -1) for note in notes)
    found = opened & self.suspects
    # Once it is explained, the others are free of suspicion.
    return Notes(self.folder, frozenset() if found else opened, self.culprits | found)

  def passed(self, i: int) -> 'Notes':
    """What is known when a sample has come through."""
    return replace(self, suspects=self.suspects - {i}) if i in self.suspects else self

  def clear(self) -> None:
    """Removes the notes of processes that were ended."""
    for note in self.folder.iterdir():
      note.unlink(missing_ok=True)

  def close(self) -> None:
    if self.folder is not None:
      shutil.rmtree(self.folder, ignore_errors=True)


class _Watched:
  """A source that notes what is open in this thread."""

  def __init__(self, source: Source, notes: Notes):
    self._source, self._notes = source, notes
    self._note = notes.folder / f'{os.getpid()}-{threading.get_ident()}'
    self._alone = False
    self.class_names = source.class_names
    self.try_for = getattr(source, 'try_for', 0.0)
    self.given_up = getattr(source, 'given_up', set())

  def __len__(self) -> int:
    return len(self._source)

  def name(self, i: int) -> str:
    return self._source.name(i)

  def label(self, i: int) -> int:
    return self._source.label(i)

  def open(self, i: int) -> Frames:
    if i in self._notes.culprits:
      raise VideoError('the process that decodes it dies')
    if i in self._notes.suspects and not self._alone:
      self._alone = _one_suspect.acquire()
    self._note.write_text(str(i))
    return self._source.open(i)

  def done(self) -> None:
    self._note.unlink(missing_ok=True)
    if self._alone:
      _one_suspect.release()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)
