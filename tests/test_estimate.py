"""`python -m vmae_jax.estimate`: its figures for a step on four devices, and what it refuses."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import started
from tests.hurry import XLA_FLAGS
from vmae_jax import sharding
from vmae_jax.config_file import load_config
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import open_source
from vmae_jax.method.build import build_method
from vmae_jax.planning import aot, estimate
from vmae_jax.training.pretraining import clip_sampler

SMALL = ('model.decoder_depth=1', 'data.frames=4')  # Compiles faster.
MB = 1e6


def environment(*, devices):
  """The environment of a child process: emulated devices, and a fast compiler."""
  env = {k: v for k, v in os.environ.items() if not k.startswith(('JAX_', 'XLA_'))}
  return env | {
    'PYTHONPATH': os.pathsep.join([str(started.ROOT), os.environ.get('PYTHONPATH', '')]),
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'True',
    'XLA_FLAGS': f'{XLA_FLAGS} --xla_force_host_platform_device_count={devices}',
  }


def start(*arguments):
  """The entry point as a user calls it, with four emulated devices."""
  command = [sys.executable, '-m', 'vmae_jax.estimate', f'--config={started.SMOKE}', *arguments]
  return subprocess.run(
    command,
    env=environment(devices=4),
    cwd=started.ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )


def estimated(folder, *overrides):
  """The JSON and the text."""
  out = folder / 'estimate.json'
  overrides = [f'--config.{x}' for x in (*SMALL, *overrides)]
  done = start('--topology=local', f'--out={out}', *overrides)
  assert done.returncode == 0, done.stderr
  return json.loads(out.read_text()), done.stdout


@pytest.fixture(scope='module')
def parallel(tmp_path_factory):
  return estimated(tmp_path_factory.mktemp('parallel'))


@pytest.fixture(scope='module')
def sharded(tmp_path_factory):
  return estimated(tmp_path_factory.mktemp('sharded'), 'mesh.fsdp=4', 'optimizer.ema=0.9')


def parameters():
  """Shapes of the parameters by path."""
  config = load_config(started.SMOKE)
  config.model.decoder_depth, config.data.frames = 1, 4
  params = jax.eval_shape(build_method(config).init, jax.random.key(0))
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): x.shape for path, x in leaves}


def test_data_parallel_steps_reduce_gradients_and_metrics_alone(parallel):
  result, _ = parallel
  assert result['mesh'] == {'data': 4, 'fsdp': 1, 'tensor': 1} and result['fits']
  assert list(result['collectives']) == ['all-reduce']
  gradients = 4 * sum(np.prod(shape) for shape in parameters().values())
  # With the biases of queries and values that of keys, which is 0, may be summed; and some
  # scalars: parts of the loss, the count of replaced clips.
  keys = 4 * 128 * 5
  assert 0 < result['collectives']['all-reduce']['bytes'] - gradients < keys + 200
  assert result['collectives']['all-reduce']['sent'] == pytest.approx(1.5 * gradients, rel=1e-3)


def test_sharded_steps_also_gather_and_scatter(sharded):
  result, _ = sharded
  kinds = set(result['collectives'])
  assert 'all-gather' in kinds and kinds <= {'all-reduce', 'all-gather', 'reduce-scatter'}
  # Each kernel that is split is gathered at least once.
  split = 4 * sum(np.prod(s) for path, s in parameters().items() if path.endswith('kernel'))
  assert split <= result['collectives']['all-gather']['bytes'] < 3 * split


def test_memory_of_the_state_is_as_counted_by_hand(parallel, sharded):
  shapes = parameters()
  whole = 4 * sum(np.prod(shape) for shape in shapes.values())
  memory = parallel[0]['memory']
  assert memory['parameters'] == whole
  assert memory['optimizer'] == 2 * whole + 8  # AdamW's moments and two counters.
  # uint8 video, four int32 and two bool of each of 2 clips.
  assert memory['batch'] == 2 * (4 * 32 * 32 * 3 + 4 * 4 + 2)
  assert 'average of parameters' not in memory
  # All kernels divide by 4 here; biases, norms and the mask token are whole.
  part = 4 * sum(np.prod(s) // (4 if p.endswith('kernel') else 1) for p, s in shapes.items())
  memory = sharded[0]['memory']
  assert memory['parameters'] == memory['average of parameters'] == part < 0.3 * whole
  assert memory['optimizer'] == 2 * part + 8
  for memory in (parallel[0]['memory'], sharded[0]['memory']):
    assert memory['activations, gradients, temporaries'] > 10**6
    parts = sum(size for kind, size in memory.items() if kind not in ('all', 'limit'))
    assert memory['all'] == parts


def test_a_state_keeps_its_shardings(parallel, sharded):
  assert parallel[0]['resharded'] == sharded[0]['resharded'] == 0


def test_flops(parallel):
  result, _ = parallel
  # The compiler counts one of four layers of the encoder, and norms and the optimizer.
  assert 0.2 < result['compiled_clip_flops'] / result['clip_flops'] < 1.2


def test_what_is_printed(parallel, sharded):
  result, text = parallel
  # Only matrix products are counted; pixels are normalised without one, except on TPUs.
  assert result['target_flops'] == 0
  for part in (
    'videomae, size demo: 8 clips a step, 2 a chip, on local: 4 x cpu, 1 host, mesh data 4 x',
    'jaxlib ',
    ': fits',
    'GFLOP a clip: ',
    'No published peak of cpu is known',
  ):
    assert part in text, text
  assert re.search(r'^  all-reduce +\d+ +\d+ +[\d.]+ +[\d.]+$', text, re.M), text
  assert re.search(r'^  average of parameters +[\d.]+ MiB$', sharded[1], re.M)


LOCAL = '--topology=local'
MISTAKES = [
  (['--topology=v5e:3x3'], ['v5e slice is one of', '16x16']),
  (['--topology=v9:2x2'], ['--topology', "no 'v9'"]),
  ([], ['give --topology']),
  ([LOCAL, '--batch=6'], ['batch_size 6 is no', '4 or 8']),
  ([LOCAL, '--config.mesh.fsdp=3'], ['mesh', 'fsdp=3', '4 devices']),
  ([LOCAL, '--mfu=40'], ['--mfu=40', 'up to 1']),
  ([LOCAL, '--videos=0'], ['--videos=0', 'above 0']),
  ([LOCAL, '--out=nowhere/a.json'], ['--out=nowhere/a.json']),
  ([LOCAL, '--config=configs/finetune.py:demo'], ['is not for pre-training']),
  ([LOCAL, '--config=configs/videomae.py:q'], ['SIZE,DATASET']),
  ([LOCAL, '--config.masking.ratoi=1'], ["Did you mean 'ratio'"]),
]
# All in one process: starting one takes longer than finding a mistake.
PROGRAM = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from vmae_jax import cli, estimate
for arguments in json.loads(sys.stdin.read()):
  if not any(x.startswith('--config=') for x in arguments):
    arguments = ['--config=configs/videomae.py:smoke', *arguments]
  sys.argv = ['estimate', *arguments]
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    try:
      cli.run(estimate.main)
    except SystemExit as e:
      assert e.code == 2, arguments
"""


