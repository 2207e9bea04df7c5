"""Published figures of accelerators, and the TPU slices that can be compiled for without one.

Peaks of arithmetic stand in `vmae_jax.models.flops.PEAKS`.
"""

import math
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from vmae_jax.errors import UserError, lookup


class Chip(NamedTuple):
  """What the maker says of one chip.

  Attributes:
    memory: Bytes of its memory.
    network: Bytes a second that it can send to other chips of its slice or host, over all links,
      which is half of what is published where both directions are counted; None where no
      published figure could be read.
    source: Where the figures are from.
  """

  memory: int
  network: float | None
  source: str


_TPU_PAGES = 'https://cloud.google.com/tpu/docs/'
_GPU_SYSTEMS = 'https://github.com/mlcommons/inference_results_v4.1, closed/NVIDIA/systems/'

# By the beginning of `device_kind`; read in November 2026. Other H100 than these are cards of
# PCI Express. H200 and A100 come with several sizes of memory: a device that is at hand says
# itself how much it has.
CHIPS = {
  # All-reduce bandwidth by chip is what v5e's and v6e's pages give as one direction of its links.
  'TPU v4': Chip(
    32 * 2**30,
    1.1e15 / 4096,
    f'{_TPU_PAGES}v4 (all-reduce bandwidth of a pod of 4,096 chips: 1.1 PB/s)',
  ),
  'TPU v5 lite': Chip(16 * 2**30, 200e9, f'{_TPU_PAGES}v5e (400 GB/s in both directions)'),
  'TPU v5': Chip(95 * 2**30, 600e9, f'{_TPU_PAGES}v5p (1,200 GB/s in both directions)'),
  'TPU v6 lite': Chip(32 * 2**30, 400e9, f'{_TPU_PAGES}v6e (800 GB/s in both directions)'),
  'NVIDIA H200': Chip(
    141 * 10**9, 450e9, f'{_GPU_SYSTEMS}H200-SXM-141GBx8_TRT.json (NVLink 900 GB/s in both)'
  ),
  'NVIDIA H100 80GB HBM3': Chip(
    80 * 10**9, 450e9, f'{_GPU_SYSTEMS}DGX-H100_H100-SXM-80GBx8_TRT.json (NVLink 900 GB/s in both)'
  ),
  'NVIDIA A100': Chip(40 * 10**9, None, 'https://www.nvidia.com/en-us/data-center/a100'),
}

_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')
# Name of a TPU -> shapes of slices that it comes in (of cubes, larger ones exist, too), and the
# names of its cores' configuration in libtpu. With megacore, two cores are one device.
SLICES = {
  'v4': (_CUBES, 'megacore'),
  'v5e': (_FLAT, 'default'),
  'v5p': (_CUBES, 'megacore'),
  'v6e': (_FLAT, 'default'),
}


def chip_of(device_kind: str) -> Chip | None:
  """The figures of a kind of device, or None for one that is not in the table (any CPU)."""
  for kind in sorted(CHIPS, key=len, reverse=True):
    if device_kind.startswith(kind):
      return CHIPS[kind]
  return None


def parse_slice(name: str) -> dict[str, Any]:
  """What libtpu has to be told of one slice or several.

  Args:
    name: Such as v5e:4x4 or v5p:4x4x8; 2*v5e:16x16 are two slices, joined by their hosts' network.

  Raises:
    UserError: there is no such slice.
  """
  match = re.fullmatch(r'(?:([1-9]\d*)\*)?((\w+):(\d+x\d+(?:x\d+)?))', name)
  if match is None:
    known = '; '.join(f'{tpu}:{{{",".join(shapes)}}}' for tpu, (shapes, _) in SLICES.items())
    raise UserError(
      f'--topology={name} is not known. There is: local; {known}; of several slices N*SLICE.'
    )
  count, slice_name, tpu, shape = match.groups()
  shapes, cores = lookup(SLICES, tpu, '--topology')
  sides = [int(n) for n in shape.split('x')]
  large_cube = len(sides) == 3 and shapes is _CUBES and all(n % 4 == 0 for n in sides)
  if shape not in shapes and not large_cube:
    raise UserError(
      f'--topology={name}: a {tpu} slice is one of {", ".join(shapes)}'
      f'{", or larger with all sides multiples of 4" if shapes is _CUBES else ""}.'
    )
  host = (1, 1, 1) if math.prod(sides) == 1 else (2, 2, 1)
  return {
    'topology_name': slice_name,
    'num_slices': int(count or 1),
    'chip_config_name': cores,
    'chips_per_host_bounds': host,
  }


def slice_devices(name: str) -> list:
  """Devices of a TPU slice that need not be there: programs can be compiled for them.

  Raises:
    UserError: as `parse_slice`, or libtpu, which knows them, is not installed.
  """
  options = parse_slice(name)
  try:
    return list(topologies.get_topology_desc(platform='tpu', **options).devices)
  except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as e:
    reason = ' '.join(str(e).split())[:200]
    raise UserError(
      f'--topology={name} cannot be compiled for: {reason} If libtpu is not installed: '
      f'pip install "jax[tpu]=={jax.__version__}" (or take --topology=local).'
    ) from e
