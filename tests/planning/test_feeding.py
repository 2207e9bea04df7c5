"""The rows of `benchmark loader`; speed is not asserted."""

from configs import videomae
from vmae_jax.planning import feeding


def test_rows(monkeypatch):
  monkeypatch.setattr(feeding, 'WARM_UP', 1)
  monkeypatch.setattr(feeding, 'ROUNDS', 1)
  config = videomae.get_config('smoke')
  config.batch_size, config.data.train = 4, 'synthetic:train'
  rows = feeding.feed(config, batches=2, decode=True)
  assert list(rows) == ['copying', 'hand-over', 'loader']
  assert all(row['clips_per_second'] > 0 and row['cpu_ms'] >= 0 for row in rows.values())
  made = {
    name: {'clips_per_second': rate, 'cpu_ms': 2.0} for name, rate in (('copying', 8.0), ('a', 6.0))
  }
  line = feeding.feed_table(made).splitlines()[-1]
  assert line.split() == ['a', '6.0', '2.000', '0.75']
  assert list(feeding.feed(config, batches=1, decode=False)) == ['copying', 'hand-over']
