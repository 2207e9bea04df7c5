"""The stream of batches: decoded ahead by threads, already on the devices when asked for.

The stream is a function of (source, sampler, seed) and the step alone. Visits of videos are
counted globally: visit i belongs to epoch i // n, and within an epoch grain's stateless
shuffle by (seed, epoch) says which of the n videos it is, so an epoch needs no end at a
batch's end. A batch holds v = batch_size / repeats visits; step s holds the visits from
s * v to (s + 1) * v, and each process reads the share of them that its devices hold. Hence
threads, workers, devices, hosts and restarts change nothing, and the loader's whole state is
the step.

Nothing can make it wait for ever: a video that gives no answer is replaced, as a broken one is
(`vmae_jax.patience`), and decoding processes that die are started again; the video that makes
them die is replaced, too (`vmae_jax.data.guards`).
"""

import bisect
import functools
import hashlib
import queue
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from absl import flags, logging
from jax.sharding import Mesh

from vmae_jax.cores import usable_cores
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.guards import Notes, PatientSource
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.patience import Patience
from vmae_jax.sharding import batch_sharding
from vmae_jax.types import Array

DIED = 'process was terminated unexpectedly'  # In what grain says of a worker.
MOST_DEATHS = 3  # Of decoding processes, each less than NEAR visits after another.
NEAR = 1000


def _local_rows(batch_size: int, mesh: Mesh | None) -> list[int]:
  """Rows of the global batch that the devices of this process hold, in order.

  They need not follow one another: on a TPU slice the mesh goes along the chips' links, which
  enter and leave the block of chips of a host several times.
  """
  if mesh is None:
    return list(range(batch_size))
  slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  return sorted({row for rows in slices for row in range(*rows[0].indices(batch_size))})


def _visit(
  position: int,
  *,
  source: Source,
  notes: Notes,
  sampler: ClipSampler,
  order: grain.MapDataset,
  end: int | None,
  local_visits: tuple[int, ...],
  start_step: int,
  per_step: int,
) -> dict[str, Any]:
  """Draws the clips of one visit; runs in the threads, or in other processes.

  Args:
    position: Counts the visits of this process from the first one it reads.
    source: The data set.
    notes: Of samples that make a process die.
    sampler: Draws the clips.
    order: From visit to sample.
    end: The visit at which an evaluation ends; after it come black clips. None in training.
    local_visits: Which visits of a batch are this process's.
    start_step: The batch at position 0.
    per_step: Visits in a batch over all processes.
  """
  step, place = divmod(position, len(local_visits))
  i = (start_step + step) * per_step + local_visits[place]
  if end is not None and i >= end:
    shape = (sampler.repeats, sampler.frames, sampler.size, sampler.size, 3)
    clips = dict(video=np.zeros(shape, np.uint8), label=-1, replaced=False, failures=[])
    if sampler.window:
      slots = -(-sampler.frames // sampler.slot)
      clips['window'] = np.zeros((shape[0], slots, sampler.window, *shape[2:]), np.uint8)
    return dict(clips, epoch=0, sample=-1, valid=False)
  epoch, sample = i // len(source), int(order[i])
  with notes.watch(source) as watched:
    clips = sampler(watched, epoch, sample)
  valid = end is None or not clips['replaced']
  return dict(clips, epoch=epoch, sample=sample, valid=valid)


def _hash(seed: int) -> int:
  """A seed for grain, which adds the epoch to it, so that no other seed is near."""
  return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], 'little')


