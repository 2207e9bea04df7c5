"""What a host with GPUs or TPUs measures in minutes: bash launch/measure.sh.

Each row is measured by a process of its own and written at once; rows that the file has are kept,
so that the next call goes on where time ran out. What nobody has published comes first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmark.report import describe
from tests.benchmark.step import peers
from vmae_jax import cli, storage
from vmae_jax.errors import UserError

ROOT = Path(__file__).parents[2]
METHODS = ('videomae', 'motionmae', 'mgmae', 'mme', 'mam2')
# Clips a device: of GPUs with 80 GB and more, and of all else, such as a v5e chip.
BATCHES = {True: {'s': 128, 'b': 64, 'l': 32}, False: {'s': 64, 'b': 32, 'l': 8}}


def commands(*, devices: int, large: bool, smoke: bool, torch: bool) -> dict[str, list[str]]:
  """Row -> what measures it, a Python module and its flags but for --out."""
  batches = {'smoke': 8} if smoke else BATCHES[large]
  few = ['--rounds=1'] if smoke else ['--rounds=5']

  def step(method, size):
    config = f'{ROOT}/configs/{method}.py:{size if smoke else f"{size},k400"}'
    flags = ['vmae_jax.benchmark', f'--config={config}', f'--batch={devices * batches[size]}']
    flags += [f'--steps={1 if smoke else 10}']
    return [*flags, '--config.tokenizer.path=untrained'] if method == 'mam2' else flags

  def beside(size, peer):
    flags = ['tests.benchmark', 'step', f'--sizes={size}', f'--batch={batches[size]}', *few]
    return [*flags, f'--contenders=vmae_jax,{peer}']

  first = 'smoke' if smoke else 'b'
  rows = {f'videomae {first}': step('videomae', first)}
  config = f'{ROOT}/configs/videomae.py:{"smoke" if smoke else "tiny,k400"}'
  rows['parity'] = ['tests.benchmark.parity', f'--config={config}']
  tokens = ['--tokens=16'] if smoke else []
  rows['attention'] = ['tests.benchmark', 'attention', f'--batch={batches[first]}', *few, *tokens]
  for size in () if smoke or not torch else ('b', 's', 'l'):
    for peer in ('torch_compiled', 'torch'):
      rows[f'beside {peer} {size}'] = beside(size, peer)
  for size in sorted(batches, key=[first, 's', 'l'].index):
    rows |= {f'{method} {size}': step(method, size) for method in METHODS}
  return rows


def measure(
  rows: dict[str, list[str]], kept: dict[str, Any], *, seconds: float
) -> Iterator[dict[str, Any]]:
  """Runs what `kept` lacks or failed in; yields all results whenever there is one more."""
  end, results = time.monotonic() + seconds, dict(kept)
  for name, command in rows.items():
    left = end - time.monotonic()
    if 'error' not in results.get(name, {'error': ''}):
      continue
    if left <= 0:
      return
    print(f'{name} ...', end=' ', flush=True, file=sys.stderr)
    results[name] = _run(command, seconds=left)
    print(results[name].get('error', 'done'), flush=True, file=sys.stderr)
    yield results


def _run(command: list[str], *, seconds: float) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / 'out.json'
    # Peers share the GPU.
    env = os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'PYTHONPATH': str(ROOT)}
    try:
      done = subprocess.run(
        [sys.executable, '-m', *command, f'--out={out}'],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds,
      )
    except subprocess.TimeoutExpired:
      return {'error': 'out of time'}
    if done.returncode or not out.exists():
      return {'error': (done.stderr.strip().splitlines() or [f'ended with {done.returncode}'])[-1]}
    return json.loads(out.read_text())


def _devices() -> tuple[int, int]:
  """How many there are and the bytes of one, asked in a process that then lets them go."""
  ask = 'import jax; d = jax.devices(); m = d[0].memory_stats() or {}; '
  ask += 'print(len(d), m.get("bytes_limit", 0))'
  done = subprocess.run([sys.executable, '-c', ask], stdout=subprocess.PIPE, text=True)
  if done.returncode:
    raise UserError('JAX finds no devices here: its error is above.')
  count, size = map(int, done.stdout.split()[-2:])
  return count, size


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser('bash launch/measure.sh', description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=Path, default='measured.json', help='what it has is kept')
  parser.add_argument(
    '--minutes', type=float, default=9.0, help='after which a row is given up, and no other begun'
  )
  parser.add_argument('--smoke', action='store_true', help='the same at the size of a smoke run')
  args = parser.parse_args(argv[1:])
  began, out, results = time.monotonic(), args.out, {}
  if out.exists():
    results = json.loads(out.read_text())['rows']
  devices, size = _devices()
  torch = 'torch_compiled' in peers()
  rows = commands(devices=devices, large=size > 60e9, smoke=args.smoke, torch=torch)
  left = 60 * args.minutes - (time.monotonic() - began)
  for more in measure(rows, results, seconds=left):
    results = more
    storage.write_text(str(out), json.dumps(describe() | {'rows': results}, indent=2) + '\n')
  print(json.dumps(describe() | {'rows': results}, indent=2))
  missing = [name for name in rows if 'error' in results.get(name, {'error': ''})]
  print(f'{len(rows) - len(missing)} of {len(rows)} rows are in {out}.', file=sys.stderr)
  if missing:
    print(f'Start again for: {", ".join(missing)}.', file=sys.stderr)


if __name__ == '__main__':
  cli.run(main, absl_flags=False)
