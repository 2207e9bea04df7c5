"""The stream of batches: threads read ahead, so that batches lie on the devices when asked for.

What is cut out of videos is written once, into the memory of a batch. Each device gets its rows of
that memory and resizes them.

The stream is a function of (source, sampler, seed) and the step alone. Visits of videos are
counted globally: visit i belongs to epoch i // n, and within an epoch grain's stateless
shuffle by (seed, epoch) says which of the n videos it is, so an epoch may end within a batch.
A batch holds v = batch_size / repeats visits; step s holds the visits from s * v to
(s + 1) * v, and each process reads the share of them that its devices hold. Hence threads,
workers, devices, hosts and restarts change nothing, and the loader's whole state is the step.
If several sets have weights, each has its own epochs and order (`vmae_jax.data.mixture`).

Nothing can make it wait for ever: a video that gives no answer is replaced, as a broken one is
(`vmae_jax.patience`). Decoding processes that die are started again, and a video that makes them
die is replaced, too (`vmae_jax.data.readers`).
"""

import collections
import functools
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vmae_jax.cores import usable_cores
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.crop import resize_batch
from vmae_jax.data.mixture import turns
from vmae_jax.data.readers import Memory, Processes, Threads
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.patience import Patience, PatientSource
from vmae_jax.sharding import batch_sharding
from vmae_jax.types import Array

CORES = 12  # For each decoding process, where there are several.


def _local_parts(batch_size: int, mesh: Mesh | None) -> dict[tuple[int, int], list]:
  """The devices of this process, by (first row, end) of the part of a batch that they hold.

  Parts need not follow one another: on a TPU slice the mesh follows the chips' links, which enter
  and leave the block of chips of a host several times.
  """
  if mesh is None:
    return {(0, batch_size): [None]}
  parts = collections.defaultdict(list)
  places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  for device, (rows,) in places.items():
    parts[rows.indices(batch_size)[:2]].append(device)
  return dict(sorted(parts.items()))


# Epoch, sample, and what is drawn of it; sample -1 and None after the last one.
Visit = tuple[int, int, Future | None]


# Numbers about each clip of a batch, in one array of int32: how many columns each takes.
COLUMNS = {'label': 1, 'epoch': 1, 'sample': 1, 'repeat': 1, 'replaced': 1, 'valid': 1, 'box': 5}


@functools.cache
def _finish(sampler: ClipSampler, mesh: Mesh | None) -> Callable[..., dict[str, Array]]:
  """The program that makes a batch of what was copied to the devices."""
  sharding = None if mesh is None else batch_sharding(mesh)
  return jax.jit(functools.partial(_batch_of, sampler=sampler, mesh=mesh), out_shardings=sharding)


def _batch_of(pixels, numbers, *, sampler: ClipSampler, mesh: Mesh | None) -> dict[str, Array]:
  ends = np.cumsum([*COLUMNS.values()])
  *columns, rest = jnp.split(numbers, ends, axis=1)
  places, moved = jnp.split(rest, [sampler.places], axis=1)
  batch = {name: x[:, 0] for name, x in zip(COLUMNS, columns, strict=True)}
  batch |= {name: batch[name].astype(bool) for name in ('replaced', 'valid')}
  batch.pop('box')
  if sampler.vectors:
    batch['times'], moved = jnp.split(moved, [sampler.places], axis=1)
    moved = moved.reshape(len(moved), sampler.places, sampler.vectors, sampler.vectors)
    batch['vectors'] = jax.lax.bitcast_convert_type(moved, jnp.float16)
  options = dict(size=sampler.size, resampling=sampler.resampling, mesh=mesh)
  return batch | sampler.arrange(resize_batch(pixels, columns[-1], **options), places, jnp)


