"""The table; steps themselves take too long here."""

from vmae_jax.benchmark import step


def test_table():
  row = dict(seconds=2.0, clips_per_second=1.0, teraflops_per_second=0.1234, peak_bytes=3e9)
  result = dict(size='b', batch=2, rounds=5, gigaflops_a_clip=123.4)
  result['contenders'] = {'vmae_jax': row, 'torch': row | {'seconds': 4.0, 'peak_bytes': 4e9}}
  result['ratios'] = {'torch': {'time': 0.5, 'memory': 0.75}}
  text = step.table(result)
  assert text.startswith('ViT-B, 2 clips')
  assert '| vmae_jax | 2.000 | 1.00 | 0.123 | 3.00 | 1.00 | 1.00 |' in text
  assert '| torch | 4.000 | 1.00 | 0.123 | 4.00 | 0.50 | 0.75 |' in text
