"""Pages state the measured results of the study."""

import json
import math
import statistics

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
  assert all(arm['seeds'] == [1, 2, 3, 4, 5] for arm in summary['arms'].values())  # As pages say.
  page = (ROOT / 'vmae_jax/compare/README.md').read_text()
  for line in rows(summary['arms'], KEYS, 'measures'):
    assert line in page
  page = (ROOT / 'README.md').read_text()
  for line in short(summary):
    assert line in page


def test_table_of_fine_tuning():
  found = json.loads((ROOT / 'tests/compare/results/finetuned.json').read_text())
  text = (ROOT / 'vmae_jax/compare/README.md').read_text()
  assert f'after {found["steps"]} steps from runs of seed {found["seed"]}\n' in text
  for name, accuracies in found['arms'].items():
    assert f'| {name} | {" | ".join(f"{100 * x:.1f}" for x in accuracies.values())} |' in text


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


# Arm, the one that it is compared with, probe of motion, what both pages or the study's say.
DIFFERENCES = [
  ('MotionMAE', 'pixels twice', 'linear', '10.2 ± 5.2', True),
  ('pixels twice', 'pixels', 'linear', '28.6 ± 3.5', True),
  ('pixels twice', 'pixels', 'attentive', '15.9 ± 5.9', False),
  ('MotionMAE', 'pixels', 'linear', '+38.8 ± 3.1', False),
  ('MotionMAE', 'pixels', 'attentive', '+21.7 ± 11.0', False),
  ('pixels and flow', 'pixels', 'linear', '+33.7 ± 1.7', False),
  ('pixels and flow', 'pixels twice', 'attentive', '4.5 ± 2.1', False),
  ('pixels and flow', 'pixels twice', 'knn', '10.9 ± 2.6', False),
  ('MAM2', 'pixels', 'attentive', '+9.6 ± 8.5', False),
  ('MME', 'pixels', 'linear', '+25.0 ± 17.6', False),
  ('MotionMAE', 'differences of another clip', 'linear', '8.8 ± 3.7', False),
  ('MotionMAE', 'differences of another clip', 'attentive', '6.1 ± 5.1', False),
  ('differences of another clip', 'pixels twice', 'linear', '1.4 ± 3.7', False),
  ('differences of another clip', 'pixels twice', 'attentive', '-0.3 ± 5.5', False),
]


@pytest.mark.parametrize(('arm', 'other', 'probe', 'said', 'on_both'), DIFFERENCES)
def test_differences_that_pages_name(summary, arm, other, probe, said, on_both):
  """By hand: 2.776 is Student's t of five values, two-sided, 95 %."""
  one, two = (
    summary['arms'][name]['measures'][f'motion/{probe}/-1']['values'] for name in (arm, other)
  )
  found = [100 * (a - b) for a, b in zip(one, two, strict=True)]
  half = 2.776 * statistics.stdev(found) / math.sqrt(5)
  sign = '+' if said.startswith('+') else ''
  assert said == f'{sign}{statistics.mean(found):.1f} ± {half:.1f}'
  pages = ['vmae_jax/compare/README.md', *(['README.md'] if on_both else [])]
  for page in pages:
    assert said in ' '.join((ROOT / page).read_text().split())
