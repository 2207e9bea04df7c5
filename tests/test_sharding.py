"""Meshes over several slices, with fake devices of a cluster."""

import dataclasses

import numpy as np
import pytest

from vmae_jax import sharding
from vmae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
  id: int
  slice_index: int
  process_index: int
  platform: str = 'gpu'
  device_kind: str = 'stand-in'


def devices(slices, each):
  """Devices of all slices, in turn one of each slice."""
  return [Device(s * each + i, s, s) for i in range(each) for s in range(slices)]


def slice_of(mesh):
  return np.vectorize(lambda device: device.slice_index)(mesh.devices)


def test_data_goes_over_slices():
  mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=devices(slices=2, each=8))
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 2, 'tensor': 2}
  # The first half of `data` is one slice; gathers of parameters (fsdp, tensor) never leave it.
  assert [set(slice_of(mesh)[i].flat) for i in range(4)] == [{0}, {0}, {1}, {1}]
  assert len({device.id for device in mesh.devices.flat}) == 16


def test_rows_of_a_slice_are_together():
  mesh = sharding.make_mesh(devices=devices(slices=4, each=2))
  assert slice_of(mesh).flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_fsdp_takes_the_slices_that_data_leaves():
  mesh = sharding.make_mesh(data=2, fsdp=8, devices=devices(slices=4, each=4))
  over = slice_of(mesh)[:, :, 0]
  assert over.tolist() == [[0] * 4 + [1] * 4, [2] * 4 + [3] * 4]
  mesh = sharding.make_mesh(data=1, fsdp=8, devices=devices(slices=2, each=4))
  assert slice_of(mesh).flatten().tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize('sizes', [dict(data=1, fsdp=1, tensor=8), dict(data=1, fsdp=2, tensor=4)])
def test_one_slice_is_as_before(sizes):
  mesh = sharding.make_mesh(**sizes, devices=devices(slices=1, each=8))
  assert [device.id for device in mesh.devices.flat] == list(range(8))


def test_tensor_does_not_go_over_slices():
  with pytest.raises(UserError, match='tensor=8 does not go over 2 slices: choose a multiple of 2'):
    sharding.make_mesh(data=1, tensor=8, devices=devices(slices=2, each=4))
