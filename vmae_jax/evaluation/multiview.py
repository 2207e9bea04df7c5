"""The multi-view test: a classifier's predictions for each video, over several clips and crops.

Predictions are the mean of the softmax over views (the mean of logits costs VideoMAE half a point).
Each video counts once on any number of devices. Each batch's records are written at once, one line
a video, so that an interrupted test continues with the next video.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from vmae_jax import storage
from vmae_jax.data.clips import ViewSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import DataSet, Source
from vmae_jax.evaluation.features import one_behind
from vmae_jax.runs.appended import Appended
from vmae_jax.types import Array, Float, Int, UInt8

Record = dict[str, Any]
TOP_CLASSES = 5  # Classes kept of each video.


def classify(
  probabilities: Callable[[UInt8[Array, 'b T H W C']], Float[Array, 'b c']],
  source: DataSet,
  sampler: ViewSampler,
  path: str,
  *,
  about: dict[str, Any],
  batch_size: int,
  mesh: Mesh,
  threads: int,
  stopping: Callable[[], bool] = lambda: False,
) -> list[Record] | None:
  """Classifies every video of a source once.

  Args:
    probabilities: Clips -> probabilities of their classes, over the mesh; jitted.
    source: Labelled videos.
    sampler: Cuts their views.
    path: The file of records: first a line with `about`, then one for each video. If it exists
      with the same `about` and list of videos, its videos are not tested again.
    about: What is tested, and how; JSON.
    batch_size: Clips at a time, rounded up to whole videos on each device.
    stopping: Called after each batch: whether to stop.

  Returns:
    For each video in the order of the source: `label`, and `best` (at most five classes, the
    most probable first) with their `probability`, or `failed`, the reason why it could not be
    read. None if the test was stopped.
  """
  views = sampler.repeats
  about = about | {'videos': len(source), 'segments': sampler.segments, 'crops': sampler.crops}
  about['list of videos'] = source.about()  # Records are in its order and have no names.
  if main := jax.process_index() == 0:
    _prepare(path, about)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'{path} is there')
  records = [json.loads(line) for line in storage.read(path).splitlines()[1:]]
  if len(records) == len(source):
    return records
  # All devices must hold equally many clips, and each process whole videos.
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  whole = math.lcm(ways, views) if jax.process_count() == 1 else ways * views
  size = -(-batch_size // whole) * whole
  # If the batch size has changed, the first batch may begin with `known` videos.
  step, known = divmod(len(records), size // views)
  options = dict(batch_size=size, mesh=mesh, threads=threads, start_step=step)
  loader = Loader(source, sampler, seed=0, shuffle=False, num_steps=None, **options)
  bar = tqdm(
    total=len(source),
    initial=len(records),
    desc=f'{len(source):,} videos, {sampler.segments} x {sampler.crops} views',
    unit='video',
    mininterval=0.5 if sys.stderr.isatty() else 30,  # In a job's log each update is a line.
    disable=not main,
  )
  file = contextlib.closing(Appended(path)) if main else contextlib.nullcontext()
  with contextlib.closing(loader), bar, file as lines:
    for batch in _results(probabilities, loader, views):
      new = list(_records(batch, source, loader.failures))[known:]
      records, known = records + new, 0
      if main:
        lines.write(''.join(json.dumps(record) + '\n' for record in new).encode())
      bar.update(len(new))
      if len(records) < len(source) and stopping():
        return None
  return records


def _prepare(path: str, about: dict[str, Any]) -> None:
  """Makes the file with a first line `about`, or removes an incomplete last line from it."""
  header = json.dumps(about, sort_keys=True).encode() + b'\n'
  storage.make_folder(os.path.dirname(path))
  text = storage.read(path) if storage.is_file(path) else b''
  if not text.startswith(header):
    storage.write(path, header)
  elif not text.endswith(b'\n'):  # A process ended while it wrote.
    storage.write(path, text[: text.rfind(b'\n') + 1])


def _results(probabilities, loader: Loader, views: int) -> Iterator[tuple[np.ndarray, ...]]:
  """Of each batch: probabilities averaged over views, labels, indices, and which could be read."""
  started = (
    (probabilities(batch['video']), batch['label'], batch['sample'], batch['valid'])
    for batch in loader
  )
  for arrays in one_behind(started):
    p, *rest = multihost_utils.process_allgather(arrays, tiled=True)
    # In float64 the order of views makes no visible difference.
    p = p.astype(np.float64).reshape(-1, views, p.shape[-1]).mean(axis=1)
    yield p, *(x[::views] for x in rest)


def _records(batch, source: Source, failures: dict[str, str]) -> Iterator[Record]:
  """The records of a batch's videos, without the clips that only fill it up."""
  for p, label, sample, valid in zip(*batch, strict=True):
    if sample < 0:
      continue
    record = {'label': int(label)}
    if valid:
      best = np.argsort(-p, kind='stable')[:TOP_CLASSES]
      record |= {'best': best.tolist(), 'probability': [round(float(x), 6) for x in p[best]]}
    else:  # Why videos of other processes failed is not known here.
      record['failed'] = failures.get(source.name(int(sample)), 'could not be read')
    yield record


def score(records: list[Record], *, classes: int) -> dict[str, int | float]:
  """Accuracies over the videos that could be read.

  Returns:
    `top1`, `top5` (if there are more than five classes), `mean_class` (the mean over classes of the
    top-1 of each), `videos` (the number of all videos) and `unreadable` (the number of those).
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


def confusion(records: list[Record], *, classes: int) -> Int[np.ndarray, 'c c']:
  """The number of videos of each class (row) that were predicted as each class (column)."""
  counts = np.zeros((classes, classes), int)
  for record in records:
    if 'best' in record:
      counts[record['label'], record['best'][0]] += 1
  return counts
