"""Kills small pre-trainings at random moments and compares them with unbroken runs.

    python -m tests.kills --seed=0 --count=200

Each method is started, killed with SIGKILL at a random moment, started again and so on until it
ends; then parameters, moments, counters and all lines of metrics.jsonl must equal those of an
unbroken run to the last bit, each step logged once. Such runs follow one another until `--count`
kills have hit a living process. Exit code 1 if any run differs or a start fails. The kills of a
method depend on the seed and its name alone, so that one can be repeated by `--methods`.

Moments (`KINDS`): in start-up; within a quarter of a second after a new checkpoint's folder
appears, half-written or whole, or after a new line of metrics; at any time; with the disk full,
which needs the right to mount one. With --bucket the killed runs are in a bucket of a fake
server, and instead of a full disk the server answers 503.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import fsspec

from tests import started
from vmae_jax import storage

METHODS = ('videomae', 'motionmae', 'mam2', 'mgmae', 'mme')
KINDS = ('start', 'save', 'step', 'time', 'full')
STEPS = 30
# Log lines fall between checkpoints.
OVERRIDES = (
  *('checkpoint.every_steps=2', 'log.every_steps=3', 'log.pictures_every_steps=20'),
  *('batch_size=2', 'data.repeats=2'),
)
IN_A_RUN = 10  # Most kills in a run.
DISK = 300  # Megabytes; three runs of the largest method take less.


def run_with_kills(folder, method, *, env, kills, draw, kinds, store=None, steps=STEPS):
  """Compares an unbroken run of a method with others, which are killed `kills` times in all.

  Args:
    folder: Folder of the runs; a separate disk if `kinds` has 'full'.
    store: The server whose bucket holds the killed runs; None: they are in `folder`, too.
    steps: Steps of a run; a multiple of 3.

  Returns:
    A line for each kill.

  Raises:
    AssertionError: two runs differ, or a start failed.
  """
  config = f'{started.ROOT}/configs/{method}.py:smoke'
  start = functools.partial(started.start, env=env, config=config)
  alone, begun = folder / method, time.time()
  process = start(alone, *OVERRIDES, f'steps={steps}')
  while process.poll() is None and not _lines(alone):
    time.sleep(0.05)
  startup = time.time() - begun
  output, _ = process.communicate(timeout=1200)
  assert process.returncode == 0, output
  spans, done = {'start': startup, 'time': time.time() - begun}, []
  workdir = f'{"gs://bucket" if store else folder}/{method}-killed'
  while len(done) < kills:
    most = len(done) + min(IN_A_RUN, kills - len(done))
    while True:
      process = start(workdir, *OVERRIDES, f'steps={steps}')
      if len(done) < most:
        about = _kill(process, workdir, spans, draw.choice(kinds), draw, store)
      output, _ = process.communicate(timeout=1200)
      (folder / 'filler').unlink(missing_ok=True)
      if process.returncode == 0:
        break
      code = process.returncode
      assert code == -signal.SIGKILL or (code == 74 and about.startswith(('full', 'busy'))), (
        f'{done}\n{about}: exit code {code}\n{output}'
      )
      done.append(f'{about}, code {code}')
    if store:
      fsspec.filesystem('gs').get(workdir, str(copy := folder / 'copy'), recursive=True)
    try:
      _compare(alone, copy if store else workdir, steps)
    except AssertionError as e:
      raise AssertionError('\n'.join([*done, str(e)])) from e
    if store:
      shutil.rmtree(copy)
    storage.remove(workdir)
  return done


def _kill(process, workdir, spans, kind, draw, store):
  pause = draw.uniform(0, spans.get(kind, 0.25))
  if kind in ('save', 'step', 'full', 'busy'):
    look = _lines if kind == 'step' else _folders
    before, wanted = look(workdir), draw.randint(1, 3)
    while process.poll() is None and len(look(workdir) - before) < wanted:
      time.sleep(0.002)
  if kind == 'full':
    filler = f'{os.path.dirname(workdir)}/filler'
    with contextlib.suppress(OSError), open(filler, 'wb', 0) as file:
      while process.poll() is None:
        file.write(bytes(1 << 16))
  if kind in ('full', 'busy'):
    pause = draw.uniform(0, 20)  # Sometimes until after the failed save that ends the run.
  if kind == 'busy':
    store.answer = 503
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(pause)
  process.kill()
  if store:
    store.answer = 0
  return f'{kind} {pause:.2f} s, checkpoints {sorted(_folders(workdir))}'


def _folders(workdir):
  folder = f'{workdir}/checkpoints'
  with contextlib.suppress(FileNotFoundError):
    return set(storage.names(folder))
  return set()


def _lines(workdir):
  with contextlib.suppress(FileNotFoundError):
    return set(storage.read(f'{workdir}/metrics.jsonl').splitlines())
  return set()


def _compare(one, other, steps):
  started.assert_same_state(one, other, steps)
  assert started.metrics(one) == started.metrics(other)
  assert [line['step'] for line in started.metrics(other)] == list(range(3, steps + 1, 3))
  left = [name for name in _folders(other) if not name.isdigit()]
  assert not left, left


@contextlib.contextmanager
def disk(folder):
  """Mounts a small disk in a folder; yields whether that was possible."""
  command = ['mount', '-t', 'tmpfs', '-o', f'size={DISK}m', 'tmpfs', str(folder)]
  mounted = subprocess.run(command, capture_output=True).returncode == 0
  try:
    yield mounted
  finally:
    if mounted:
      subprocess.run(['umount', '--lazy', str(folder)], check=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--count', type=int, default=40, help='kills, over all methods')
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--bucket', action='store_true')
  args = parser.parse_args()
  methods, failed = args.methods.split(','), 0
  with contextlib.ExitStack() as stack:
    store, last = None, 'full'
    if args.bucket:
      from tests.stand_in import Store

      store, last = stack.enter_context(Store()), 'busy'
      os.environ |= store.environment()
      fsspec.config.set_conf_env(fsspec.config.conf)
    for i, method in enumerate(methods):
      kills = args.count // len(methods) + (i < args.count % len(methods))
      draw = random.Random(f'{args.seed} {method}')
      with tempfile.TemporaryDirectory() as folder, disk(folder) as mounted:
        if not mounted:
          print('no disk can be mounted here: none is filled')
        kinds = KINDS if mounted or store else KINDS[:-1]
        kinds = [last if kind == 'full' else kind for kind in kinds]
        folder = pathlib.Path(folder)
        cache = os.environ.get('JAX_COMPILATION_CACHE_DIR', folder / 'cache')
        options = dict(env=started.environment(cache=cache), kills=kills, draw=draw)
        try:
          done = run_with_kills(folder, method, kinds=kinds, store=store, **options)
          print(*done, f'{method}: {len(done)} kills, equal', sep='\n', flush=True)
        except AssertionError as e:
          failed += 1
          print(f'{method}: DIFFERS\n{e}', flush=True)
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
