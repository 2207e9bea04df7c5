"""The table of attention's implementations, over few tokens."""

import jax.numpy as jnp
import pytest

from tests.benchmark import attention
from vmae_jax.models.attention import choose


@pytest.mark.slow
def test_every_implementation_is_measured_and_what_auto_takes_is_told():
  result = attention.benchmark_attention(batch=1, rounds=1, tokens=(8, 160))
  rows = {(row['tokens'], row['head_dim']): row for row in result['rows']}
  assert rows.keys() == {(8, 64), (160, 64), (8, 80), (160, 80)}
  for (count, head_dim), row in rows.items():
    assert row['auto'] == choose(*[jnp.zeros((1, count, 12, head_dim))] * 2)
    assert list(row['implementations']) == ['xla', 'mapped']
    assert all(measured['seconds'] > 0 for measured in row['implementations'].values())
  # Scores of all heads at once take 12 times the memory of one head's.
  memory = {name: x['bytes'] for name, x in rows[160, 64]['implementations'].items()}
  assert memory['xla'] > 12 * 160 * 160 * 4


@pytest.mark.parametrize('faster', ['xla', 'mapped'])
def test_table(faster):
  measured = {name: {'seconds': 0.002, 'bytes': 3e6} for name in ('xla', 'mapped')}
  measured[faster] = {'seconds': 0.001, 'bytes': 2e6}
  row = {'tokens': 1568, 'head_dim': 64, 'auto': 'mapped', 'implementations': measured}
  result = dict(device='Abacus', dtype='float32', batch=2, heads=12, rounds=3, rows=[row])
  text = attention.table(result)
  assert text.startswith('Attention and its gradients on Abacus, 2 clips, 12 heads, float32')
  cells = {'xla': '1.00 (2.0) | 2.00 (3.0)', 'mapped': '2.00 (3.0) | 1.00 (2.0)'}[faster]
  assert f'| 1,568 | 64 | {cells} | {faster} | mapped |' in text
