"""Where the numbers of a run go: WORKDIR/metrics.jsonl and TensorBoard event files.

The method names are those of clu's metric writers, which need TensorFlow; these do not.
"""

import io
import itertools
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

# `EventFileWriter` would import TensorFlow wherever that is installed, only to open a file.
from tensorboard.summary.writer.record_writer import RecordWriter

from vmae_jax.errors import UserError
from vmae_jax.types import UInt8

METRICS_FILE = 'metrics.jsonl'
_MOST_LATE = 1 << 26  # Bytes that wait for room on the disk.


class MetricWriter:
  """Writes scalars, images and text of one run, each call at once.

  metrics.jsonl has one JSON object a line: `step`, `time` (seconds since 1970) and the
  scalars; NaN and infinity are null there, since JSON has neither. Images and text go to
  TensorBoard only.

  Args:
    workdir: The run's folder; made if it is missing.
    enabled: False on all processes but the main one: then no call does anything.
  """

  def __init__(self, workdir: str | os.PathLike, *, enabled: bool = True):
    self._enabled = enabled
    if not enabled:
      return
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / METRICS_FILE
    _cut_torn_line(self._path)
    self._lines = _Appended(self._path)
    # The time to the microsecond orders the files of a run that was resumed.
    name = f'events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}'
    self._file = _Appended(workdir / name)
    self._records = RecordWriter(self._file)
    self._add_event(Event(file_version='brain.Event:2'))

  def resume(self, step: int) -> None:
    """Forgets what was written after `step`, the one that training goes on from.

    The steps between the last checkpoint and the end of the earlier process are done
    again.
    """
    if not self._enabled:
      return
    kept = itertools.takewhile(lambda pair: pair[1]['step'] <= step, _records(self._path))
    os.truncate(self._path, sum(len(line.encode()) for line, _ in kept))  # Lines are in order.
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

  def write_images(
    self,
    step: int,
    images: Mapping[str, UInt8[np.ndarray, 'H W 3'] | UInt8[np.ndarray, 'N H W 3']],
  ) -> None:
    """Writes pictures: one, or N of one size that become `name/0`, `name/1`, ..."""
    if not self._enabled:
      return
    values = []
    for name, image in images.items():
      if image.ndim == 3:
        values.append(_image_value(name, image))
      else:
        values += [_image_value(f'{name}/{i}', one) for i, one in enumerate(image)]
    self._add_summary(step, values)

  def write_text(self, step: int, texts: Mapping[str, str]) -> None:
    """Writes texts, which TensorBoard shows as Markdown."""
    if not self._enabled:
      return
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name='text'))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    values = []
    for name, text in texts.items():
      tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
      values.append(Summary.Value(tag=name, metadata=metadata, tensor=tensor))
    self._add_summary(step, values)

  def close(self) -> None:
    """Closes the files; the writer can't be used after this."""
    if self._enabled:
      self._lines.close()
      self._file.close()

  def _add_summary(self, step: int, values: list[Summary.Value]) -> None:
    self._add_event(Event(step=int(step), summary=Summary(value=values)))

  def _add_event(self, event: Event) -> None:
    event.wall_time = time.time()
    self._records.write(event.SerializeToString())


class _Appended:
  """A file to append to, which each write reaches at once.

  What a full disk does not take is kept and written later; that it lacks is told once.
  """

  def __init__(self, path: Path):
    self._path, self._late, self._told = path, bytearray(), False
    self._file = path.open('ab', buffering=0)

  def write(self, data: bytes) -> None:
    if len(self._late) < _MOST_LATE:  # All of a line or record, or nothing.
      self._late += data
    try:
      while self._late:
        del self._late[: self._file.write(self._late)]
    except OSError as e:
      if not self._told:
        logging.error('%s cannot be written: %s. The run goes on.', self._path, e.strerror)
      self._told = True

  def close(self) -> None:
    self.write(b'')
    self._file.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads metrics.jsonl: one dict a step, in the order of steps.

  Lines of one step are merged, later ones win; a torn last line is left out; null is read
  as NaN.

  Raises:
    UserError: there is no metrics.jsonl, or a line in it is no JSON.
  """
  path = Path(workdir) / METRICS_FILE
  if not path.exists():
    raise UserError(f'{path}: there is no such file; give the --workdir of a run that was started.')
  steps: dict[int, dict[str, Any]] = {}
  for _, record in _records(path):
    record = {name: math.nan if value is None else value for name, value in record.items()}
    steps.setdefault(record['step'], {}).update(record)
  return [steps[step] for step in sorted(steps)]


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields each whole line of the file with what it says."""
  with path.open(encoding='utf-8') as lines:
    for number in itertools.count(1):
      line = lines.readline()
      if not line.endswith('\n'):  # The end, or a line torn by the end of a process.
        return
      try:
        yield line, json.loads(line)
      except json.JSONDecodeError as e:
        raise UserError(
          f'{path}, line {number}: {line.strip()[:40]!r} is no JSON; repair or delete the line.'
        ) from e


def _cut_torn_line(path: Path) -> None:
  """Cuts what follows the last newline, else the next line would be glued to it."""
  if path.exists():
    with path.open('rb+') as file:
      file.truncate(file.read().rfind(b'\n') + 1)


def _image_value(tag: str, image: UInt8[np.ndarray, 'H W 3']) -> Summary.Value:
  png = io.BytesIO()
  Image.fromarray(image).save(png, format='png')
  height, width, _ = image.shape
  encoded = Summary.Image(
    height=height, width=width, colorspace=3, encoded_image_string=png.getvalue()
  )
  return Summary.Value(tag=tag, image=encoded)
