"""Comparisons with PyTorch, OpenCV and torchcodec, and what the choices of the package rest on.

  python -m tests.benchmark COMMAND [COMMAND ...] [--out=results.json]     from a checkout

  step       a pre-training step of several sizes, beside transformers' VideoMAE in PyTorch:
             seconds, clips/s, FLOP/s, peak memory
  finetune, inference
             the same of a classifier of 400 classes: a training step, and its forward pass
  methods    the same step of every method here, each beside VideoMAE's: time, FLOPs, peak memory
  attention  attention's implementations by number of tokens and size of a head, and which of them
             model.attention=auto takes
  bundles    the same by the compiler's count for TPUs that need not be there (libtpu), kernels by
             the bundles of their final schedules: --topologies
  checkpoint seconds to save and restore a train state, and for which training waits
  fits       whether the step of every method and size fits TPU slices and GPUs that need not be
             there, what it sends between them and which libraries' kernels it calls; some minutes
             each, by libtpu (pip install "jax[tpu]") or XLA for CUDA (pip install "jax[cuda13]").
             The same command goes on where it was stopped: rows that its --out has are kept
  scaling    what each of 1 to 8 emulated devices sends and holds in a step, from the compiled
             program: --batch clips on each, as data and as fsdp
  flow       errors of the built-in optical flow on frames warped by known motions, what it explains
             of neighbouring frames, and its cost, beside OpenCV's
  masks      how many of the visible tokens stay on their content from slot to slot: motion-guided
             masks, by estimated and by true flow, beside tube masks, on made-up clips
  loader     clips/s that the loader delivers with 1, 2 and all threads, in its own process or in
             others, with and without several clips from one decoded video; the memory of all
             processes over many batches
  decode     clips per second of CPU time out of video files, beside OpenCV and torchcodec, and how
             many frames are wrong

PyTorch, OpenCV and torchcodec take part if they are installed. Prints tables in Markdown and
writes all numbers, with the machine, date, versions and commit, to a JSON file. Put that into
results/, and `python -m tests.benchmark.tables` makes the tables of README.md anew.
"""

import contextlib
import functools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

from tests.benchmark import (
  attention,
  bundles,
  checkpoint,
  clips,
  decode,
  fits,
  flow,
  followed,
  loader,
  methods,
  scaling,
  step,
)
from tests.benchmark.report import describe
from vmae_jax import cli, storage
from vmae_jax.cores import usable_cores
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import Entry, FileSource, open_source
from vmae_jax.errors import UserError, lookup

MAX_VIDEOS = 20  # More of a list are left out, evenly: a data set would take days.

_OUT = flags.DEFINE_string('out', 'benchmark.json', 'The JSON file with all numbers.')
_SIZES = flags.DEFINE_list(
  'sizes',
  ['s', 'b'],
  'Sizes of the model: step, methods, finetune, inference, checkpoint, scaling, fits.',
)
_METHODS = flags.DEFINE_list('methods', list(fits.METHODS), 'fits: files in configs/.')
_TOPOLOGIES = flags.DEFINE_list(
  'topologies',
  None,
  'fits: TPU slices, GPUs (h200:8), or local for the devices at hand; bundles: TPU slices.',
)
_BATCH = flags.DEFINE_integer(
  'batch',
  2,
  'Clips in a batch: step, methods, attention, finetune, inference; on each device: scaling.',
  lower_bound=1,
)
_TOKENS = flags.DEFINE_list('tokens', [str(n) for n in attention.TOKENS], 'attention: of a clip.')
_CONTENDERS = flags.DEFINE_list(
  'contenders',
  None,
  f'step, finetune, inference: some of {",".join(step.CONTENDERS)}, vmae_jax among them; by '
  'default vmae_jax, torch if it is installed and torch_compiled if it sees a GPU.',
)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 5, 'Times that all is measured, except memory; medians are told.', lower_bound=1
)
_VIDEOS = flags.DEFINE_list(
  'videos',
  None,
  'flow, loader, decode: folders or lists of videos, or folders of shards, of each of which at '
  f'most {MAX_VIDEOS} videos are used; by default clips of 10 seconds are made.',
)
_SECONDS = flags.DEFINE_float(
  'seconds', 5.0, 'loader: length of each measurement of speed.', lower_bound=0.0
)
_CLIPS = flags.DEFINE_integer(
  'clips', 240, 'masks: clips of each size that are made.', lower_bound=1
)
_WORKERS = flags.DEFINE_list(
  'workers', ['0', '1', '2'], 'loader: numbers of decoding processes; 0 decodes in its own.'
)
_BATCHES = flags.DEFINE_integer(
  'batches', 200, 'loader: batches over which memory is watched.', lower_bound=loader.MARKS
)


