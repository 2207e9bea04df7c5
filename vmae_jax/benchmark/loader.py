"""How many clips a second the loader brings to the devices, and whether its memory stays put.

Nothing is computed with the batches, so the loader alone sets the speed. It reads 16 frames at
a stride of 4, cut to 224 x 224, from the same few videos over and over: they lie in the
system's cache, so the disk does not count.
"""

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


def _loader(source: Source, *, threads: int, repeats: int) -> Loader:
  sampler = ClipSampler(repeats=repeats)
  return Loader(
    source, sampler, batch_size=CLIPS, seed=0, shuffle=True, num_steps=_ENDLESS, threads=threads
  )


def benchmark_speed(
  source: Source, *, threads: Sequence[int], rounds: int, seconds: float
) -> list[dict]:
  """Measures the loader with each number of threads, with and without repeats, taking turns.

  Args:
    source: The videos.
    threads: Numbers of decoding threads.
    rounds: Of which the median is reported.
    seconds: That each measurement lasts, at least.

  Returns:
    A row for each setting: clips/s (median, smallest and largest) and the median clips per
    second of CPU time.
  """
  settings = [(t, r) for r in REPEATS for t in threads]
  speeds = {setting: [] for setting in settings}
  for _ in range(rounds):
    for number, repeats in settings:
      speeds[number, repeats].append(_speed(source, number, repeats, seconds))
  rows = []
  for (number, repeats), measured in speeds.items():
    clips, cpu_clips = zip(*measured, strict=True)
    rows.append(
      {
        'threads': number,
        'repeats': repeats,
        'rounds': rounds,
        'clips_per_second': statistics.median(clips),
        'slowest': min(clips),
        'fastest': max(clips),
        'clips_per_cpu_second': statistics.median(cpu_clips),
      }
    )
  return rows


def _speed(source: Source, threads: int, repeats: int, seconds: float) -> tuple[float, float]:
  """Clips per second, and per second of CPU time, of a loader that runs already."""
  loader = _loader(source, threads=threads, repeats=repeats)
  try:
    jax.block_until_ready(next(loader))
    start, cpu, batches = time.perf_counter(), time.process_time(), 0
    while not batches or time.perf_counter() - start < seconds:
      jax.block_until_ready(next(loader))
      batches += 1
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
  finally:
    loader.close()
  return batches * CLIPS / elapsed, batches * CLIPS / cpu


def benchmark_memory(source: Source, *, threads: int, batches: int) -> dict:
  """Reads many batches, without repeats, and watches the resident memory of this process.

  Args:
    source: The videos.
    threads: That decode.
    batches: At least MARKS.

  Returns:
    `bytes`: the median over the batches of each fifth of the run, as it goes up and down by
    the clips that are being decoded; `growth_bytes` from the first fifth to the last;
    `unreadable`: how many videos could not be read.
  """
  process, resident = psutil.Process(), []
  loader = _loader(source, threads=threads, repeats=1)
  try:
    for _ in range(batches):
      jax.block_until_ready(next(loader))
      resident.append(process.memory_info().rss)
  finally:
    loader.close()
  marks = [int(np.median(part)) for part in np.array_split(resident, MARKS)]
  return {
    'threads': threads,
    'batches': batches,
    'bytes': marks,
    'growth_bytes': marks[-1] - marks[0],
    'unreadable': len(loader.failures),
  }


def speed_table(rows: list[dict]) -> str:
  """What `benchmark_speed` returns, as Markdown."""
  lines = [
    f'Loader: batches of {CLIPS} clips of 16 x 224 x 224; medians of {rows[0]["rounds"]} rounds',
    '',
    '| threads | clips from one decoded video | clips/s | slowest to fastest round | '
    'clips per CPU-second |',
    '|---|---|---|---|---|',
  ]
  for row in rows:
    lines.append(
      f'| {row["threads"]} | {row["repeats"]} | {row["clips_per_second"]:.1f} | '
      f'{row["slowest"]:.1f} to {row["fastest"]:.1f} | {row["clips_per_cpu_second"]:.1f} |'
    )
  return '\n'.join(lines)


def memory_table(result: dict) -> str:
  """What `benchmark_memory` returns, as Markdown."""
  ends = [result['batches'] * (i + 1) // MARKS for i in range(MARKS)]
  unreadable = result['unreadable']
  lines = [
    f'Host memory of the loader with {result["threads"]} threads, median of each fifth'
    + (f'; {unreadable} videos cannot be read, others stood in for them' if unreadable else ''),
    '',
    f'| until batch | {" | ".join(f"{end:,}" for end in ends)} | growth |',
    '|---|' + '---|' * (MARKS + 1),
    f'| resident (MB) | {" | ".join(f"{x / 1e6:,.0f}" for x in result["bytes"])} | '
    f'{result["growth_bytes"] / 1e6:+,.0f} |',
  ]
  return '\n'.join(lines)
