"""Published figures of accelerators, by the exact name that JAX gives a device.

A name that is not here has no figures: a card with a similar name may be a third slower, and a
part of a GPU (MIG) has part of its speed.
"""

from typing import NamedTuple


class Chip(NamedTuple):
  """The maker's figures of one device."""

  # Peak of dense bfloat16 arithmetic in FLOP/s, summed in float32; float16 for V100 and T4.
  flops: float
  source: str  # Source of the figures; 'in both': bandwidth summed over both directions.
  memory: int | None = None  # Bytes; known of devices that `estimate` can compile for.
  # Bytes a second that it can send to other chips of its slice or host, over all links: half of
  # the published figure if that counts both directions. None: no figure was found.
  network: float | None = None
  clock: float | None = None  # Cycles a second of a TPU, as libtpu counts cycles.


_TPU = 'https://cloud.google.com/tpu/docs/'
_SYSTEMS = 'https://github.com/mlcommons/inference_results_v4.1, closed/NVIDIA/systems/'
_SHEET = "NVIDIA's data sheet, "
GIB = 2**30

# Clocks are peaks over the FLOPs of a cycle: 2 x 128 x 128 for each of 8 matrix units (v4 and v5p,
# whose two cores are one device) or 4 (v5e). libtpu counts up to 456,000 for a product of
# 4,096 x 4,096 on v6e: 4 units of 256 x 256, though the page says 2.
# On the pages of v5e and v6e the all-reduce bandwidth of a chip equals one direction of its links,
# so it stands for that direction on v4.
_V4_SOURCE = f'{_TPU}v4 (all-reduce bandwidth of a pod of 4,096 chips: 1.1 PB/s)'
_V4 = Chip(275e12, _V4_SOURCE, 32 * GIB, network=1.1e15 / 4096, clock=275e12 / 2**18)
_V5E = Chip(197e12, f'{_TPU}v5e (400 GB/s in both)', 16 * GIB, 200e9, clock=197e12 / 2**17)
_V5P = Chip(459e12, f'{_TPU}v5p (1,200 GB/s in both)', 95 * GIB, 600e9, clock=459e12 / 2**18)
_V6E = Chip(918e12, f'{_TPU}v6e (800 GB/s in both)', 32 * GIB, 400e9, clock=918e12 / 2**19)
_A100 = Chip(312e12, 'https://www.nvidia.com/en-us/data-center/a100')
_A100_SXM = _A100._replace(
  source=f'{_A100.source} (80 GB; NVLink 600 GB/s in both)', memory=80 * 10**9, network=300e9
)

# Read in November 2026. Data sheets give twice as much where they count zeros (sparsity).
CHIPS = {
  'TPU v4': _V4,
  'TPU v5 lite': _V5E,
  'TPU v5e': _V5E,
  'TPU v5': _V5P,
  'TPU v5p': _V5P,
  'TPU v6 lite': _V6E,
  'TPU v6e': _V6E,
  # Each of the chip's two cores is a device with half of its 2,307 TFLOP/s and 192 GiB.
  'TPU7x': Chip(2307e12 / 2, f'{_TPU}tpu7x', memory=96 * GIB),
  'NVIDIA GB200': Chip(2500e12, f'{_SHEET}Blackwell (GB200 NVL72)'),
  'NVIDIA B200': Chip(
    2250e12,
    f'{_SHEET}Blackwell (HGX B200: 180 GB; NVLink 1,800 GB/s in both)',
    memory=180 * 10**9,
    network=900e9,
  ),
  'NVIDIA H200': Chip(
    989e12,
    f'{_SYSTEMS}H200-SXM-141GBx8_TRT.json (NVLink 900 GB/s in both); {_SHEET}H200',
    memory=141 * 10**9,
    network=450e9,
  ),
  'NVIDIA H100 80GB HBM3': Chip(  # SXM
    989e12,
    f'{_SYSTEMS}DGX-H100_H100-SXM-80GBx8_TRT.json (NVLink 900 GB/s in both); {_SHEET}H100',
    memory=80 * 10**9,
    network=450e9,
  ),
  'NVIDIA H100 NVL': Chip(835e12, f'{_SHEET}H100'),
  'NVIDIA H100 PCIe': Chip(756e12, f'{_SHEET}H100'),
  'NVIDIA A100-SXM4-40GB': _A100,
  'NVIDIA A100-SXM4-80GB': _A100_SXM,
  'NVIDIA A100-PCIE-40GB': _A100,
  'NVIDIA A100 80GB PCIe': _A100,
  'NVIDIA L40S': Chip(362e12, f'{_SHEET}L40S'),
  'NVIDIA L40': Chip(181e12, f'{_SHEET}L40'),
  'NVIDIA L4': Chip(121e12, f'{_SHEET}L4'),
  'NVIDIA A40': Chip(149.7e12, f'{_SHEET}A40'),
  'NVIDIA A10': Chip(125e12, f'{_SHEET}A10'),
  'Tesla T4': Chip(65e12, f'{_SHEET}T4'),
  'Tesla V100-SXM2-16GB': Chip(125e12, f'{_SHEET}V100'),
  'Tesla V100-SXM2-32GB': Chip(125e12, f'{_SHEET}V100'),
  'Tesla V100-PCIE-16GB': Chip(112e12, f'{_SHEET}V100'),
  'Tesla V100-PCIE-32GB': Chip(112e12, f'{_SHEET}V100'),
  'NVIDIA GeForce RTX 4090': Chip(165.2e12, "NVIDIA's white paper of the Ada architecture"),
}


def peak_flops(device_kind: str) -> float | None:
  """The peak of a device in FLOP/s, or None where it is not known (any CPU)."""
  chip = CHIPS.get(device_kind)
  return chip and chip.flops
