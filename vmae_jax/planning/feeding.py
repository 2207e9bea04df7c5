"""Measures how fast a host feeds its devices, compared with copying as many bytes."""

import collections
import contextlib
import dataclasses
import functools
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import FileSource, open_source
from vmae_jax.training import finetuning, pretraining

WARM_UP = 12  # Batches before timing starts, in which all memory is written to once.
ROUNDS = 3

# The number of frames of a file, and a function from frame numbers to UInt8 'n H W 3'.
Opened = tuple[int, Callable[[np.ndarray], Any]]


class Replay(ClipSampler):
  """Gives the clips of its first visit at every visit; this takes a copy, as decoded frames do."""

  def draw(self, source, epoch, sample, pixels):
    if 'first' not in vars(self):
      drawn = super().draw(source, epoch, sample, pixels)
      vars(self)['first'] = drawn, [x.copy() for x in pixels]  # As the dataclass is frozen.
    drawn, first = vars(self)['first']
    for row, x in zip(pixels, first, strict=True):
      row[:] = x
    return drawn


def _decord(path: str) -> Opened:
  import decord

  video = decord.VideoReader(path, num_threads=1)
  return len(video), lambda places: video.get_batch(places).asnumpy()


def _torchcodec(path: str) -> Opened:
  from torchcodec.decoders import VideoDecoder

  video = VideoDecoder(path, dimension_order='NHWC', num_ffmpeg_threads=1)
  return len(video), lambda places: video.get_frames_at(indices=places.tolist()).data


RIVALS = {'decord': _decord, 'torchcodec': _torchcodec}


@dataclasses.dataclass
class Rival:
  """The whole frames of the loader's visits, read by another library."""

  open_video: Callable[[str], Opened]
  paths: list[str]
  sampler: ClipSampler  # Chooses the frames.
  visits: int  # The number of visits, one file after the other.

  def __len__(self) -> int:
    return self.visits

  def __getitem__(self, i: int) -> Any:
    epoch, sample = divmod(i, len(self.paths))
    count, read = self.open_video(self.paths[sample])
    rng = np.random.default_rng([self.sampler.seed, epoch, sample, 0])
    return read(self.sampler.wanted(count, rng))


def feed(config, *, batches: int, decode: bool) -> dict[str, dict[str, float]]:
  """How fast the host feeds its devices; see `vmae_jax.benchmark`.

  Args:
    config: A config of pre-training or fine-tuning.
    batches: Timed batches of each row in each of ROUNDS rounds.
    decode: Whether to read the videos of data.train, too.

  Returns:
    Row -> `clips_per_second`, and `cpu_ms`: milliseconds of CPU time for each clip, of this process
    and the processes that it has started and that have ended.
  """
  data, rows = config.data, {}
  sampler = (pretraining if 'heads' in config else finetuning).clip_sampler(config)
  source = open_source(data.train or 'synthetic:train', root=data.root, seconds=data.seconds)
  if not data.train:  # Its clips are sent with the size of videos' clips, not of its pictures.
    source.largest = None

  def cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (0, resource.RUSAGE_CHILDREN))

  def measure(name: str, work: Callable[[], Any], clips: int) -> None:
    start, before = time.perf_counter(), cpu()
    work()
    row = rows.setdefault(name, collections.Counter())
    row.update(seconds=time.perf_counter() - start, cpu=cpu() - before, clips=clips)

  def load(sampler: ClipSampler) -> None:
    steps = WARM_UP + batches
    options = dict(batch_size=config.batch_size, seed=config.seed, shuffle=False, num_steps=steps)
    options |= dict(threads=data.threads, workers=data.workers, seconds=data.seconds)
    with contextlib.closing(Loader(source, sampler, **options)) as loader:
      for _ in range(WARM_UP):
        jax.block_until_ready(loader.next_cut())
      name = 'hand-over' if isinstance(sampler, Replay) else 'loader'

      def run():
        for _ in range(batches):
          jax.block_until_ready(loader.next_cut())

      measure(name, run, batches * config.batch_size)

  count, *shape = sampler.shape(source, whole=True)
  visits = config.batch_size // sampler.repeats
  ring = np.empty((3, visits * count, *shape, 3), np.uint8)
  cut = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)

  def copy(times: int) -> None:
    for i in range(times):
      for row in ring[i % len(ring)]:
        row[:] = cut

  copy(len(ring))
  for _ in range(ROUNDS):
    measure('copying', lambda: copy(batches), batches * config.batch_size)
    load(Replay(**vars(sampler)))
    if decode:
      load(sampler)
  for name, open_video in RIVALS.items() if decode and isinstance(source, FileSource) else ():
    paths = [source.name(i) for i in range(len(source))]
    rival = Rival(open_video, paths, sampler, batches * visits)
    try:
      from torch.utils.data import DataLoader

      rival[0]
      read = functools.partial(collections.deque, DataLoader(rival, batch_size=None), maxlen=0)
      measure(name, read, batches * config.batch_size)
    except (ImportError, OSError, RuntimeError) as e:  # torchcodec without FFmpeg: any of these.
      print(f'{name} is left out: {str(e).splitlines()[0]}')
  return {
    name: {'clips_per_second': x['clips'] / x['seconds'], 'cpu_ms': x['cpu'] / x['clips'] * 1e3}
    for name, x in rows.items()
  }


def feed_table(rows: dict[str, dict[str, float]]) -> str:
  """The rows of `feed` as text."""
  lines = [f'{"":12}{"clips/s":>10}{"ms of CPU a clip":>18}{"of copying":>12}']
  for name, row in rows.items():
    share = row['clips_per_second'] / rows['copying']['clips_per_second']
    lines.append(f'{name:12}{row["clips_per_second"]:10.1f}{row["cpu_ms"]:18.3f}{share:12.2f}')
  return '\n'.join(lines)