def _default_contenders() -> list[str]:
  """Those that can run here."""
  peers = step.peers()
  if not peers:
    print('torch is left out: PyTorch and transformers are not both installed.\n')
  return ['vmae_jax', *peers]


def _step(work: str, _) -> Iterator[list[dict]]:
  contenders, results = _CONTENDERS.value or _default_contenders(), []
  for size in _SIZES.value:
    result = step.benchmark_step(
      work, size=size, batch=_BATCH.value, rounds=_ROUNDS.value, contenders=contenders
    )
    print(step.table(result) + '\n', flush=True)
    results.append(result)
    yield results


def _methods(_) -> Iterator[list[dict]]:
  results = []
  for size in _SIZES.value:
    result = methods.benchmark_methods(size=size, batch=_BATCH.value, rounds=_ROUNDS.value)
    print(methods.table(result) + '\n', flush=True)
    results.append(result)
    yield results


def _attention(_) -> Iterator[dict]:
  tokens = tuple(map(int, _TOKENS.value))
  result = attention.benchmark_attention(batch=_BATCH.value, rounds=_ROUNDS.value, tokens=tokens)
  print(attention.table(result) + '\n', flush=True)
  yield result


def _bundles(_) -> Iterator[list[dict]]:
  for rows in bundles.benchmark_bundles(topologies=_TOPOLOGIES.value or list(bundles.TOPOLOGIES)):
    yield rows
  print('\n' + bundles.table(rows) + '\n', flush=True)


def _checkpoint(_) -> Iterator[list[dict]]:
  results = [
    checkpoint.benchmark_checkpoint(size=size, rounds=_ROUNDS.value) for size in _SIZES.value
  ]
  print(checkpoint.table(results) + '\n', flush=True)
  yield results


def _flow(videos: dict[str, FileSource]) -> Iterator[dict]:
  paths = [entry.path for source in videos.values() for entry in source.entries]
  result = flow.benchmark_flow(paths, estimators=['inverse_search'], rounds=_ROUNDS.value)
  print(flow.table(result) + '\n', flush=True)
  yield result


def _fits(_) -> Iterator[list[dict]]:
  kept = []
  with contextlib.suppress(OSError, ValueError, KeyError):  # None, or another file's.
    kept = json.loads(Path(_OUT.value).read_text())['results']['fits']
  topologies = _TOPOLOGIES.value or list(fits.TOPOLOGIES)
  rows = fits.benchmark_fits(
    methods=_METHODS.value, sizes=_SIZES.value, topologies=topologies, kept=kept
  )
  for result in rows:
    yield result
  print('\n' + fits.table(result) + '\n', flush=True)


def _scaling(_) -> Iterator[list[dict]]:
  results = []
  for size in _SIZES.value:
    results.append(scaling.benchmark_scaling(size=size, clips=_BATCH.value))
    print(scaling.table(results[-1]) + '\n', flush=True)
    yield results


def _masks(_) -> Iterator[list[dict]]:
  results = [followed.benchmark_followed(clips=_CLIPS.value, size=size) for size in followed.SIZES]
  print(followed.table(results) + '\n', flush=True)
  yield results


