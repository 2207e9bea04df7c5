"""Makes tests/fixtures/davis_jf.npz from masks and the scores that DAVIS's own code gave them.

PYTHONPATH=. python tests/evaluation/make_fixture_davis.py REFERENCE.npz

The reference holds `ground_truth` and `prediction` ('T H W', 0 or 1), and `J` and `F` of each
frame by davis2017-evaluation's `db_eval_iou` and `db_eval_boundary`.
"""

import pathlib
import sys

import numpy as np

reference = np.load(sys.argv[1])
masks = {name: reference[name].astype(bool) for name in ('ground_truth', 'prediction')}
path = pathlib.Path(__file__).parents[1] / 'fixtures' / 'davis_jf.npz'
np.savez_compressed(path, **masks, J=reference['J'], F=reference['F'])
