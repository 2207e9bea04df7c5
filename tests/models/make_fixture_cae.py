"""Cuts reference values of CAE's regressor and decoder into the fixtures of test_regressor.py.

  python tests/models/make_fixture_cae.py REFERENCE.npz

REFERENCE holds inputs, outputs and weights (`param:` and the name in the released PyTorch code).
"""

import pathlib
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'cae'


def part(name):
  """The file that a value goes to: each block has its own, so that all are small."""
  names = name.removeprefix('param:').split('.')
  in_block = len(names) > 2 and names[1].endswith('_blocks')
  return f'{names[0]}_{names[2]}' if in_block else 'rest'


if __name__ == '__main__':
  reference = np.load(sys.argv[1])
  for group in sorted({part(name) for name in reference}):
    values = {name: reference[name] for name in reference if part(name) == group}
    np.savez_compressed(FOLDER / f'{group}.npz', **values)