def _loader(videos: dict[str, FileSource]) -> Iterator[dict]:
  source = FileSource(sum((s.entries for s in videos.values()), ()))
  every = usable_cores()
  # Memory first, as what other measurements leave behind could hide a growth.
  workers = sorted({int(number) for number in _WORKERS.value})
  memory = [
    loader.benchmark_memory(source, workers=number, threads=every, batches=_BATCHES.value)
    for number in workers
  ]
  print(loader.memory_table(memory) + '\n', flush=True)
  speed = loader.benchmark_speed(
    source,
    workers=workers,
    threads=sorted({1, 2, every}),
    rounds=_ROUNDS.value,
    seconds=_SECONDS.value,
  )
  print(loader.speed_table(speed) + '\n', flush=True)
  yield {'videos': list(videos), 'speed': speed, 'memory': memory}


def _decode(videos: dict[str, FileSource]) -> Iterator[list[dict]]:
  decoders, missing = decode.available()
  for name, reason in missing.items():
    print(f'{name} is left out: {reason}\n')
  results = []
  for what, source in videos.items():
    paths = [entry.path for entry in source.entries]
    result = decode.benchmark_decode(paths, what=what, rounds=_ROUNDS.value, decoders=decoders)
    print(decode.table(result) + '\n', flush=True)
    results.append(result)
    yield results


# In this order: fits reads what --out has before others write it, and decode may import PyTorch,
# whose memory is not the loader's. Each yields its result, as often as that grows.
COMMANDS = {
  'fits': _fits,
  'step': functools.partial(_step, 'pretrain'),
  'finetune': functools.partial(_step, 'finetune'),
  'inference': functools.partial(_step, 'inference'),
  'methods': _methods,
  'attention': _attention,
  'bundles': _bundles,
  'checkpoint': _checkpoint,
  'scaling': _scaling,
  'flow': _flow,
  'masks': _masks,
  'loader': _loader,
  'decode': _decode,
}


def _videos(folder: Path) -> dict[str, FileSource]:
  """From what they are to the videos, which are made in `folder` if none were given."""
  if not _VIDEOS.value:
    print('making clips: seconds each\n', flush=True)
    return {
      f'moving texture, 340 x 256, a keyframe every {gop} frames': FileSource(
        tuple(Entry(path) for path in clips.make_clips(folder, gop=gop))
      )
      for gop in clips.GOPS
    }
  return {spec: _open(spec, folder / str(number)) for number, spec in enumerate(_VIDEOS.value)}


def _open(spec: str, folder: Path) -> FileSource:
  """Some of the videos that `spec` names; those of shards are written to `folder`."""
  source = open_source(spec)
  if not isinstance(source, FileSource | ShardSource):
    raise UserError(f'--videos={spec} does not consist of video files: nothing to decode.')
  chosen = np.linspace(0, len(source) - 1, min(len(source), MAX_VIDEOS)).round().astype(int)
  if isinstance(source, FileSource):
    return FileSource(tuple(source.entries[i] for i in chosen))
  folder.mkdir()
  paths = [folder / f'{i}.mp4' for i in chosen]
  for i, path in zip(chosen, paths, strict=True):
    path.write_bytes(source.read(i)[1])
  return FileSource(tuple(Entry(str(path)) for path in paths))


def main(argv: list[str]) -> None:
  if not argv[1:]:
    raise UserError(f'name what to measure: {", ".join(COMMANDS)}; see --help.')
  for command in argv[1:]:
    lookup(COMMANDS, command, 'command')
  commands = [name for name in COMMANDS if name in argv[1:]]
  out = Path(_OUT.value)
  report = describe() | {'results': {}}
  with tempfile.TemporaryDirectory() as folder:
    videos = _videos(Path(folder)) if {'flow', 'loader', 'decode'} & set(commands) else {}
    for command in commands:
      for result in COMMANDS[command](videos):
        report['results'][command] = result
        # It may hold hours of work.
        storage.write_text(str(out), json.dumps(report, indent=2) + '\n')
  print(f'written: {out}')


if __name__ == '__main__':
  cli.run(main)