class Loader:
  """An iterator over batches of clips, as global arrays.

  A batch is a dict of
    video     UInt8 'b T H W 3'  RGB in [0, 255]
    window    UInt8 'b t w H W 3'  if the sampler has one: frames at the video's own rate
    vectors   Float16 'b m c c 2'  if the sampler asks for the codec's motion, of the frames of the
              clip and of its window, see `vmae_jax.motion.codec.cut_motion`, and
    times     Int32 'b m'          which frames of the video these are
    label     Int32 'b'          -1 if unknown
    epoch     Int32 'b'          of the source, or of the clip's set where sets have weights
    sample    Int32 'b'          the video's index in the source; a replaced one keeps its own
    repeat    Int32 'b'          which of the clips cut from one decoded video
    replaced  Bool 'b'           the video could not be read and another one replaces it
    valid     Bool 'b'           False for what evaluation must leave out, see num_steps

  Attributes:
    wait_seconds: How long the caller has waited for data in total.
    failures: Name -> reason for each video that this process could not read, in the order in
      which they were met.
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
      seed: Of the order.
      shuffle: Whether each epoch has an order of its own.
      mesh: Where batches lie; None puts them on the default device.
      start_step: The step to go on from.
      num_steps: The step to stop before, counted from 0. None is one pass for evaluation: the
        last batch is filled up, and `valid` is False there and for replaced videos.
      order: 'hashed' by seed and epoch, or 'added', as in older runs, in which epoch 1 of seed 0
        has the order of epoch 0 of seed 1.
      threads: That decode, in each process; 0 means one for each core that they may use.
      workers: Processes that decode, as one Python process can be too slow. 0 decodes in this one;
        -1 starts one for each CORES cores if there are more than CORES.
      seconds: A video without an answer for so long is given up and replaced.
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
    self._parts = _local_parts(batch_size, mesh)
    rows = [row for part in self._parts for row in range(*part)]
    self._visits = sorted({row // repeats for row in rows})
    if len(rows) != len(self._visits) * repeats:
      raise UserError(
        f'this process holds {len(rows)} of the {batch_size} clips of a batch, '
        f'which are not whole videos of {repeats} repeats: give each device a multiple of them.'
      )
    self._sampler, self._mesh, self._batch_size = sampler, mesh, batch_size
    n, self._per_step = len(source), batch_size // repeats
    self._steps = range(start_step, -(-n // self._per_step) if num_steps is None else num_steps)
    self._end = n if num_steps is None else None
    self._queue: queue.Queue = queue.Queue(maxsize=prefetch)
    self._stop = threading.Event()

    def ordered(number: int, count: int) -> grain.MapDataset:
      samples = grain.MapDataset.range(count)
      if not shuffle or order == 'added':
        return samples.shuffle(seed=seed) if shuffle else samples
      # grain adds the epoch to the seed, so seeds must lie far apart.
      digest = hashlib.sha256(str((seed, number) if number else seed).encode()).digest()
      return samples.shuffle(seed=int.from_bytes(digest[:4], 'little'))

    samples = ordered(0, n)
    self._visit = lambda i: (i // n, int(samples[i]))
    if getattr(source, 'weights', ()) and num_steps is not None:
      self._visit = turns(source, ordered)

    cores = usable_cores()
    if workers < 0:
      workers = cores // CORES if cores > CORES else 0
    threads = threads or max(1, cores // max(1, workers))
    self._patience = Patience(seconds)
    answering = PatientSource(source, self._patience)
    shape = sampler.shape(source, whole=self._per_step % ways == 0)
    self._cuts = repeats // shape[0]  # Clips of one cut-out.
    row = (*shape[1:], 3)
    self._memory = Memory(row, shared=workers > 0)
    if workers:
      self._readers: Threads | Processes = Processes(
        answering, sampler.draw, count=workers, threads=threads, row=row
      )
    else:
      self._readers = Threads(answering, sampler.draw, threads=threads)
    self._ahead = 1 + -(-threads * max(1, workers) // len(self._visits))
    self._thread = threading.Thread(target=self._produce, name='loader', daemon=True)
    self._thread.start()

  def __iter__(self) -> Iterator[dict[str, Array]]:
    return self

  def next_cut(self) -> tuple[Array, Array]:
    """The next batch before it is resized: pixels, and numbers about each clip."""
    start = time.perf_counter()
    item = self._queue.get()
    self.wait_seconds += time.perf_counter() - start
    if isinstance(item, BaseException):
      self._queue.put(item)  # For the next call.
      raise item
    batch, failures = item
    for name, reason in failures:
      self.failures.setdefault(name, reason)
    return batch

  def __next__(self) -> dict[str, Array]:
    # Not in the loader's thread, since all processes must start their programs in one order.
    return _finish(self._sampler, self._mesh)(*self.next_cut())

  def _produce(self) -> None:
    try:
      started: collections.deque = collections.deque()
      for step in self._steps:
        started.append(self._start(step))
        if len(started) > self._ahead:
          self._put(self._batch(*started.popleft()))
        if self._stop.is_set():
          return
      while started:
        self._put(self._batch(*started.popleft()))
      self._put(StopIteration())
    except BaseException as e:  # Whatever it is, the caller must see it rather than wait.
      self._put(e)

  def _start(self, step: int) -> tuple[dict[tuple[int, int], np.ndarray], list[Visit]]:
    """Starts to read a batch; returns the memory of each part, and the visits."""
    parts, rows = {}, {}
    for first, end in self._parts:
      first, end = first // self._cuts, end // self._cuts
      parts[first, end], taken = self._memory.take(end - first)
      rows |= zip(range(first, end), taken, strict=True)
    visits: list[Visit] = []
    cuts = self._sampler.repeats // self._cuts
    for visit in self._visits:
      i = step * self._per_step + visit
      if self._end is not None and i >= self._end:
        visits.append((0, -1, None))
        continue
      epoch, sample = self._visit(i)
      own = [rows[row] for row in range(visit * cuts, (visit + 1) * cuts)]
      visits.append((epoch, sample, self._readers.submit(epoch, sample, own)))
    return parts, visits

  def _put(self, item: Any) -> None:
    while not self._stop.is_set():
      try:
        return self._queue.put(item, timeout=0.1)
      except queue.Full:
        pass

  def _batch(
    self, parts: dict[tuple[int, int], np.ndarray], visits: list[Visit]
  ) -> tuple[tuple[Array, Array], list[tuple[str, str]]]:
    sampler, columns = self._sampler, sum(COLUMNS.values())
    repeats, m = sampler.repeats, sampler.places
    # The two float16 of a vector take the place of one int32.
    more = m * (1 + sampler.vectors**2) if sampler.vectors else 0
    numbers = np.zeros((len(visits), repeats, columns + m + more), np.int32)
    failures = []
    for row, (epoch, sample, future) in zip(numbers, visits, strict=True):
      row[:, :6] = -1, epoch, sample, 0, False, False
      row[:, 3] = range(repeats)
      if future is not None:  # Else the box has no size: black.
        drawn = future.result()
        row[:, 0], row[:, 4] = drawn['label'], drawn['replaced']
        row[:, 5] = self._end is None or not drawn['replaced']
        row[:, 6:columns], row[:, columns : columns + m] = drawn['box'], drawn['places']
        if more:
          moved = drawn['vectors'].reshape(repeats, -1).view(np.int32)
          row[:, columns + m :] = np.hstack([drawn['times'], moved])
        failures += drawn['failures']
    numbers = numbers.reshape(-1, numbers.shape[-1])
    ends = np.cumsum([end - first for first, end in self._parts])
    pixels = self._to_devices(list(parts.values()), self._batch_size // self._cuts)
    return (pixels, self._to_devices(np.split(numbers, ends[:-1]), self._batch_size)), failures

  def _to_devices(self, parts: list[np.ndarray], rows: int) -> Array:
    """A global array of so many rows, of which each device gets only its own."""
    if self._mesh is None:
      return jax.device_put(parts[0])
    placed = [
      jax.device_put(part, device)
      for part, devices in zip(parts, self._parts.values(), strict=True)
      for device in devices
    ]
    return jax.make_array_from_single_device_arrays(
      (rows, *parts[0].shape[1:]), batch_sharding(self._mesh), placed
    )

  def close(self) -> None:
    """Stops reading and frees threads, worker processes and batches."""
    self._stop.set()
    self._patience.close()
    self._readers.close()
    self._thread.join(timeout=30)
    while not self._queue.empty():
      self._queue.get_nowait()
    self._queue.put(StopIteration())  # For callers that still wait or call later.
