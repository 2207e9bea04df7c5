"""A whole pre-training step, beside transformers' VideoMAE in PyTorch.

Each contender runs in a process of its own, so that their memory can be told apart, and they
take turns, so that both meet the same noise. A turn is two steps, of which the second counts:
training takes its steps one after another, and the first one after a pause pays for what the
system took back of caches and memory meanwhile. Times are medians.
"""

import json
import os
import statistics
import subprocess
import sys

from vmae_jax.errors import UserError, lookup
from vmae_jax.models import flops
from vmae_jax.models.sizes import SIZES

CONTENDERS = ('vmae_jax', 'torch', 'torch_compiled')


class Contender:
  """A process that does one step whenever it is told to."""

  def __init__(self, name: str, settings: dict, *, label: str = ''):
    self.name = label or name
    command = [sys.executable, '-m', 'vmae_jax.benchmark.contenders', name, json.dumps(settings)]
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    self.about = self._answer()

  def _answer(self) -> dict:
    for line in self._process.stdout:
      if line.startswith('{'):
        return json.loads(line)
    raise UserError(f'benchmark: the process of {self.name} ended early; its error is above.')

  def ask(self, what: str) -> dict:
    self._process.stdin.write(what + '\n')
    self._process.stdin.flush()
    return self._answer()

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait(timeout=60)


def take_turns(running: list[Contender], *, rounds: int) -> tuple[dict, dict]:
  """Seconds of each contender's steps, and its peak memory in bytes; ends the contenders."""
  times = {c.name: [] for c in running}
  try:
    for contender in running:
      contender.ask('step')
    for _ in range(rounds):
      for contender in running:
        contender.ask('step')
        times[contender.name].append(contender.ask('step')['seconds'])
    return times, {c.name: c.ask('memory')['bytes'] for c in running}
  finally:
    for contender in running:
      contender.close()


def benchmark_step(*, size: str, batch: int, rounds: int, contenders: list[str]) -> dict:
  """Times steps of 16 x 224 x 224 clips, 90 % masked: forward, backward, AdamW.

  Returns:
    For each contender the median, smallest and largest seconds of a step, peak memory in
    bytes (of the process on CPU, of the device on GPU), clips/s and FLOP/s; and the ratios to
    each PyTorch contender.
  """
  lookup(SIZES, size, '--size')
  settings = {'size': size, 'batch': batch}
  running = [Contender(name, settings) for name in contenders]
  times, memory = take_turns(running, rounds=rounds)
  about = {c.name: c.about for c in running}
  count = clip_flops(size)
  rows = {}
  for name, seconds in times.items():
    median = statistics.median(seconds)
    rows[name] = {
      'seconds': median,
      'fastest': min(seconds),
      'slowest': max(seconds),
      'peak_bytes': memory[name],
      'clips_per_second': batch / median,
      'teraflops_per_second': batch * count / median / 1e12,
      **about[name],
    }
  ours = rows.get('vmae_jax')
  ratios = {
    name: {
      'time': ours['seconds'] / row['seconds'],
      'memory': ours['peak_bytes'] / row['peak_bytes'],
    }
    for name, row in rows.items()
    if ours and name != 'vmae_jax'
  }
  return {
    'size': size, 'batch': batch, 'rounds': rounds, 'gigaflops_a_clip': count / 1e9,
    'contenders': rows, 'ratios': ratios,
  }  # fmt: skip


def clip_flops(size: str) -> int:
  """FLOPs of a training step for one clip, 160 of 1,568 tokens visible."""
  encoder, decoder = dict(SIZES[size]), SIZES[size]['decoder']
  forward = flops.autoencoder_flops(
    encoder=encoder,
    decoder=decoder,
    heads={'pixels': Output('decoder', 1536)},
    visible=160,
    masked=1408,
    patch_values=1536,
  )
  return flops.training_flops(forward)


def table(result: dict) -> str:
  """The result as Markdown."""
  lines = [
    f'ViT-{result["size"].upper()}, {result["batch"]} clips of 16 x 224 x 224, 90 % masked, '
    f'{result["gigaflops_a_clip"]:.1f} GFLOP a clip; medians of {result["rounds"]} steps',
    '',
    '| | step (s) | clips/s | TFLOP/s | peak memory (GB) | time of vmae_jax / it | memory |',
    '|---|---|---|---|---|---|---|',
  ]
  for name, row in result['contenders'].items():
    ratio = result['ratios'].get(name, {'time': 1.0, 'memory': 1.0})
    lines.append(
      f'| {name} | {row["seconds"]:.3f} | {row["clips_per_second"]:.2f} | '
      f'{row["teraflops_per_second"]:.3f} | {row["peak_bytes"] / 1e9:.2f} | '
      f'{ratio["time"]:.2f} | {ratio["memory"]:.2f} |'
    )
  return '\n'.join(lines)
