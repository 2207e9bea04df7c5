"""Chips and slices by name."""

import types

import pytest

from vmae_jax.errors import UserError
from vmae_jax.models.flops import PEAKS
from vmae_jax.planning import chips


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
    ('0*v5e:2x2', ['--topology=0*v5e:2x2 is not known', 'of several slices N*SLICE']),
  ],
)
def test_unknown_slices(name, parts):
  with pytest.raises(UserError) as error:
    chips.slice_devices(name)
  assert [part for part in parts if part not in str(error.value)] == [], error.value


def test_without_libtpu(monkeypatch):
  def missing(**_):
    raise RuntimeError('JAX TPU support not installed;\ncannot generate TPU topology.')

  monkeypatch.setattr(chips.topologies, 'get_topology_desc', missing)
  with pytest.raises(UserError, match=r'pip install "jax\[tpu\]==') as error:
    chips.slice_devices('v5e:2x2')
  assert '\n' not in str(error.value)


def test_large_cubes_and_options_reach_libtpu(monkeypatch):
  asked = []

  def get(**options):
    asked.append(options)
    return types.SimpleNamespace(devices=['chip'])

  monkeypatch.setattr(chips.topologies, 'get_topology_desc', get)
  for name in ('v5p:8x8x12', 'v4:2x2x1', 'v5e:1x1', '4*v6e:16x16'):
    assert chips.slice_devices(name) == ['chip']
  assert [x['topology_name'] for x in asked] == ['v5p:8x8x12', 'v4:2x2x1', 'v5e:1x1', 'v6e:16x16']
  assert [x['num_slices'] for x in asked] == [1, 1, 1, 4]
  assert [x['chip_config_name'] for x in asked] == ['megacore', 'megacore', 'default', 'default']
  assert [x['chips_per_host_bounds'] for x in asked] == [(2, 2, 1)] * 2 + [(1, 1, 1), (2, 2, 1)]


@pytest.mark.parametrize(
  'kind, memory, network',
  [
    ('TPU v4', 32, 1.1e15 / 4096),  # All-reduce of a pod.
    ('TPU v5 lite', 16, 200e9),
    ('TPU v5', 95, 600e9),
    ('TPU v5p', 95, 600e9),
    ('TPU v6 lite', 32, 400e9),
  ],
)
def test_figures(kind, memory, network):
  chip = chips.chip_of(kind)
  assert chip.memory == memory * 2**30 and chip.network == network and 'http' in chip.source


def test_every_chip_has_a_peak():
  for kind in chips.CHIPS:
    assert any(known in kind for known in PEAKS), kind
  assert chips.chip_of('cpu') is None and chips.chip_of('NVIDIA H100 80GB HBM3').network == 450e9
  # A card of PCI Express has another link.
  assert chips.chip_of('NVIDIA H100 PCIe') is None
  assert chips.chip_of('NVIDIA A100-SXM4-80GB').network is None
