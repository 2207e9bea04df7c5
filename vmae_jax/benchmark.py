"""Measures the training step and the loader of a config on this machine.

  python -m vmae_jax.benchmark --config=configs/videomae.py:b,k400 --batch=64
  python -m vmae_jax.benchmark --config=configs/mme.py:b,k400 --batch=64 --out=mme.json \
    --config.data.train=lists/k400_train.txt

The config is for pre-training or fine-tuning. What is measured:

  step       the training step alone, on a batch that stays on the devices
  hand-over  the loader without decoding and cropping: an upper bound, set by copying alone
  loader     the loader with the videos of data.train, if that names any
  training   both at once, as `pretrain` and `finetune` run them

Prints milliseconds, clips/s, MFU where the device's peak is known, the share of time spent waiting
for data, and peak memory. On several hosts start the same command on each with --distributed.

  python -m vmae_jax.benchmark loader --config=configs/videomae.py:b,k400 --feed=shards \
    --config.data.train=shards/train

measures the host alone, until batches are on the devices (not their resizing): copying the same
bytes by one core, the hand-over without decoding and, with --feed=shards or raw, the loader.
"""

import contextlib
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from vmae_jax import chips, cli, config_finetuning, peers, sharding, storage
from vmae_jax import config as config_lib
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError
from vmae_jax.method.state import init_state
from vmae_jax.method.supervised import build_supervised
from vmae_jax.planning.feeding import Replay, feed, feed_table
from vmae_jax.runs.run_dir import environment
from vmae_jax.training import finetuning, loop, pretraining
from vmae_jax.training.step import jit_step
from vmae_jax.training.teachers import build_method

WARM_UP = 3  # Steps and batches that are not timed: they compile, or were read ahead.
CLASSES = 400  # Number of classes in fine-tuning where data.classes is 0.

_CONFIG = cli.define_config()
_BATCH = flags.DEFINE_integer(
  'batch', None, 'Clips in a step; by default batch_size of the config.'
)
_STEPS = flags.DEFINE_integer('steps', 20, 'Steps and batches that are timed.', lower_bound=1)
_OUT = flags.DEFINE_string('out', None, 'JSON file to write all numbers to.')
_FEED = flags.DEFINE_enum(
  'feed', 'dummy', ('dummy', 'shards', 'raw'), 'What `benchmark loader` reads.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Joins several processes, see vmae_jax.pretrain.'
)


def benchmark(config, *, steps: int) -> dict[str, Any]:
  """Measures `steps` steps of pre-training or fine-tuning for each row; see the top of this file.

  Returns:
    All numbers, for JSON; see `table`.

  Raises:
    UserError: the config or the data cannot work, or a batch does not fit.
  """
  mesh = sharding.make_mesh(**config.mesh)
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  if 'heads' in config:
    config_lib.check(config, devices=devices)
    method, task = build_method(config), pretraining
  else:
    config_finetuning.check(config, devices=devices)
    method, task = build_supervised(config, classes=config.data.classes or CLASSES), finetuning
  schedule = loop.make_schedule(config, steps=10**6, videos=10**6)  # For the learning rate alone.
  optimizer, step_function = task.make_step(config, method, schedule, steps=steps)
  sampler, clip_flops = task.clip_sampler(config), method.flops()
  source = loop.open_videos(config, config.data.train) if config.data.train else None
  count, rows = WARM_UP + steps + 1, {}

  def loader(source, sampler: ClipSampler):
    return contextlib.closing(loop.make_loader(config, source, sampler, mesh, num_steps=count))

  def measure(name: str, batches: Iterable, run: Callable[[Any], Any]) -> Any:
    """Adds a row and returns the last result; waits for each once the next has been started."""
    marks, before = [], None
    shown = None if jax.process_index() == 0 else True  # None: on a terminal.
    items = itertools.islice(batches, count)
    for batch in tqdm(items, desc=name, total=count, leave=False, disable=shown):
      result = run(batch)
      jax.block_until_ready(before)
      marks.append((time.perf_counter(), getattr(batches, 'wait_seconds', 0.0)))
      before = result
    flops = clip_flops if run is train else 0
    rows[name] = _row(marks[WARM_UP:], config.batch_size, flops)
    return jax.block_until_ready(before)

  def init(key):
    return init_state(method.init(key), optimizer, ema=config.optimizer.ema)

  def train(batch):
    nonlocal state
    state, metrics = step(state, batch, frozen)
    return metrics

  def same(batch):
    return batch

  with jax.set_mesh(mesh):
    replay = Replay(**vars(sampler))
    with loader(open_source('synthetic:train'), replay) as batches:
      batch = measure('hand-over', batches, same)
    places = sharding.tree_shardings(jax.eval_shape(init, jax.random.key(0)), mesh)
    frozen = jax.device_put(method.frozen, sharding.replicated(mesh))
    try:
      state = jax.jit(init, out_shardings=places)(jax.random.key(0))
      step = jit_step(step_function, state, mesh)
      began = time.perf_counter()
      jax.block_until_ready(train(batch))
      first = time.perf_counter() - began
      measure('step', itertools.repeat(batch), train)
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      raise UserError(
        f'{config.batch_size} clips do not fit: lower --batch, or raise --config.mesh.fsdp or '
        f'--config.optimizer.accumulate ({str(e).splitlines()[0]}).'
      ) from e
    memory = _peak_memory()
    if source is not None:
      for name, run in (('loader', same), ('training', train)):
        with loader(source, sampler) as batches:
          measure(name, batches, run)
  return {
    'method': config.method,
    'size': config.model.size,
    'batch_size': config.batch_size,
    'steps': steps,
    'mesh': dict(mesh.shape),
    'cores': os.cpu_count(),
    'clip_flops': clip_flops,
    'target_flops': method.target_flops(),
    'first_step_seconds': first,
    'peak_bytes': memory,
    'rows': rows,
  }


