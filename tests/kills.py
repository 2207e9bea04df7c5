"""Kills a small pre-training at random moments, again and again, and compares with one left alone.

    python -m tests.kills --seed=0 --count=40

Each method is started, killed with SIGKILL after a random time, started again and so on until it
ends; then parameters, moments, counters and all lines of metrics.jsonl must equal those of an
unbroken run to the last bit, each step logged once. Exit code 1 if any does not.
"""

import argparse
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')

from tests import started

METHODS = ('videomae', 'motionmae', 'mam2', 'mgmae', 'mme')
STEPS = 30
# Log lines fall between checkpoints.
OVERRIDES = (f'steps={STEPS}', 'checkpoint.every_steps=2', 'log.every_steps=3')


def run_with_kills(folder, method, *, env, kills, draw):
  """Lets one run of a method alone, and kills another one so many times.

  Moments are drawn from all the time that the first one took, within a quarter of a second after
  a new checkpoint's folder appears, half-written or whole, and after a new line of metrics.

  Returns:
    What was done to it, a line for each kill.

  Raises:
    AssertionError: the two runs differ.
  """
  config, begun = f'{started.ROOT}/configs/{method}.py:smoke', time.monotonic()
  started.run(folder / method, *OVERRIDES, env=env, config=config)
  seconds, workdir, told = time.monotonic() - begun, folder / f'{method}-killed', []
  while True:
    process = started.start(workdir, *OVERRIDES, env=env, config=config)
    if len(told) < kills:
      told.append(_kill(process, workdir, seconds, draw))
    output, _ = process.communicate(timeout=600)
    if process.returncode == 0:
      break
    assert process.returncode == -signal.SIGKILL, output
  try:
    _compare(folder / method, workdir)
  except AssertionError as e:
    raise AssertionError('\n'.join([*told, str(e)])) from e
  return told


def _kill(process, workdir, seconds, draw):
  kind, pause = draw.choice(('time', 'save', 'step')), draw.uniform(0, 0.25)
  if kind == 'time':
    pause = draw.uniform(0, seconds)
  else:
    look = _folders if kind == 'save' else _lines
    before, wanted = look(workdir), draw.randint(1, 3)
    while process.poll() is None and len(look(workdir) - before) < wanted:
      time.sleep(0.002)
  time.sleep(pause)
  process.kill()
  return f'{kind} {pause:.2f} s, checkpoints {sorted(_folders(workdir))}'


def _folders(workdir):
  try:
    return set(os.listdir(workdir / 'checkpoints'))
  except FileNotFoundError:
    return set()


def _lines(workdir):
  try:
    return set((workdir / 'metrics.jsonl').read_text().splitlines())
  except FileNotFoundError:
    return set()


def _compare(one, other):
  started.assert_same_state(one, other, STEPS)
  assert started.metrics(one) == started.metrics(other)
  assert [line['step'] for line in started.metrics(other)] == list(range(3, STEPS + 1, 3))
  left = [name for name in _folders(other) if not name.isdigit()]
  assert not left, left


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--count', type=int, default=40, help='kills, over all methods')
  parser.add_argument('--methods', default=','.join(METHODS))
  args = parser.parse_args()
  methods, draw = args.methods.split(','), random.Random(args.seed)
  failed = 0
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    env = started.environment(cache=os.environ.get('JAX_COMPILATION_CACHE_DIR', folder / 'cache'))
    for i, method in enumerate(methods):
      kills = args.count // len(methods) + (i < args.count % len(methods))
      try:
        told = run_with_kills(folder, method, env=env, kills=kills, draw=draw)
        print(*told, f'{method}: {len(told)} kills, equal', sep='\n', flush=True)
      except AssertionError as e:
        failed += 1
        print(f'{method}: DIFFERS\n{e}', flush=True)
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
