"""Weak scaling: how it asks for compiled steps, and one that is compiled."""

import pytest

from tests.benchmark import scaling
from tests.benchmark.fits import compile_alone
from tests.test_estimate import environment
from vmae_jax.errors import UserError

MB = 10**6


@pytest.fixture
def asked(monkeypatch):
  """Settings and environments of the processes that would compile."""
  calls = []

  def compile_alone(method, size, topology, settings, folder, *, env):
    calls.append((size, topology, settings, env))
    count = settings['batch_size'] // 3
    sums = dict(operations=2, runs=4, bytes=8 * MB, sent=16 * MB * (count - 1) / count)
    memory = {'parameters': 8 * MB, 'optimizer': 16 * MB, 'all': 30 * MB, 'limit': 64 * MB}
    return {'collectives': {'all-reduce': sums} if count > 1 else {}, 'memory': memory}

  monkeypatch.setattr(scaling, 'compile_alone', compile_alone)
  return calls


def test_each_device_has_as_many_clips(asked):
  result = scaling.benchmark_scaling(size='s', clips=3)
  assert [(row['axis'], row['devices']) for row in result['rows']] == [
    *(('data', n) for n in (1, 2, 4, 8)),
    *(('fsdp', n) for n in (1, 2, 4, 8)),
  ]
  for (size, topology, settings, env), row in zip(asked, result['rows'], strict=True):
    count = row['devices']
    assert (size, topology, settings['batch_size']) == ('s', 'local', 3 * count)
    mesh = {axis: settings.get(f'mesh.{axis}', 1) for axis in ('data', 'fsdp')}
    assert mesh == {'data': 1, 'fsdp': 1} | {row['axis']: count}
    assert env['JAX_PLATFORMS'] == 'cpu'
    assert env['XLA_FLAGS'] == f'--xla_force_host_platform_device_count={count}'
    assert row['sent'] == 16 * MB * (count - 1) / count
  lines = scaling.table(result).splitlines()
  assert lines[0].startswith('VideoMAE, ViT-S, 3 clips') and len(lines) == 4 + 8
  assert lines[4] == '| 1 | data | none | 0.0 | 24.0 | 30.0 |'
  assert lines[-1] == '| 8 | fsdp | all-reduce 4, 8.0 | 14.0 | 24.0 | 30.0 |'


def test_a_step_that_does_not_compile(monkeypatch):
  monkeypatch.setattr(scaling, 'compile_alone', lambda *_, env: {'error': 'error: no memory'})
  with pytest.raises(UserError, match='scaling: 1 devices as data: error: no memory'):
    scaling.benchmark_scaling(size='s', clips=1)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['videomae', 'motionmae', 'mam2', 'mgmae', 'mme'])
def test_every_method_sends_sums_alone(method, tmp_path):
  settings = {'batch_size': 4, 'model.scan': True}
  if method == 'mam2':
    settings['tokenizer.path'] = 'untrained'
  said = compile_alone(method, 'tiny', 'local', settings, tmp_path, env=environment(devices=4))
  assert list(said['collectives']) == ['all-reduce'], said
  # Gradients once, in float32, and metrics; those of biases of keys, which are 0, may be summed.
  gradients = said['memory']['parameters']
  assert 1 <= said['collectives']['all-reduce']['bytes'] / gradients < 1.05
