"""Figures of devices by the names that JAX gives them."""

import pytest

from vmae_jax import chips

# Names as drivers and libtpu report them -> TFLOP/s of dense bfloat16 by the makers' pages.
PEAKS = {
  'TPU v4': 275,
  'TPU v5 lite': 197,
  'TPU v5': 459,
  'TPU v6 lite': 918,
  'TPU7x': 1153.5,  # A core; the chip has two.
  'NVIDIA H100 80GB HBM3': 989,
  'NVIDIA H100 PCIe': 756,
  'NVIDIA H100 NVL': 835,
  'NVIDIA H200': 989,
  'NVIDIA B200': 2250,
  'NVIDIA GB200': 2500,
  'NVIDIA A100-SXM4-40GB': 312,
  'NVIDIA A100-SXM4-80GB': 312,
  'NVIDIA A100 80GB PCIe': 312,
  'NVIDIA L40S': 362,
  'NVIDIA L40': 181,
  'NVIDIA L4': 121,
  'NVIDIA A10': 125,
  'Tesla T4': 65,
  'Tesla V100-SXM2-16GB': 125,
  'Tesla V100-PCIE-16GB': 112,
  'NVIDIA GeForce RTX 4090': 165.2,
}


@pytest.mark.parametrize('kind', PEAKS)
def test_peaks(kind):
  assert chips.peak_flops(kind) == PEAKS[kind] * 1e12


@pytest.mark.parametrize(
  'kind',
  [
    'cpu',
    'NVIDIA A10G',  # AWS's: not an A10.
    'NVIDIA H100 80GB HBM3 MIG 1g.10gb',  # A seventh of the GPU.
    'NVIDIA H20',
    'NVIDIA B300',
    'NVIDIA GeForce RTX 4090 Laptop GPU',
    'NVIDIA GeForce RTX 4090 D',
    'TPU v3',
    'AMD Instinct MI300X',
  ],
)
def test_similar_names_are_other_devices(kind):
  assert chips.peak_flops(kind) is None


@pytest.mark.parametrize(
  'kind, memory, network, clock',
  [
    ('TPU v4', 32, 1.1e15 / 4096, 1.05),  # All-reduce of a pod; the clock of v4's paper.
    ('TPU v5 lite', 16, 200e9, 1.50),
    ('TPU v5', 95, 600e9, 1.75),
    ('TPU v5p', 95, 600e9, 1.75),
    ('TPU v6 lite', 32, 400e9, 1.75),
  ],
)
def test_tpus(kind, memory, network, clock):
  chip = chips.CHIPS[kind]
  assert (chip.memory, chip.network) == (memory * 2**30, network)
  assert chip.clock == pytest.approx(clock * 1e9, rel=5e-3)


def test_every_chip_has_a_source():
  for kind, chip in chips.CHIPS.items():
    assert 'http' in chip.source or 'NVIDIA' in chip.source, kind
