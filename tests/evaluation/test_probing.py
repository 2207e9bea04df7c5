"""The probe as a function; what it measures is tested with its entry point."""

import pytest

from vmae_jax.errors import UserError
from vmae_jax.evaluation.probing import check_probes, probe, table


def test_names_of_probes():
  check_probes(['knn', 'attentive'])
  with pytest.raises(UserError, match="no 'kn'. Did you mean 'knn'"):
    check_probes(['linear', 'kn'])
  with pytest.raises(UserError, match="no 'kn'"):  # Before anything is read.
    probe('no/such/run', train='', val='', probes=['kn'])


def test_table():
  row = {'knn': {'top1': 0.5}, 'linear_plain': {'top1': 0.25}}
  result = {
    'clips': {'train': 8, 'val': 4},
    'largest_class': 0.5,
    'accuracy': {'pre-trained': row, 'untrained': row},
  }
  assert table(result).splitlines() == [
    '                k-NN top-1  linear without BatchNorm top-1',
    'pre-trained          0.500                           0.250',
    'untrained            0.500                           0.250',
    '(8 training and 4 held-out clips; always naming the largest class gives 0.500)',
  ]
