"""From a compiled step to what a run costs: time, chips, and the hosts that feed it."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vmae_jax.benchmark.aot import CompiledStep

REMATS = ('none', 'dots', 'full')  # From the cheapest in time to the cheapest in memory.


class Feed(NamedTuple):
  """What is assumed of the data.

  Attributes:
    decode_rate: Clips that one core decodes in a second, the first from each video.
    video_bytes: Of a file.
    repeats: Clips cut from one decoded video.
    clip_bytes: That cross to the device for one clip.
  """

  decode_rate: float
  video_bytes: float
  repeats: int
  clip_bytes: int


def speed(
  *,
  clip_flops: int,
  batch: int,
  devices: int,
  sent: float,
  peak: float | None,
  network: float | None,
  mfu: float,
) -> dict[str, float | None]:
  """Seconds of a step: the least by arithmetic and by network, and those at a stated MFU.

  Args:
    clip_flops: Of a training step, for one clip.
    batch: Clips in a step.
    devices: That share them.
    sent: Bytes that each device sends in a step.
    peak: FLOP/s of a device, or None if unknown.
    network: Bytes a second that a device can send, or None if unknown.
    mfu: The share of the peak that the whole step is expected to reach.

  Returns:
    What cannot be told is None. The network's floor is not added: it hides behind arithmetic or
    is what keeps a step from reaching the MFU.
  """
  arithmetic = peak and clip_flops * batch / devices / peak
  step = arithmetic and arithmetic / mfu
  return {
    'arithmetic_seconds': arithmetic,
    'network_seconds': network and sent / network,
    'step_seconds': step,
    'clips_per_second': step and batch / step,
  }


def cost(*, step_seconds: float, steps: int, devices: int) -> dict[str, int | float]:
  """Hours of a run and of all its chips together, without start-up and evaluation."""
  hours = step_seconds * steps / 3600
  return {'steps': steps, 'hours': hours, 'chip_hours': hours * devices}


def feeding(*, clips_per_second: float, hosts: int, feed: Feed) -> dict[str, float]:
  """What each host must do so that the devices never wait: cores, disk or network, and bus."""
  videos = clips_per_second / feed.repeats / hosts
  return {
    'cores': videos / feed.decode_rate,
    'read_bytes_per_second': videos * feed.video_bytes,
    'transfer_bytes_per_second': clips_per_second / hosts * feed.clip_bytes,
  }


def largest_batches(
  compile_at: Callable[[int, str], CompiledStep], *, start: int
) -> Iterator[tuple[str, int, dict[int, CompiledStep]]]:
  """For each way to save memory the largest power of two of clips a chip that fits.

  Every answer is compiled: the largest fits and twice as many do not. The first guess is
  `start`; the next follows from the memory that it takes, which grows with the clips.

  Args:
    compile_at: (clips a chip, remat) -> the compiled step.
    start: The first number of clips a chip to try.

  Yields:
    remat, the largest number of clips (0 if not even one fits), and all that was compiled.
  """
  guess = 2 ** round(math.log2(max(start, 1)))
  for remat in REMATS:
    tried = {}

    def fits(clips, remat=remat, tried=tried):
      if clips not in tried:
        tried[clips] = compile_at(clips, remat)
      return tried[clips].fits

    fits(guess)
    guess = _by_memory(guess, tried[guess].memory)
    while guess >= 1 and not fits(guess):
      guess //= 2
    while guess >= 1 and fits(2 * guess):
      guess *= 2
    yield remat, guess, tried
    guess = max(guess, 1)


def _by_memory(clips: int, memory: dict[str, int]) -> int:
  """The power of two that memory, taken to be what is held and a share for each clip, allows."""
  held = sum(memory.get(kind, 0) for kind in ('parameters', 'optimizer', 'average of parameters'))
  share = max(memory['all'] - held, 1) / clips
  room = max(memory['limit'] - held, share)
  return 2 ** max(math.floor(math.log2(room / share)), 0)


def choose(rows: dict[str, int], wanted: int) -> str | None:
  """The cheapest remat whose largest batch is as large as wanted, else the one with the largest.

  Args:
    rows: Remat -> the largest number of clips a chip.
    wanted: Clips a chip.

  Returns:
    None if nothing fits.
  """
  for remat in REMATS:
    if rows.get(remat, 0) >= wanted:
      return remat
  best = max(rows, key=rows.get, default=None)
  return best if best and rows[best] else None
