"""Names of slices."""

import types

import pytest

from vmae_jax.errors import UserError
from vmae_jax.planning import slices


@pytest.mark.parametrize(
  'name, parts',
  [
    ('v5e', ['--topology=v5e', 'local', 'v5e:{1x1,2x2', 'v4:{2x2x1']),
    ('16x16', ['--topology=16x16 is not known']),
    ('v5:2x2', ["no 'v5'", 'v5e, v5p']),
    ('v5e:3x3', ['v5e slice is one of 1x1, 2x2', '16x16']),
    ('v5e:4x4x4', ['v5e slice is one of']),
    ('v5p:4x4', ['v5p slice is one of 2x2x1', 'multiples of 4']),
    ('v4:4x4x6', ['v4 slice is one of']),
    ('2*v5e:3x3', ['2*v5e:3x3: a v5e slice is one of']),
    ('0*v5e:2x2', ['--topology=0*v5e:2x2 is not known', 'N*SLICE for several slices']),
  ],
)
def test_unknown_slices(name, parts):
  with pytest.raises(UserError) as error:
    slices.slice_devices(name)
  assert [part for part in parts if part not in str(error.value)] == [], error.value


def test_without_libtpu(monkeypatch):
  def missing(**_):
    raise RuntimeError('JAX TPU support not installed;\ncannot generate TPU topology.')

  monkeypatch.setattr(slices.topologies, 'get_topology_desc', missing)
  with pytest.raises(UserError, match=r'pip install "jax\[tpu\]==') as error:
    slices.slice_devices('v5e:2x2')
  assert '\n' not in str(error.value)


def test_large_cubes_and_options_reach_libtpu(monkeypatch):
  asked = []

  def get(**options):
    asked.append(options)
    return types.SimpleNamespace(devices=['chip'])

  monkeypatch.setattr(slices.topologies, 'get_topology_desc', get)
  for name in ('v5p:8x8x12', 'v4:2x2x1', 'v5e:1x1', '4*v6e:16x16'):
    assert slices.slice_devices(name) == ['chip']
  assert [x['topology_name'] for x in asked] == ['v5p:8x8x12', 'v4:2x2x1', 'v5e:1x1', 'v6e:16x16']
  assert [x['num_slices'] for x in asked] == [1, 1, 1, 4]
  assert [x['chip_config_name'] for x in asked] == ['megacore', 'megacore', 'default', 'default']
  assert [x['chips_per_host_bounds'] for x in asked] == [(2, 2, 1)] * 2 + [(1, 1, 1), (2, 2, 1)]
