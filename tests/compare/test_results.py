"""What pages say of the study is what was measured."""

import json

import pytest

from tests.started import ROOT
from vmae_jax.compare.summary import rows

LABELS = 'motion', 'look'
KEYS = (
  'motion/knn/-1',
  'motion/linear/-1',
  'motion/attentive/-1',
  'motion, shuffled/attentive/-1',
  'motion, 25 % of the speed/attentive/-1',
  'motion, 200 % of the speed/attentive/-1',
  'look/knn/-1',
  'look/linear/-1',
  'look/attentive/-1',
)


@pytest.fixture
def summary():
  return json.loads((ROOT / 'tests/compare/results/frozen.json').read_text())


def short(summary):
  """Lines of the front page's table."""
  for name, arm in summary['arms'].items():
    cells = (
      ', '.join(
        f'{100 * arm["measures"][key]["mean"]:.1f}' for key in KEYS if key.startswith(label)
      )
      for label in ('motion/', 'look/')
    )
    yield f'| {name} | {" | ".join(cells)} |'


def test_tables(summary):
  assert all(arm['seeds'] == [1, 2, 3] for arm in summary['arms'].values())  # As pages say.
  page = (ROOT / 'vmae_jax/compare/README.md').read_text()
  for line in rows(summary['arms'], KEYS, 'measures'):
    assert line in page
  page = (ROOT / 'README.md').read_text()
  for line in short(summary):
    assert line in page


def test_no_arm_is_left_out(summary):
  from configs import compare

  assert set(summary['arms']) == {*compare.get_config('frozen').arms, 'untrained'}


@pytest.mark.parametrize(
  ('file', 'name'),
  [
    ('videomae', 'pixels'),
    ('motionmae', 'MotionMAE'),
    ('mam2', 'MAM2'),
    ('mme', 'MME'),
    ('mgmae', 'MGMAE'),
  ],
)
def test_configs_name_what_was_measured(summary, file, name):
  text = ' '.join((ROOT / f'configs/{file}.py').read_text().split())
  of = {
    arm: [f'{100 * found["measures"][f"{label}/attentive/-1"]["mean"]:.1f}' for label in LABELS]
    for arm, found in summary['arms'].items()
  }
  (motion, look), fresh = of[name], of['untrained']
  assert f'{motion} of 100 on motions and {look} on looks; untrained {" and ".join(fresh)}' in text
