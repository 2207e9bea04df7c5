"""The rows of the table; steps themselves take too long here."""

from pathlib import Path

import pytest

from tests.benchmark import methods, step
from tests.started import ROOT
from vmae_jax.config_file import load_config
from vmae_jax.method.build import build_method


@pytest.mark.parametrize('row', methods.METHODS)
def test_each_row_is_a_config_that_exists(row):
  method, changes = methods.METHODS[row]
  config = load_config(f'{ROOT}/configs/{method}.py:tiny,k400')
  config.update_from_flattened_dict(methods.overrides(changes, gumbel=Path('untrained')))
  assert build_method(config).heads


def test_each_method_takes_turns_with_videomae(monkeypatch):
  class Contender(step.Contender):
    running = 0

    def __init__(self, name, settings, *, label):
      self.name, self.about = label, {'clip_flops': 4e9 if settings['overrides'] else 2e9}
      Contender.running += 1
      assert Contender.running <= 2  # No more need to fit in memory.
      self.seconds = 1.5 if label == methods.BASE else 3.0

    def ask(self, what):
      return {'memory': {'bytes': 1e9}, 'step': {'seconds': self.seconds}}[what]

    def close(self):
      Contender.running -= 1

  monkeypatch.setattr(methods, 'Contender', Contender)
  monkeypatch.setattr(methods, 'make_gumbel', lambda path: path)
  result = methods.benchmark_methods(size='b', batch=2, rounds=2)
  rows = result['methods']
  assert list(rows) == list(methods.METHODS) and Contender.running == 0
  assert rows['videomae']['time_ratio'] == rows['videomae']['flops_ratio'] == 1.0
  mam2 = rows['mam2, Gumbel f8']
  assert (mam2['time_ratio'], mam2['flops_ratio'], mam2['videomae_seconds']) == (2.0, 2.0, 1.5)
  text = methods.table(result)
  assert text.startswith('ViT-B, 2 clips of 16 x 224 x 224; medians of 2 steps')
  assert '| mam2, Gumbel f8 | 3.000 | 1.500 | 2.00 | 4 | 2.00 | 1.00 |' in text
