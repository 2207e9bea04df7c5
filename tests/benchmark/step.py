"""A whole step of pre-training, fine-tuning or inference, beside transformers' in PyTorch.

Each contender runs in a process of its own, so that their memory can be told apart, and they
take turns, so that both meet the same noise. A turn is two steps, of which the second counts:
training takes its steps one after another, and the first one after a pause pays for what the
system took back of caches and memory meanwhile. Times are medians.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys

from vmae_jax.errors import UserError, lookup
from vmae_jax.models.sizes import SIZES

CONTENDERS = ('vmae_jax', 'torch', 'torch_compiled')
# What a step is -> how the table calls it.
WORK = {
  'pretrain': 'pre-training, 90 % masked',
  'finetune': 'fine-tuning, 400 classes',
  'inference': 'inference, 400 classes',
}


def peers() -> list[str]:
  """PyTorch's contenders that can run here: none, or both where it sees a GPU."""
  if not all(importlib.util.find_spec(name) for name in ('torch', 'transformers')):
    return []
  # Asked in another process, as importing PyTorch here would take its memory and time.
  ask = 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)'
  gpu = subprocess.run([sys.executable, '-c', ask]).returncode == 0
  return ['torch', 'torch_compiled'] if gpu else ['torch']


class Contender:
  """A process that does one step whenever it is told to."""

  def __init__(self, name: str, settings: dict, *, label: str = ''):
    self.name = label or name
    command = [sys.executable, '-m', 'tests.benchmark.contenders', name, json.dumps(settings)]
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


def benchmark_step(work: str, *, size: str, batch: int, rounds: int, contenders: list[str]) -> dict:
  """Times steps of 16 x 224 x 224 clips: forward and, but for inference, backward and AdamW.

  Args:
    work: A key of WORK.
    size: A key of SIZES.
    batch: Clips in a step.
    rounds: Steps of each contender that are timed.
    contenders: Some of CONTENDERS, `vmae_jax` among them.

  Returns:
    For each contender the median, smallest and largest seconds of a step, peak memory in
    bytes (of the process on CPU, of the device on GPU), clips/s and FLOP/s; and the ratios to
    each PyTorch contender.
  """
  lookup(SIZES, size, '--sizes')
  settings = {'work': work, 'size': size, 'batch': batch}
  running = [Contender(name, settings) for name in contenders]
  times, memory = take_turns(running, rounds=rounds)
  about = {c.name: c.about for c in running}
  rows = {}
  for name, seconds in times.items():
    median = statistics.median(seconds)
    rows[name] = {
      'seconds': median,
      'fastest': min(seconds),
      'slowest': max(seconds),
      'peak_bytes': memory[name],
      'clips_per_second': batch / median,
      'teraflops_per_second': batch * about[name]['clip_flops'] / median / 1e12,
      **about[name],
    }
  ours = rows['vmae_jax']
  ratios = {
    name: {
      'time': ours['seconds'] / row['seconds'],
      'memory': ours['peak_bytes'] / row['peak_bytes'],
    }
    for name, row in rows.items()
    if name != 'vmae_jax'
  }
  return {
    'work': work, 'size': size, 'batch': batch, 'rounds': rounds,
    'gigaflops_a_clip': ours['clip_flops'] / 1e9, 'contenders': rows, 'ratios': ratios,
  }  # fmt: skip


def table(result: dict) -> str:
  """The result as Markdown."""
  lines = [
    f'ViT-{result["size"].upper()}, {WORK[result["work"]]}, {result["batch"]} clips of '
    f'16 x 224 x 224, {result["gigaflops_a_clip"]:.1f} GFLOP a clip; medians of '
    f'{result["rounds"]} steps',
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
