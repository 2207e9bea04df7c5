"""The multi-view test: what a classifier says of each video, averaged over clips and crops.

Softmax of every view, then the mean (averaging logits instead cost VideoMAE half a point).
Each video counts once, however the work is spread. Records are written as they come, one line
a video, so that a test that was cut off goes on with the video that it had reached.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from vmae_jax.data.clips import ViewSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import Frames, Source
from vmae_jax.types import Array, Float, UInt8

Record = dict[str, Any]
TOP_CLASSES = 5  # Classes kept of each video.


class Rest:
  """The videos of a source from `first` on."""

  def __init__(self, source: Source, first: int):
    self._source, self._first = source, first
    self.class_names = source.class_names

  def __len__(self) -> int:
    return len(self._source) - self._first

  def name(self, i: int) -> str:
    return self._source.name(i + self._first)

  def label(self, i: int) -> int:
    return self._source.label(i + self._first)

  def open(self, i: int) -> Frames:
    return self._source.open(i + self._first)


def classify(
  probabilities: Callable[[UInt8[Array, 'b T H W C']], Float[Array, 'b c']],
  source: Source,
  sampler: ViewSampler,
  path: Path,
  *,
  about: dict[str, Any],
  batch_size: int,
  mesh: Mesh,
  threads: int,
  stopping: Callable[[], bool] = lambda: False,
) -> list[Record] | None:
  """Classifies every video of a source once.

  Args:
    probabilities: Of the classes of a batch of clips, over the mesh; jitted.
    source: Labelled videos.
    sampler: Cuts their views.
    path: Where records are kept: first a line with `about`, then one for each video. If it is
      there and about the same, its videos are not done again.
    about: What is tested, and how; JSON.
    batch_size: Clips at a time, raised to whole videos on whole devices.
    mesh: The devices.
    threads: That decode, in each process.
    stopping: Asked after each batch whether to leave off.

  Returns:
    For each video in the order of the source: `label`, and `best` (at most five classes, the
    most probable first) and `probability` (theirs), or `failed`, the reason why it could not
    be read. None if it was left off.
  """
  views = sampler.repeats
  about = about | {'videos': len(source), 'segments': sampler.segments, 'crops': sampler.crops}
  if main := jax.process_index() == 0:
    _prepare(path, about)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'{path} is there')
  records = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()[1:]]
  # Each device must hold as many clips, each process whole videos, wherever its devices stand.
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  whole = math.lcm(ways, views) if jax.process_count() == 1 else ways * views
  loader = Loader(
    Rest(source, len(records)),
    sampler,
    batch_size=-(-batch_size // whole) * whole,
    seed=0,
    shuffle=False,
    mesh=mesh,
    num_steps=None,
    threads=threads,
  )
  bar = tqdm(
    total=len(source),
    initial=len(records),
    desc=f'{len(source):,} videos, {sampler.segments} x {sampler.crops} views',
    unit='video',
    mininterval=0.5 if sys.stderr.isatty() else 30,  # A line each, in the log of a job.
    disable=not main,
  )
  try:
    with bar, path.open('a' if main else 'r', encoding='utf-8') as lines:
      for batch in _results(probabilities, loader, views):
        new = list(_records(batch, source, len(records), loader.failures))
        records += new
        if main:
          lines.write(''.join(json.dumps(record) + '\n' for record in new))
          lines.flush()
          os.fsync(lines.fileno())
        bar.update(len(new))
        if len(records) < len(source) and stopping():
          return None
  finally:
    loader.close()
  return records


def _prepare(path: Path, about: dict[str, Any]) -> None:
  """Leaves a file of whole lines that begins with `about`."""
  header = json.dumps(about, sort_keys=True) + '\n'
  path.parent.mkdir(exist_ok=True)
  text = path.read_bytes().decode(errors='replace') if path.exists() else ''
  if not text.startswith(header):
    path.write_text(header, encoding='utf-8')
  elif not text.endswith('\n'):  # Torn by the end of a process.
    with path.open('rb+') as file:
      file.truncate(file.read().rfind(b'\n') + 1)


def _results(probabilities, loader: Loader, views: int) -> Iterator[tuple[np.ndarray, ...]]:
  """Probabilities averaged over views, labels, and which videos are there and could be read."""

  def fetch(*arrays):
    p, *rest = multihost_utils.process_allgather(arrays, tiled=True)
    # In float64, so that the order of views makes no difference that shows.
    p = p.astype(np.float64).reshape(-1, views, p.shape[-1]).mean(axis=1)
    return p, *(x[::views] for x in rest)

  # Read one batch late, so that the devices have work while the host waits.
  pending = None
  for batch in loader:
    coming = probabilities(batch['video']), batch['label'], batch['sample'], batch['valid']
    if pending:
      yield fetch(*pending)
    pending = coming
  if pending:
    yield fetch(*pending)


def _records(batch, source: Source, first: int, failures: dict[str, str]) -> Iterator[Record]:
  """What is written of each video of a batch; what only fills it up is left out."""
  number = first
  for p, label, sample, valid in zip(*batch, strict=True):
    if sample < 0:
      continue
    record = {'label': int(label)}
    if valid:
      best = np.argsort(-p, kind='stable')[:TOP_CLASSES]
      record |= {'best': best.tolist(), 'probability': [round(float(x), 6) for x in p[best]]}
    else:  # Which of the other processes' videos failed is known, but not why.
      record['failed'] = failures.get(source.name(number), 'could not be read')
    number += 1
    yield record


def score(records: list[Record], *, classes: int) -> dict[str, int | float]:
  """Shares of the videos that could be read, in which broken ones have no part.

  Returns:
    `top1`, `top5` (if there are more than five classes), `mean_class` (the mean over classes of
    their own top-1), `videos` (all of them) and `unreadable`.
  """
  read = [record for record in records if 'best' in record]
  labels = np.array([record['label'] for record in read])
  hits = np.array([record['best'][0] == record['label'] for record in read], float)
  result = {'videos': len(records), 'unreadable': len(records) - len(read)}
  if not read:
    return result | {'top1': math.nan, 'mean_class': math.nan}
  result['top1'] = float(hits.mean())
  if classes > TOP_CLASSES:
    result['top5'] = float(np.mean([record['label'] in record['best'] for record in read]))
  own = [hits[labels == label].mean() for label in np.unique(labels)]
  return result | {'mean_class': float(np.mean(own))}


def confusion(records: list[Record], *, classes: int):
  """How many videos of each class (row) were told to be of each class (column)."""
  counts = np.zeros((classes, classes), int)
  for record in records:
    if 'best' in record:
      counts[record['label'], record['best'][0]] += 1
  return counts
