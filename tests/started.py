"""Runs of `python -m vmae_jax.pretrain` as a user starts them, small enough for tests."""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.hurry import XLA_FLAGS
from vmae_jax.errors import EXIT_UNAVAILABLE

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = f'{ROOT}/configs/videomae.py:smoke'
NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed: pip install jax[tpu]'
)


def environment(devices=1, *, cache=None, **more):
  """The environment of a child process, with emulated devices and a cache of compiled programs."""
  env = {k: v for k, v in os.environ.items() if not k.startswith(('JAX_', 'XLA_'))}
  env |= {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{XLA_FLAGS} --xla_force_host_platform_device_count={devices}',
    'JAX_COMPILATION_CACHE_DIR': str(cache or os.environ['JAX_COMPILATION_CACHE_DIR']),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'],
  }
  return env | {name: str(value) for name, value in more.items()}


def compile_for_tpus(program):
  """Runs a program that compiles for TPUs that this machine lacks; returns what it printed."""
  env = environment(
    PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path[1:]]),
    ALLOW_MULTIPLE_LIBTPU_LOAD=1,
    TPU_ACCELERATOR_TYPE='v5litepod-4',
    TPU_SKIP_MDS_QUERY=1,
    TPU_WORKER_HOSTNAMES='localhost',
  )
  command = [sys.executable, '-c', program]
  done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def start(workdir, *overrides, env, config=SMOKE, flags=()):
  """Starts a run; returns the process."""
  command = [sys.executable, '-m', 'vmae_jax.pretrain', f'--config={config}']
  command += [f'--workdir={workdir}', *flags, *(f'--config.{o}' for o in overrides)]
  return subprocess.Popen(
    command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


def run(workdir, *overrides, env, config=SMOKE, code=0):
  """Runs to the end; returns what was printed."""
  process = start(workdir, *overrides, env=env, config=config)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == code, output
  return output


def start_processes(workdir, *overrides, cache=None, count, devices, config=SMOKE):
  """Starts one training in several processes, all on this machine; returns them."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  return [
    start(
      workdir,
      *overrides,
      config=config,
      flags=('--distributed',),
      env=environment(
        devices,
        cache=cache,
        JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}',
        JAX_NUM_PROCESSES=count,
        JAX_PROCESS_ID=i,
      ),
    )
    for i in range(count)
  ]


def run_processes(workdir, *overrides, code=0, **kwargs):
  """Runs one training in several processes to the end; returns what each has printed.

  If all end as unavailable they are started again, as by launchers: on a busy machine a process
  may come later than the 30 s that Gloo waits for it.
  """
  for _ in range(3):
    processes = start_processes(workdir, *overrides, **kwargs)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    if any(process.returncode != EXIT_UNAVAILABLE for process in processes):
      break
  assert all(process.returncode == code for process in processes), '\n'.join(outputs)
  return outputs


def wait_for(processes, *, code=0):
  """Waits until all have ended with `code`; returns what each has printed."""
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  assert all(process.returncode == code for process in processes), '\n'.join(outputs)
  return outputs


def forget(workdir, *keys):
  """Makes config.json that of a run which is older than these keys."""
  path = pathlib.Path(workdir) / 'config.json'
  config = json.loads(path.read_text())
  for key in keys:
    *blocks, name = key.split('.')
    block = config
    for part in blocks:
      block = block[part]
    del block[name]
  path.write_text(json.dumps(config))


def losses(workdir):
  """Step -> loss."""
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  return {r['step']: r['loss'] for r in map(json.loads, lines)}


def metrics(workdir):
  """The lines of metrics.jsonl without values that depend on the clock."""
  clock = 'time clips_per_second step_seconds data_wait teraflops_per_second mfu'.split()
  lines = map(json.loads, (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines())
  return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def arrays(workdir, step):
  """Every array of a checkpoint's train state, under its path."""
  item = pathlib.Path(workdir).absolute() / 'checkpoints' / str(step) / 'state'
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    metadata = ocp.PyTreeCheckpointHandler().metadata(item).tree
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    tree = reader.restore(item, args=ocp.args.PyTreeRestore(restore_args=args))
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def assert_same_state(one, other, step):
  """Both runs' states at `step` are equal to the last bit."""
  a, b = arrays(one, step), arrays(other, step)
  assert a.keys() == b.keys() and len(a) > 50
  for path in a:
    np.testing.assert_array_equal(a[path], b[path], err_msg=path)
