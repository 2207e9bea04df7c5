"""Makes tests/fixtures/raft_tiny.npz from the peer in torch.

PYTHONPATH=. python tests/interchange/make_fixture_raft.py
"""

import pathlib

import numpy as np

from tests.interchange import peer_raft

values = {}
for size in peer_raft.SPECS:
  first, second = (frame[None] for frame in peer_raft.frames(128, 136))
  eighth, full = peer_raft.torch_flow(
    size, peer_raft.weights(size), first, second, iterations=peer_raft.ITERATIONS
  )
  values |= {f'{size}:eighth': eighth, f'{size}:full': full[:, ::7, ::5]}
path = pathlib.Path(__file__).parents[1] / 'fixtures' / 'raft_tiny.npz'
np.savez_compressed(path, **values)
print(f'{path}: {path.stat().st_size / 1e3:.0f} kB')
for name, value in values.items():
  print(f'{name} {value.shape}, from {value.min():.2f} to {value.max():.2f} pixels')
