"""Makes tests/fixtures/mme_targets.npz from the outputs of MME's released functions.

PYTHONPATH=. python tests/targets/make_fixture_mme.py REFERENCE.npz

Of the clip only the frames that the HOG looks at are kept; the flow is whole numbers there.
"""

import pathlib
import sys

import numpy as np

reference = np.load(sys.argv[1])
kept = {name: reference[name] for name in ('hog_none', 'hog_L2', 'traj_target_patch_std')}
flow = reference['flow'].astype(np.int8)
assert (flow == reference['flow']).all()
path = pathlib.Path(__file__).parents[1] / 'fixtures' / 'mme_targets.npz'
np.savez_compressed(
  path,
  middle_frames=reference['clip'][:, :, 1::2],
  flow=flow,
  displacement=reference['displacement'].astype(np.int8),
  positions=reference['positions'].astype(np.int16),
  valid=reference['valid'].astype(bool),
  traj_target=reference['traj_target'],
  **kept,
)
print(f'{path}: {path.stat().st_size / 1e3:.0f} kB')