class Loader:
  """An iterator over batches of clips, as global arrays.

  A batch is a dict of
    video     UInt8 'b T H W 3'  RGB in [0, 255]
    window    UInt8 'b t w H W 3'  if the sampler has one: frames at the video's own rate
    label     Int32 'b'          -1 if unknown
    epoch     Int32 'b'
    sample    Int32 'b'          the video's index in the source; a replaced one keeps its own
    repeat    Int32 'b'          which of the clips cut from one decoded video
    replaced  Bool 'b'           the video could not be read, another one stands in for it
    valid     Bool 'b'           False for what evaluation must leave out, see num_steps

  Attributes:
    wait_seconds: How long the caller has waited for data in all.
    failures: From the name of each video of this process that could not be read to the
      reason, in the order in which they were met.
  """

  def __init__(
    self,
    source: Source,
    sampler: ClipSampler,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool,
    mesh: Mesh | None = None,
    start_step: int = 0,
    num_steps: int | None,
    order: str = 'hashed',
    threads: int = 0,
    workers: int = 0,
    seconds: float = 60.0,
    prefetch: int = 2,
  ):
    """Starts reading.

    Args:
      source: The data set.
      sampler: Draws the clips of one visit.
      batch_size: Clips in a batch over all devices.
      seed: For the order.
      shuffle: Whether each epoch has an order of its own.
      mesh: Where batches lie; None puts them on the default device.
      start_step: The step to go on from.
      num_steps: The step to stop before, counted from 0. None is one pass for evaluation: the
        last batch is filled up, and `valid` is False there and for replaced videos.
      order: 'hashed' by seed and epoch, or 'added': as older runs, in which epoch 1 of seed 0 has
        the order of epoch 0 of seed 1.
      threads: That decode, in each process; 0: one for each core that they may use.
      workers: Processes that decode, where Python itself is the limit; 0 decodes in this one.
      seconds: After so long without an answer a video is given up and replaced.
      prefetch: Batches that lie ready on the devices.

    Raises:
      UserError: the batch cannot be split into whole videos over the devices.
    """
    self.wait_seconds = 0.0
    self.failures: dict[str, str] = {}
    repeats, ways = sampler.repeats, 1
    if mesh is not None:
      ways = mesh.shape['data'] * mesh.shape['fsdp']
    if batch_size < 1 or batch_size % ways or batch_size % repeats:
      raise UserError(
        f'batch_size is {batch_size}: it must be divisible by the {ways} devices that hold '
        f'data and by {repeats} repeats.'
      )
    self._rows = _local_rows(batch_size, mesh)
    self._local_visits = tuple(sorted({row // repeats for row in self._rows}))
    if len(self._rows) != len(self._local_visits) * repeats:
      raise UserError(
        f'this process holds {len(self._rows)} of the {batch_size} clips of a batch, '
        f'which are not whole videos of {repeats} repeats: give each device a multiple of them.'
      )
    self._sharding = None if mesh is None else batch_sharding(mesh)
    self._batch_size = batch_size
    n, per_step = len(source), batch_size // repeats
    stop_step = -(-n // per_step) if num_steps is None else num_steps
    self._num_batches = max(0, stop_step - start_step)
    self._queue: queue.Queue = queue.Queue(maxsize=prefetch)
    self._stop = threading.Event()

    samples = grain.MapDataset.range(n)
    if shuffle:
      samples = samples.shuffle(seed=_hash(seed) if order == 'hashed' else seed)
    self._patience = Patience(seconds)
    folder = Path(tempfile.mkdtemp(prefix='vmae_jax-')) if workers else None
    self._notes = Notes(folder)
    self._visit = functools.partial(
      _visit,
      source=PatientSource(source, self._patience),
      sampler=sampler,
      order=samples,
      end=n if num_steps is None else None,
      local_visits=self._local_visits,
      start_step=start_step,
      per_step=per_step,
    )
    self._threads = threads or max(1, usable_cores() // max(1, workers))
    self._workers = workers
    self._position = 0  # Of the next visit, see `_visit`.
    self._deaths: list[int] = []  # Where the decoding processes were when one of them died.
    self._visits = self._read_from(0)
    self._thread = threading.Thread(target=self._produce, name='loader', daemon=True)
    self._thread.start()

  def _read_from(self, position: int) -> Iterator[dict[str, Any]]:
    """The visits of this process from a position on, decoded ahead."""
    visits = grain.MapDataset.range(position, self._num_batches * len(self._local_visits))
    # Clips are megabytes each: grain's default buffer of 500 would be gigabytes.
    visit = functools.partial(self._visit, notes=self._notes)
    visits = visits.map(visit).to_iter_dataset(
      grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * self._threads)
    )
    if self._workers:
      if not flags.FLAGS.is_parsed():  # Notebooks and tests: grain hands absl's flags on.
        flags.FLAGS.mark_as_parsed()
      visits = visits.mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=self._workers, per_worker_buffer_size=self._threads
        )
      )
    return iter(visits)

  def _next_visit(self) -> dict[str, Any]:
    """The next visit; starts the decoding processes again if one has died."""
    while True:
      try:
        visit = next(self._visits)
      except RuntimeError as e:
        if DIED not in str(e):
          raise
        self._start_again(e)
      else:
        self._position += 1
        self._notes = self._notes.passed(visit['sample'])
        return visit

  def _start_again(self, error: RuntimeError) -> None:
    known, self._notes = self._notes, self._notes.after_death()
    self._visits.close()
    self._notes.clear()
    if self._notes.culprits > known.culprits:  # It is explained, with that before it.
      self._deaths = []
    else:
      near = [p for p in self._deaths if self._position - p < NEAR]
      self._deaths = [*near, self._position]
    code = re.search(r'exit code (-?\d+)', str(error))
    what = f'a decoding process died (exit code {code[1] if code else "unknown"})'
    if len(self._deaths) > MOST_DEATHS:
      raise UserError(
        f'{what}, now {len(self._deaths)} times within {NEAR} videos: if memory runs out (exit '
        'code -9), lower data.workers or data.threads.'
      ) from error
    logging.warning('%s; decoding is started again, and no clip is lost.', what)
    self._visits = self._read_from(self._position)

  def __iter__(self) -> Iterator[dict[str, Array]]:
    return self

  def __next__(self) -> dict[str, Array]:
    start = time.perf_counter()
    item = self._queue.get()
    self.wait_seconds += time.perf_counter() - start
    if isinstance(item, BaseException):
      self._queue.put(item)  # Asked again, the answer is the same.
      raise item
    batch, failures = item
    for name, reason in failures:
      self.failures.setdefault(name, reason)
    return batch

  def _produce(self) -> None:
    try:
      for _ in range(self._num_batches):
        self._put(self._batch([self._next_visit() for _ in self._local_visits]))
        if self._stop.is_set():
          return
      self._put(StopIteration())
    except BaseException as e:  # Whatever it is, the caller must see it rather than wait.
      self._put(e)

  def _put(self, item: Any) -> None:
    while not self._stop.is_set():
      try:
        return self._queue.put(item, timeout=0.1)
      except queue.Full:
        pass

  def _batch(self, visits: list[dict]) -> tuple[dict[str, Array], list[tuple[str, str]]]:
    repeats = len(visits[0]['video'])
    images = [name for name in ('video', 'window') if name in visits[0]]
    rows = {name: np.concatenate([v[name] for v in visits]) for name in images}
    for name in ('label', 'epoch', 'sample'):
      rows[name] = np.repeat(np.array([v[name] for v in visits], np.int32), repeats)
    for name in ('replaced', 'valid'):
      rows[name] = np.repeat(np.array([v[name] for v in visits], bool), repeats)
    rows['repeat'] = np.tile(np.arange(repeats, dtype=np.int32), len(visits))
    return (
      {name: self._to_devices(x) for name, x in rows.items()},
      [failure for v in visits for failure in v['failures']],
    )

  def _to_devices(self, x: np.ndarray) -> Array:
    if self._sharding is None:
      return jax.device_put(x)
    shape = (self._batch_size, *x.shape[1:])

    def part(index: tuple[slice, ...]) -> np.ndarray:
      first, end, _ = index[0].indices(self._batch_size)
      place = bisect.bisect_left(self._rows, first)
      return x[place : place + end - first]

    return jax.make_array_from_callback(shape, self._sharding, part)

  def close(self) -> None:
    """Stops reading and frees threads, worker processes and batches."""
    self._stop.set()
    self._patience.close()
    self._thread.join(timeout=30)
    self._visits.close()
    self._notes.close()
    while not self._queue.empty():
      self._queue.get_nowait()
    self._queue.put(StopIteration())  # For whoever asks a closed loader.