def test_mistakes():
  env = environment(devices=4)
  given = json.dumps([arguments for arguments, _ in MISTAKES])
  command = [sys.executable, '-c', PROGRAM]
  done = subprocess.run(
    command, input=given, env=env, cwd=started.ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  lines = done.stderr.splitlines()
  assert len(lines) == len(MISTAKES), done.stderr
  for line, (arguments, parts) in zip(lines, MISTAKES, strict=True):
    assert line.startswith('error: '), line
    assert [part for part in parts if part not in line] == [], (arguments, line)


@pytest.mark.parametrize('method', ['videomae:smoke', 'mme:smoke'])
def test_the_batch_is_the_loaders(method):
  name, _, variant = method.partition(':')
  config = load_config(f'{started.ROOT}/configs/{name}.py:{variant}')
  method = build_method(config)
  mesh = sharding.make_mesh()
  loader = Loader(
    open_source('synthetic:train'),
    clip_sampler(config),
    batch_size=config.batch_size,
    seed=0,
    shuffle=True,
    mesh=mesh,
    num_steps=1,
    threads=1,
  )
  (batch,) = loader
  loader.close()
  there = {name: (x.shape, x.dtype, x.sharding) for name, x in batch.items()}
  shapes = aot.batch_shapes(config, method, mesh)
  assert there == {name: (x.shape, x.dtype, x.sharding) for name, x in shapes.items()}


def test_auto_is_resolved_for_the_tpu():
  config = load_config(started.SMOKE)
  resolved = aot.resolve(config, 'tpu').model
  assert (resolved.dtype, config.model.dtype) == ('bfloat16', 'auto')
  config.model.dtype = 'float32'
  assert aot.resolve(config, 'tpu').model.dtype == 'float32'
  config.model.dtype = 'auto'
  assert aot.resolve(config, 'cpu').model.dtype == 'auto'


OOM = (
  'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
  'Used 24.50G of 15.75G hbm. Exceeded hbm capacity by 8.75G.'
)


OOM_OF_TEMPORARIES = (
  'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
  '(18.50G) exceeds available HBM (15.75G).'
)


def test_a_step_that_does_not_fit():
  limit = int(15.75 * 2**30)
  assert aot._exhausted(OOM, 2**30) == {'all': int(24.5 * 2**30), 'limit': limit}
  assert aot._exhausted(OOM_OF_TEMPORARIES, 2**30) == {'all': int(19.5 * 2**30), 'limit': limit}
  with pytest.raises(RuntimeError, match='INTERNAL'):
    aot._exhausted('INTERNAL: something else', 2**30)


def test_time_and_cost_in_words():
  result = {
    'device': 'TPU v5 lite',
    'fits': True,
    'hosts': 64,
    'counted_seconds': None,
    'clock': 1.5e9,
    'peak_flops': 197e12,
    'network_bytes_per_second': 200e9,
    'source': 'a page',
    'speed': {
      'arithmetic_seconds': 0.1,
      'network_seconds': 0.02,
      'step_seconds': 0.25,
      'mfu': 0.4,
      'clips_per_second': 4096.0,
    },
    'cost': {'steps': 1000, 'hours': 0.07, 'chip_hours': 17.8},
    'feed': {'decode_rate': 20.0, 'video_bytes': 1e6},
    'host': {
      'cores': 3.2,
      'read_bytes_per_second': 64 * MB,
      'transfer_bytes_per_second': 154 * MB,
    },
  }
  text = '\n'.join(estimate._time(result, result['speed']))
  for part in (
    'at least 100.0 ms of arithmetic (197 TFLOP/s a chip) and 20.0 ms of network (200 GB/s',
    'at an assumed MFU (--mfu): 250.0 ms a step, 40% MFU, 4,096 clips/s',
    '1,000 steps: 0.1 hours, 18 chip-hours',
    'each of 64 hosts: 3.2 cores that decode 20 clips/s each',
    'reads 64 MB/s of files of 1 MB',
    'moves 154 MB/s',
  ):
    assert part in text, text
  result['counted_seconds'] = 0.25
  text = '\n'.join(estimate._time(result, result['speed']))
  assert 'by these cycles at 1.50 GHz (without gathers' in text and 'assumed' not in text
  assert 'other): 250.0 ms a step, 40% MFU, 4,096 clips/s' in text
  result['cost'] = None
  assert 'give --videos=N' in '\n'.join(estimate._time(result, result['speed']))


def compiled_for(topology, folder):
  """The same for TPUs that this machine lacks, and what was printed."""
  out = folder / 'estimate.json'
  small = [f'--config.{x}' for x in SMALL]
  done = start(f'--topology={topology}', '--batch=32', f'--out={out}', *small)
  assert done.returncode == 0, done.stderr
  result = json.loads(out.read_text())
  assert result['fits'] and result['resharded'] == 0
  return result, done.stdout


@pytest.mark.slow
@started.NEEDS_LIBTPU
@pytest.mark.parametrize(
  'topology, device, peak', [('v5e:2x2', 'TPU v5 lite', 197e12), ('v5p:2x2x1', 'TPU v5', 459e12)]
)
def test_a_tpu_that_this_machine_lacks(topology, device, peak, tmp_path):
  result, text = compiled_for(topology, tmp_path)
  assert 'cycles of a core in a step, as the compiler counts' in text
  assert min(result['cycles'][f'{part}, attention'] for part in ('encoder', 'decoder')) > 1000
  assert result['device'] == device and result['devices'] == 4
  assert list(result['collectives']) == ['all-reduce']
  # Gradients, in half of float32's bytes or all of them, and metrics: nothing else is summed.
  gradients = sum(np.prod(s) for s in parameters().values())
  assert 2 <= result['collectives']['all-reduce']['bytes'] / gradients < 4.05
  assert result['memory']['parameters'] == 4 * gradients
  clock = {'TPU v5 lite': 1.5e9, 'TPU v5': 1.75e9}[device]
  seconds = sum(result['cycles'].values()) / clock
  assert result['speed']['step_seconds'] == pytest.approx(seconds, rel=5e-3)
  assert result['speed']['mfu'] == pytest.approx(
    result['clip_flops'] * 8 / peak / seconds, rel=5e-3
  )


@pytest.mark.slow
@started.NEEDS_LIBTPU
def test_two_slices_that_this_machine_lacks(tmp_path):
  result, text = compiled_for('2*v5e:2x2', tmp_path)
  assert (result['devices'], result['slices'], result['hosts']) == (8, 2, 2)
  assert result['mesh'] == {'data': 8, 'fsdp': 1, 'tensor': 1}
  assert 'on 2*v5e:2x2: 8 x TPU v5 lite, 2 slices, 2 hosts, mesh data 8' in text
  # Sums go over the chips of a slice, then over the slices; the network between slices is not
  # known.
  assert set(result['collectives']) <= {'all-reduce', 'all-gather', 'reduce-scatter'}
  assert result['speed']['network_seconds'] is None and 'ms of network' not in text
