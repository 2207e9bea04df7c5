"""TPU slices and GPUs that programs can be compiled for without the hardware."""

import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from vmae_jax.errors import UserError, lookup
from vmae_jax.planning.gpus import GPUS, gpu_devices, is_gpu

_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')
# Name of a TPU -> the shapes of its slices (there are larger cubes, too), and libtpu's name for the
# configuration of its cores. With megacore, two cores are one device.
SLICES = {
  'v4': (_CUBES, 'megacore'),
  'v5e': (_FLAT, 'default'),
  'v5p': (_CUBES, 'megacore'),
  'v6e': (_FLAT, 'default'),
}


def parse_slice(name: str) -> dict[str, Any]:
  """libtpu's options for one slice or several; a UserError if there is no such slice.

  Names are v5e:4x4 or v5p:4x4x8; 2*v5e:16x16 are two slices, joined by their hosts' network.
  """
  match = re.fullmatch(r'(?:([1-9]\d*)\*)?((\w+):(\d+x\d+(?:x\d+)?))', name)
  if match is None:
    known = '; '.join(f'{tpu}:{{{",".join(shapes)}}}' for tpu, (shapes, _) in SLICES.items())
    raise UserError(
      f'--topology={name} is not known: choose local; {known}; N*SLICE for several slices; or '
      f'{", ".join(GPUS)}, as h200:8 or, for several hosts, 2*h200:8.'
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
  """Devices of TPU slices, or GPUs, for which programs can be compiled without the hardware.

  Raises:
    UserError: there is no such slice, or libtpu (or JAX for CUDA) is not installed.
  """
  if is_gpu(name):
    return gpu_devices(name)
  options = parse_slice(name)
  try:
    return list(topologies.get_topology_desc(platform='tpu', **options).devices)
  except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as e:
    reason = ' '.join(str(e).split())[:200]
    raise UserError(
      f'--topology={name} cannot be compiled for: {reason} If libtpu is not installed: '
      f'pip install "jax[tpu]=={jax.__version__}" (or choose --topology=local).'
    ) from e
