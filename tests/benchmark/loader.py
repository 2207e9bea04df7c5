"""How many clips a second the loader brings to the devices, and whether its memory stays put.

Nothing is computed with the batches, so the loader alone sets the speed. It reads 16 frames at
a stride of 4, cut to 224 x 224, from the same few videos over and over: they lie in the
system's cache, so the disk does not count.
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Sequence

import jax
import numpy as np
import psutil

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import Source

CLIPS = 8  # In a batch.
REPEATS = (1, 4)  # Clips cut from one decoded video: without repeats, and a common number.
MARKS = 5  # Parts of a run of which memory is told.
_ENDLESS = 10**6  # Batches.


def host_memory() -> int:
  """Bytes of this process and all that it has started, what they share counted once (PSS).

  Where the system does not tell that, what is resident in each of them.
  """
  total, me = 0, psutil.Process()
  for process in [me, *me.children(recursive=True)]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
      info = process.memory_full_info()
      total += getattr(info, 'pss', info.rss)
  return total


def _cpu_seconds() -> float:
  """CPU time of this process and all that it has started and that still run."""
  total, me = 0.0, psutil.Process()
  for process in [me, *me.children(recursive=True)]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
      times = process.cpu_times()
      total += times.user + times.system
  return total


def _loader(source: Source, *, workers: int, threads: int, repeats: int) -> Loader:
  return Loader(
    source,
    ClipSampler(repeats=repeats),
    batch_size=CLIPS,
    seed=0,
    shuffle=True,
    num_steps=_ENDLESS,
    workers=workers,
    threads=threads,
  )


def benchmark_speed(
  source: Source,
  *,
  workers: Sequence[int],
  threads: Sequence[int],
  rounds: int,
  seconds: float,
  repeats: Sequence[int] = REPEATS,
) -> list[dict]:
  """Measures the loader with each number of processes and threads, taking turns.

  Args:
    source: The videos.
    workers: Numbers of decoding processes; with 0 this process decodes.
    threads: Numbers of decoding threads in each of them.
    rounds: Of which the median is reported.
    seconds: That each measurement lasts, at least.
    repeats: Numbers of clips that are cut from one decoded video.

  Returns:
    A row for each setting: clips/s (median, smallest and largest) and the median clips per
    second of CPU time, that of all processes.
  """
  settings = list(itertools.product(workers, threads, repeats))
  measured: dict[tuple[int, int, int], list[tuple[float, float]]] = {
    setting: [] for setting in settings
  }
  for _ in range(rounds):
    for setting in settings:
      measured[setting].append(_measure(source, *setting, seconds))
  rows = []
  for (processes, number, cut), results in measured.items():
    clips, cpu_clips = zip(*results, strict=True)
    rows.append(
      {
        'workers': processes,
        'threads': number,
        'repeats': cut,
        'rounds': rounds,
        'clips_per_second': statistics.median(clips),
        'slowest': min(clips),
        'fastest': max(clips),
        'clips_per_cpu_second': statistics.median(cpu_clips),
      }
    )
  return rows


def _measure(
  source: Source, workers: int, threads: int, repeats: int, seconds: float
) -> tuple[float, float]:
  """Clips per second, and per second of CPU time, of a loader that runs already."""
  loader = _loader(source, workers=workers, threads=threads, repeats=repeats)
  try:
    jax.block_until_ready(next(loader))
    start, cpu, batches = time.perf_counter(), _cpu_seconds(), 0
    while not batches or time.perf_counter() - start < seconds:
      jax.block_until_ready(next(loader))
      batches += 1
    elapsed, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
  finally:
    loader.close()
  # The system's clock of processes has steps of a hundredth.
  return batches * CLIPS / elapsed, batches * CLIPS / max(cpu, 0.01)


def benchmark_memory(source: Source, *, workers: int, threads: int, batches: int) -> dict:
  """Reads many batches, without repeats, and watches the memory of all processes.

  Args:
    source: The videos.
    workers: Processes that decode; with 0 this process does.
    threads: That decode, in each of them.
    batches: At least MARKS.

  Returns:
    `bytes`: the median over the batches of each fifth of the run, as it goes up and down by
    the clips that are being decoded; `growth_bytes` from the first fifth to the last;
    `unreadable`: how many videos could not be read.
  """
  memory = []
  loader = _loader(source, workers=workers, threads=threads, repeats=1)
  try:
    for _ in range(batches):
      jax.block_until_ready(next(loader))
      memory.append(host_memory())
  finally:
    loader.close()
  marks = [int(np.median(part)) for part in np.array_split(memory, MARKS)]
  return {
    'workers': workers,
    'threads': threads,
    'batches': batches,
    'clips': batches * CLIPS,
    'bytes': marks,
    'growth_bytes': marks[-1] - marks[0],
    'unreadable': len(loader.failures),
  }


def speed_table(rows: list[dict]) -> str:
  """What `benchmark_speed` returns, as Markdown."""
  lines = [
    f'Loader: batches of {CLIPS} clips of 16 x 224 x 224; medians of {rows[0]["rounds"]} rounds',
    '',
    '| data.workers | data.threads | clips from one decoded video | clips/s | '
    'slowest to fastest round | clips per CPU-second |',
    '|---|---|---|---|---|---|',
  ]
  for row in rows:
    lines.append(
      f'| {row["workers"]} | {row["threads"]} | {row["repeats"]} | '
      f'{row["clips_per_second"]:.1f} | {row["slowest"]:.1f} to {row["fastest"]:.1f} | '
      f'{row["clips_per_cpu_second"]:.1f} |'
    )
  return '\n'.join(lines)


def memory_table(results: list[dict]) -> str:
  """Several of what `benchmark_memory` returns, of as many clips each, as Markdown."""
  ends = [results[0]['clips'] * (i + 1) // MARKS for i in range(MARKS)]
  unreadable = results[0]['unreadable']
  lines = [
    'Host memory of the loader (MB, all processes), median of each fifth of a run'
    + (f'; {unreadable} videos cannot be read, others stood in for them' if unreadable else ''),
    '',
    f'| data.workers | data.threads | until clip {" | ".join(f"{x:,}" for x in ends)} | growth |',
    '|---|---|---|' + '---|' * MARKS,
  ]
  for result in results:
    lines.append(
      f'| {result["workers"]} | {result["threads"]} | '
      f'{" | ".join(f"{x / 1e6:,.0f}" for x in result["bytes"])} | '
      f'{result["growth_bytes"] / 1e6:+,.0f} |'
    )
  return '\n'.join(lines)