def _row(marks: list[tuple[float, float]], batch: int, clip_flops: int) -> dict[str, float]:
  """A row from (time, seconds waited for data so far) at the end of each step or batch."""
  seconds = [b[0] - a[0] for a, b in itertools.pairwise(marks)]
  whole, waited = (b - a for a, b in zip(marks[0], marks[-1], strict=True))
  rate = batch * len(seconds) / whole
  row = {'seconds': whole / len(seconds), 'fastest': min(seconds), 'slowest': max(seconds)}
  row |= {'clips_per_second': rate, 'data_wait': waited / whole}
  if clip_flops:
    row['teraflops_per_second'] = rate * clip_flops / 1e12
    if peak := chips.peak_flops(jax.devices()[0].device_kind):
      row['mfu'] = rate * clip_flops / (peak * jax.device_count())
  return row


def _peak_memory() -> int:
  """Bytes of the fullest device of this process; of the process itself on CPU."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  if all(stats):
    return max(x['peak_bytes_in_use'] for x in stats)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024  # Bytes on macOS, KiB on Linux.


def table(result: dict[str, Any]) -> str:
  """The numbers of `benchmark` as a table."""
  device, axes = jax.devices()[0], ' x '.join(f'{k} {n}' for k, n in result['mesh'].items())
  whole, apart = result['clip_flops'] / 1e9, result['target_flops'] / 1e9
  means = f'means of {result["steps"]}'
  lines = [
    f'{result["method"]}, size {result["size"]}: {result["batch_size"]:,} clips a step, mesh '
    f'{axes} of {device.device_kind}',
    f'{whole:,.1f} GFLOP a clip: the model {whole - apart:,.1f}, flow, targets and frozen networks '
    f'{apart:,.1f}',
    f'first step, with compiling, {result["first_step_seconds"]:.1f} s; peak memory of '
    f'{"this process" if device.platform == "cpu" else "a device"} '
    f'{result["peak_bytes"] / chips.GIB:.2f} GiB',
    '',
    f'{means:12}{"ms":>9}{"fastest to slowest":>21}{"clips/s":>10}{"MFU":>7}{"data wait":>11}',
  ]
  for name, row in result['rows'].items():
    span = f'{row["fastest"] * 1e3:.1f} to {row["slowest"] * 1e3:.1f}'
    mfu = f'{row["mfu"]:.1%}' if 'mfu' in row else ''
    wait = f'{row["data_wait"]:.0%}' if name == 'training' else ''
    line = f'{name:12}{row["seconds"] * 1e3:9.1f}{span:>21}{row["clips_per_second"]:10.1f}'
    lines.append(f'{line}{mfu:>7}{wait:>11}'.rstrip())
  if chips.peak_flops(device.device_kind) is None:
    lines.append(f'no MFU: the peak of {device.device_kind} is not in vmae_jax/chips.py')
  if 'loader' in result['rows']:
    a_core = result['rows']['loader']['clips_per_second'] / result['cores'] / jax.process_count()
    lines.append(f'the loader brings {a_core:.1f} clips/s for each of {result["cores"]} cores')
  else:
    lines.append('loader and training were left out: data.train names no videos')
  return '\n'.join(lines)


def main(argv):
  of_loader = argv[1:] == ['loader']
  cli.refuse_arguments(argv[: 1 if of_loader else None])
  out = _OUT.value and Path(_OUT.value)
  if out:
    cli.check_file(out)
  if _DISTRIBUTED.value:
    peers.join()
  config = _CONFIG()
  if _BATCH.value is not None:
    config.batch_size = _BATCH.value
  if of_loader:
    decode = _FEED.value != 'dummy'
    if decode:
      if not config.data.train:
        raise UserError(f'--feed={_FEED.value}: name the videos, --config.data.train=...')
      of_shards = isinstance(open_source(config.data.train, root=config.data.root), ShardSource)
      if of_shards != (_FEED.value == 'shards'):
        raise UserError(
          f'--feed={_FEED.value}: {config.data.train} is {"" if of_shards else "not "}a folder of '
          f'shards: give --feed={"shards" if of_shards else "raw"}.'
        )
    result = feed(config, batches=_STEPS.value, decode=decode)
  else:
    result = benchmark(config, steps=_STEPS.value)
  if jax.process_index() == 0:
    print(feed_table(result) if of_loader else table(result), flush=True)
    if out:
      storage.write_text(str(out), json.dumps(environment() | result, indent=2) + '\n')


if __name__ == '__main__':
  cli.run(main)
