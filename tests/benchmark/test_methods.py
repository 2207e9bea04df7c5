"""The rows of the table; steps themselves take too long here."""

from pathlib import Path

import pytest

from tests.runs import ROOT
from vmae_jax.benchmark import methods
from vmae_jax.config_file import load_config
from vmae_jax.training.compose import build_objective


@pytest.mark.parametrize('row', methods.METHODS)
def test_each_row_is_a_config_that_exists(row):
  method, changes = methods.METHODS[row]
  config = load_config(f'{ROOT}/configs/{method}.py:tiny,k400')
  config.update_from_flattened_dict(methods.overrides(changes, gumbel=Path('untrained')))
  assert build_objective(config).heads
