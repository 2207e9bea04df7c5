"""Makes tests/fixtures/vqgan_tiny.npz, outputs of the peer in PyTorch.

PYTHONPATH=. python tests/interchange/make_fixture_vqgan.py
"""

import pathlib

import numpy as np

from tests.interchange import peer_vqgan

values = {}
for quantizer in peer_vqgan.CONFIGS:
  for name, value in zip(
    ('pre_quant', 'indices', 'reconstruction'), peer_vqgan.results(quantizer), strict=True
  ):
    values[f'{quantizer}:{name}'] = value
path = pathlib.Path(__file__).parents[1] / 'fixtures' / 'vqgan_tiny.npz'
np.savez_compressed(path, **values)
print(f'{path}: {path.stat().st_size / 1e3:.0f} kB')
