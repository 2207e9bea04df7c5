"""Where the numbers of a run go: WORKDIR/metrics.jsonl and TensorBoard event files.

The method names are those of clu's metric writers, which need TensorFlow; these do not.
"""

import itertools
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

# `EventFileWriter` would import TensorFlow wherever that is installed, only to open a file.
from tensorboard.summary.writer.record_writer import RecordWriter

from vmae_jax import storage
from vmae_jax.errors import UserError
from vmae_jax.runs.appended import Appended
from vmae_jax.types import UInt8
from vmae_jax.visualize.files import png

METRICS_FILE = 'metrics.jsonl'
PART = 1 << 22  # Bytes of events in one object of a bucket, after which a new one begins.


class MetricWriter:
  """Writes scalars and images of one run; on a disk each call writes at once, see `Appended`.

  metrics.jsonl has one JSON object a line: `step`, `time` (seconds since 1970) and the scalars; NaN
  and infinity are null, since JSON has neither. Images go to TensorBoard only. It is enabled in
  the main process only; in others no method does anything.
  """

  def __init__(self, workdir: str | os.PathLike, *, enabled: bool = True):
    self._enabled = enabled
    if not enabled:
      return
    self._workdir = os.fspath(workdir)
    storage.make_folder(self._workdir)
    self._path = f'{self._workdir}/{METRICS_FILE}'
    self._lines = Appended(self._path)
    if self._lines.size:  # Drops an incomplete last line, to which the next would be appended.
      self._lines.truncate(storage.read(self._path).rfind(b'\n') + 1)
    self._begin_events()

  def resume(self, step: int) -> None:
    """Drops what was written after `step`, from which training goes on: it will come again."""
    if not self._enabled:
      return
    records = _records(self._path) if self._lines.size else ()  # In a bucket nothing is there.
    kept = itertools.takewhile(lambda pair: pair[1]['step'] <= step, records)
    self._lines.truncate(sum(len(line) + 1 for line, _ in kept))  # Lines are in order.
    # TensorBoard drops what earlier files hold at this step and later.
    self._add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes numbers (Python's, NumPy's or arrays without axes) as one line."""
    if not self._enabled:
      return
    scalars = {name: float(value) for name, value in scalars.items()}
    record = {'step': int(step), 'time': round(time.time(), 3)}
    record |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
    self._lines.write(json.dumps(record, allow_nan=False).encode() + b'\n')
    self._add_summary(step, [Summary.Value(tag=k, simple_value=v) for k, v in scalars.items()])

  def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, 'H W 3']]) -> None:
    """Writes pictures by their names."""
    if self._enabled:
      self._add_summary(step, [_image_value(name, image) for name, image in images.items()])

  def flush(self) -> None:
    """Writes what waits; call it before a checkpoint is saved, so that no line can be missing."""
    if self._enabled:
      self._lines.flush()
      self._events.flush()

  def close(self) -> None:
    """Closes the files; the writer cannot be used after this."""
    if self._enabled:
      self._lines.close()
      self._events.close()

  def _add_summary(self, step: int, values: list[Summary.Value]) -> None:
    self._add_event(Event(step=int(step), summary=Summary(value=values)))

  def _begin_events(self) -> None:
    # The time to the microsecond orders the files of a run.
    name = f'events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}'
    self._events = Appended(f'{self._workdir}/{name}')
    self._records = RecordWriter(self._events)
    self._add_event(Event(file_version='brain.Event:2'))

  def _add_event(self, event: Event) -> None:
    if self._events.remote and self._events.size > PART:
      self._events.close()
      self._begin_events()
    event.wall_time = time.time()
    self._records.write(event.SerializeToString())


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads metrics.jsonl: one dict a step, in the order of steps.

  Lines of one step are merged, and later values replace earlier ones; an incomplete last line is
  left out; null is read as NaN.

  Raises:
    UserError: there is no metrics.jsonl, or a line in it is not JSON.
  """
  path = f'{os.fspath(workdir)}/{METRICS_FILE}'
  if not storage.is_file(path):
    raise UserError(f'{path}: there is no such file; give the --workdir of a run that was started.')
  steps: dict[int, dict[str, Any]] = {}
  for _, record in _records(path):
    record = {name: math.nan if value is None else value for name, value in record.items()}
    steps.setdefault(record['step'], {}).update(record)
  return [steps[step] for step in sorted(steps)]


def _records(path: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """Yields each line of the file and its record, without a last line that has no newline."""
  for number, line in enumerate(storage.read(path).split(b'\n')[:-1], 1):
    try:
      yield line, json.loads(line)
    except ValueError as e:
      raise UserError(
        f'{path}, line {number}: {line.decode(errors="replace")[:40]!r} is not JSON; repair or '
        'delete the line.'
      ) from e


def _image_value(tag: str, image: UInt8[np.ndarray, 'H W 3']) -> Summary.Value:
  sides = dict(height=image.shape[0], width=image.shape[1])
  encoded = Summary.Image(**sides, colorspace=3, encoded_image_string=png(image))
  return Summary.Value(tag=tag, image=encoded)
