"""NVIDIA GPUs that programs can be compiled for without the GPU, from XLA's descriptions."""

import importlib.util
import re
import sys

import jax
from jax.experimental import topologies
from jaxlib import xla_client

from vmae_jax.errors import UserError

# Values of XLA's description of a GPU (GpuTargetConfigProto), from openxla/xla, November 2026,
# xla/backends/gpu/target_config/specs. _TARGET has those that are the same for all of these GPUs.
# For a GPU that is present, python -m vmae_jax.planning.gpus prints its own.
GPUS = {
  'a100': dict(
    name='NVIDIA A100-SXM4-80GB', major=8, cores=108, fpus=64, shared=167936, optin=166912,
    bandwidth=2039040000000, l2=41943040, clock=1.41, memory=85100068864,
  ),
  'h100': dict(
    name='NVIDIA H100 80GB HBM3', major=9, cores=132, fpus=128, shared=233472, optin=232448,
    bandwidth=3352320000000, l2=52428800, clock=1.98, memory=84942979072,
  ),
  'h200': dict(
    name='NVIDIA H200', major=9, cores=132, fpus=128, shared=233472, optin=232448,
    bandwidth=4800000000000, l2=52428800, clock=1.98, memory=151397597184,
  ),
  'b200': dict(
    name='NVIDIA B200', major=10, cores=148, fpus=128, shared=233472, optin=232448,
    bandwidth=7672320000000, l2=132644864, clock=1.965, memory=191514411008,
  ),
}  # fmt: skip
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {optin} registers_per_core_limit: 65536
  registers_per_block_limit: 65536 core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock}
  device_memory_size: {memory} cuda_compute_capability {{ major: {major} }}
}}
platform_name: "CUDA" device_description_str: "{name}"
dnn_version_info {{ major: 9 minor: 12 }} runtime_version {{ major: 13 }}
"""
_NAME = re.compile(rf'(?:([1-9]\d*)\*)?({"|".join(GPUS)}):([1-9]\d*)')


def is_gpu(topology: str) -> bool:
  """Whether a topology names GPUs: h200:8 is a host of eight, 2*h200:8 are two such hosts."""
  return _NAME.fullmatch(topology) is not None


def gpu_devices(topology: str) -> list:
  """Devices for which programs can be compiled without GPUs, by defaults instead of autotuning.

  Raises:
    UserError: JAX for CUDA is not installed.
  """
  hosts, gpu, count = _NAME.fullmatch(topology).groups()
  if importlib.util.find_spec('jax_plugins') is None:
    raise UserError(
      f'--topology={topology} cannot be compiled for without JAX for CUDA: '
      f'pip install "jax[cuda13]=={jax.__version__}" (no GPU or driver is needed).'
    )
  target = _TARGET.format(**GPUS[gpu])
  shape = f'1x{hosts or 1}x{count}'
  return list(
    topologies.get_topology_desc(platform='cuda', target_config=target, topology=shape).devices
  )


def untried(device) -> dict[str, bool]:
  """Options of the compiler for a device: for a GPU that is not present, cuBLAS does all products.

  With a GPU, XLA tries which tiles of a Triton kernel are best for a product. Without one it takes
  default tiles, and fails to compile these for some shapes, such as float32 (n, 224) x (224, 112).
  """
  absent = device.platform == 'gpu' and device not in jax.devices()
  return {'xla_gpu_enable_triton_gemm': False} if absent else {}


def describe(devices: list) -> str:
  """XLA's description of GPUs: what those that are present report, for others the one above."""
  return str(xla_client.get_topology_for_devices(devices).target_config)


if __name__ == '__main__':
  try:
    print(describe(jax.devices('gpu')))
  except RuntimeError as e:
    print(f'error: no GPU is at hand: {e}', file=sys.stderr)
    sys.exit(2)
