"""GPUs that are not present: names, and a step that is compiled for one."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import started
from vmae_jax.errors import UserError
from vmae_jax.planning import gpus, slices

HERE = importlib.util.find_spec('jax_plugins') is not None


@pytest.mark.parametrize('name, known', [('h200:8', True), ('2*b200:8', True), ('h300:8', False)])
def test_names(name, known):
  assert gpus.is_gpu(name) == known


def test_missing_jax_for_cuda_is_an_error(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r'a100:8 .* pip install "jax\[cuda13\]==.*no GPU'):
    slices.slice_devices('a100:8')
  with pytest.raises(UserError, match=r'h300:8 is not known.* h200, .* 2\*h200:8'):
    slices.slice_devices('h300:8')


def test_without_a_gpu_one_line_says_so():
  command = [sys.executable, '-m', 'vmae_jax.planning.gpus']
  done = subprocess.run(
    command, env=started.environment(1), cwd=started.ROOT, capture_output=True, text=True
  )
  assert done.returncode == 2 and done.stderr.startswith('error: no GPU is at hand: ')
  assert len(done.stderr.splitlines()) == 1 and not done.stdout


@pytest.mark.slow  # As it needs 0.4 GB of wheels.
@pytest.mark.skipif(not HERE, reason='JAX for CUDA is not installed: pip install jax[cuda13]')
def test_xla_returns_the_description_that_it_was_given():
  text = gpus.describe(gpus.gpu_devices('a100:2'))
  assert 'NVIDIA A100-SXM4-80GB' in text and 'core_count: 108' in text and 'major: 8' in text


# cuDNN's wheel, of 0.9 GB, is needed for nothing but JAX's look at its version.
ESTIMATE = """
import runpy, sys
from jax._src.cudnn import fused_attention_stablehlo as cudnn
cudnn.check_cudnn_version = lambda: 91200
runpy.run_module('vmae_jax.estimate', run_name='__main__')
"""


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason='JAX for CUDA is not installed: pip install jax[cuda13]')
def test_a_step_for_two_hosts_of_gpus(tmp_path):
  command = [sys.executable, '-c', ESTIMATE, f'--config={started.SMOKE}', '--batch=16']
  command += ['--topology=2*h200:8', f'--out={tmp_path}/out.json']
  paths = os.pathsep.join([str(started.ROOT), os.environ.get('PYTHONPATH', '')])
  env = started.environment(1, PYTHONPATH=paths)
  done = subprocess.run(command, env=env, cwd=started.ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  result = json.loads((tmp_path / 'out.json').read_text())
  assert (result['device'], result['devices'], result['hosts']) == ('NVIDIA H200', 16, 2)
  assert result['model']['dtype'] == 'bfloat16' and result['fits']
  assert set(result['collectives']) == {'all-reduce'}
  assert result['memory']['limit'] == int(0.9 * 141e9) and result['compiled_clip_flops'] is None
  # Attention in all six layers, forward and backward.
  of = {name: n for name, n in result['kernels'].items() if 'fmha' in name}
  assert of == {'__cudnn$fmhaSoftmax': 6, '__cudnn$fmhaSoftmaxBackward': 6}
  assert '__cublas$lt$matmul' in result['kernels']


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason='JAX for CUDA is not installed: pip install jax[cuda13]')
def test_a_product_for_which_triton_has_no_tiles_unless_it_tries():
  [gpu] = gpus.gpu_devices('h200:1')
  place = jax.sharding.SingleDeviceSharding(gpu)
  frames = jax.ShapeDtypeStruct((64, 224, 224, 3), np.float32, sharding=place)
  lowered = jax.jit(lambda x: jax.image.resize(x, (64, 112, 112, 3), 'lanczos3')).lower(frames)
  text = lowered.compile(compiler_options=gpus.untried(gpu)).as_text()
  assert '__cublas$lt$matmul' in text and gpus.untried(jax.devices()[0]) == {}
