"""Makes tests/fixtures/mgmae_mask_volume.npz from the outputs of MGMAE's released functions.

PYTHONPATH=. python tests/masking/make_fixture_motion.py REFERENCE.npz

The reference's directions of flow are right on both sides of the base frame. Its flow is a sum
of few products of rows and columns, of which the fixture holds the factors; of the warped maps
it holds every eighth row and column.
"""

import pathlib
import sys

import numpy as np

RANK = 3

reference = np.load(sys.argv[1])
flow = reference['flow_toward_base'].astype(np.float64)
size = flow.shape[-1]
columns = np.linalg.svd(flow.reshape(-1, size), full_matrices=False)[2][:RANK]
rows = np.linalg.svd(flow.swapaxes(-1, -2).reshape(-1, size), full_matrices=False)[2][:RANK]
factors = np.einsum('ry,...yx,cx->...rc', rows, flow, columns)
error = np.abs(np.einsum('ry,...rc,cx->...yx', rows, factors, columns) - flow).max()
path = pathlib.Path(__file__).parents[1] / 'fixtures' / 'mgmae_mask_volume.npz'
np.savez_compressed(
  path,
  base_map=reference['base_map'],
  flow_rows=rows,
  flow_factors=factors,
  flow_columns=columns,
  warped_maps=reference['warped_maps'][:, :, ::8, ::8],
  token_scores=reference['token_scores'],
  masked=reference['masked'],
)
print(f'{path}: {path.stat().st_size / 1e3:.0f} kB; the flow is off by {error:.1e} pixels at most')
