"""Pages state the measured results of the study."""

import json
import math
import re
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

FINE_TUNED = [f'motion of {clips} clips/fine-tuned' for clips in (82, 819, 8192)]


@pytest.fixture
def summary():
  return json.loads((ROOT / 'tests/compare/results/frozen.json').read_text())


@pytest.fixture
def finetuned():
  return json.loads((ROOT / 'tests/compare/results/finetuned.json').read_text())


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


def test_table_of_fine_tuning(finetuned):
  assert all(arm['seeds'] == [1, 2, 3, 4, 5] for arm in finetuned['arms'].values())
  keys = [f'{measure}/-1' for measure in FINE_TUNED]
  assert all(list(arm['measures']) == keys for arm in finetuned['arms'].values())
  text = (ROOT / 'vmae_jax/compare/README.md').read_text()
  for line in rows(finetuned['arms'], keys, 'measures'):
    assert line in text


def test_table_of_layers():
  found = json.loads((ROOT / 'tests/compare/results/layers.json').read_text())
  text = (ROOT / 'vmae_jax/compare/README.md').read_text()
  for arm, layers in found['arms'].items():
    for layer, accuracies in layers.items():
      values = [f'{100 * x:.1f}' for x in accuracies.values()]
      assert f'| {arm}, {layer} | {", ".join(values[:3])} | {", ".join(values[3:])} |' in text


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


# One arm, the arm that is subtracted, what is measured, what pages say.
DIFFERENCES = [
  ('MotionMAE', 'pixels twice', 'motion/linear', '10.2 ± 5.2'),
  ('MotionMAE', 'pixels twice', 'motion/knn', '11.3 ± 9.0'),
  ('MotionMAE', 'pixels twice', 'motion/attentive', '5.8 ± 6.5'),
  ('pixels twice', 'pixels', 'motion/linear', '28.6 ± 3.5'),
  ('pixels twice', 'pixels', 'motion/attentive', '15.9 ± 5.9'),
  ('MotionMAE', 'pixels', 'motion/linear', '+38.8 ± 3.1'),
  ('MotionMAE', 'pixels', 'motion/attentive', '+21.7 ± 11.0'),
  ('pixels and flow', 'pixels', 'motion/linear', '+33.7 ± 1.7'),
  ('pixels and flow', 'pixels', 'motion/attentive', '+20.4 ± 8.0'),
  ('pixels and flow', 'pixels twice', 'motion/attentive', '4.5 ± 2.1'),
  ('pixels and flow', 'pixels twice', 'motion/knn', '10.9 ± 2.6'),
  ('MAM2', 'pixels', 'motion/linear', '+8.4 ± 3.1'),
  ('MAM2', 'pixels', 'motion/attentive', '+9.6 ± 8.5'),
  ('MME', 'pixels', 'motion/knn', '+24.3 ± 12.5'),
  ('MME', 'pixels', 'motion/linear', '+25.0 ± 17.6'),
  ('MME', 'pixels', 'motion/attentive', '-6.9 ± 21.4'),
  ('pixels and differences, tubes', 'pixels', 'motion/attentive', '-0.2 ± 7.1'),
  ('pixels', 'pixels and differences, guided masks', 'motion/linear', '5.2 ± 3.6'),
  ('untrained', 'pixels', 'motion/linear', '+11.2 ± 3.0'),
  ('untrained', 'pixels', 'motion/attentive', '+3.8 ± 8.4'),
  ('differences of another clip', 'pixels', 'motion/linear', '+30.0 ± 2.5'),
  ('differences of another clip', 'pixels', 'motion/attentive', '+15.5 ± 10.0'),
  ('differences of another clip', 'pixels twice', 'motion/linear', '1.4 ± 3.7'),
  ('differences of another clip', 'pixels twice', 'motion/knn', '1.5 ± 5.2'),
  ('differences of another clip', 'pixels twice', 'motion/attentive', '-0.3 ± 5.5'),
  ('MotionMAE', 'differences of another clip', 'motion/linear', '8.8 ± 3.7'),
  ('MotionMAE', 'differences of another clip', 'motion/attentive', '6.1 ± 5.1'),
  ('pixels', 'MME', 'look/linear', '10.0 ± 2.7'),
  ('pixels', 'pixels and flow', 'look/linear', '3.0 ± 3.9'),
  ('pixels', 'MME', 'look/attentive', '22.4 ± 2.4'),
  ('pixels', 'MAM2', 'look/attentive', '15.9 ± 3.8'),
  ('pixels', 'pixels and flow', 'look/attentive', '9.5 ± 6.7'),
  ('pixels', 'MotionMAE', 'look/attentive', '9.2 ± 8.4'),
  ('pixels', 'differences of another clip', 'look/attentive', '8.0 ± 4.9'),
  ('pixels', 'pixels twice', 'look/attentive', '6.5 ± 5.4'),
  ('pixels', 'pixels and differences, guided masks', 'look/attentive', '2.0 ± 1.8'),
  ('pixels', 'MGMAE', 'look/attentive', '4.4 ± 9.7'),
  ('MotionMAE', 'pixels', FINE_TUNED[0], '23.0 ± 6.2'),
  ('MotionMAE', 'pixels', FINE_TUNED[1], '26.2 ± 12.7'),
  ('MotionMAE', 'pixels', FINE_TUNED[2], '35.6 ± 30.6'),
  ('pixels twice', 'pixels', FINE_TUNED[0], '19.2 ± 3.4'),
  ('pixels twice', 'pixels', FINE_TUNED[1], '24.0 ± 17.2'),
  ('pixels twice', 'pixels', FINE_TUNED[2], '30.4 ± 31.1'),
  ('MotionMAE', 'pixels twice', FINE_TUNED[0], '3.9 ± 8.3'),
  ('MotionMAE', 'pixels twice', FINE_TUNED[1], '2.2 ± 9.1'),
  ('MotionMAE', 'pixels twice', FINE_TUNED[2], '5.3 ± 5.0'),
  ('differences of another clip', 'pixels twice', FINE_TUNED[0], '0.2 ± 4.8'),
  ('differences of another clip', 'pixels twice', FINE_TUNED[1], '5.8 ± 8.9'),
  ('differences of another clip', 'pixels twice', FINE_TUNED[2], '-9.5 ± 29.6'),
  ('MotionMAE', 'differences of another clip', FINE_TUNED[0], '3.7 ± 5.5'),
  ('MotionMAE', 'differences of another clip', FINE_TUNED[1], '-3.6 ± 8.3'),
  ('MotionMAE', 'differences of another clip', FINE_TUNED[2], '14.8 ± 27.5'),
]


def difference(summary, one, other, measure):
  """By hand: 2.776 is Student's t of five values, two-sided, 95 %."""
  a, b = (summary['arms'][name]['measures'][f'{measure}/-1']['values'] for name in (one, other))
  found = [100 * (x - y) for x, y in zip(a, b, strict=True)]
  return f'{statistics.mean(found):.1f} ± {2.776 * statistics.stdev(found) / math.sqrt(5):.1f}'


@pytest.mark.parametrize(('one', 'other', 'measure', 'said'), DIFFERENCES)
def test_differences_that_the_page_names(summary, finetuned, one, other, measure, said):
  found = finetuned if measure in FINE_TUNED else summary
  assert difference(found, one, other, measure) == said.removeprefix('+')
  text = ' '.join((ROOT / 'vmae_jax/compare/README.md').read_text().split())
  assert re.search(rf'(?<![-+\d]){re.escape(said)}(?!\d)', text)


def test_differences_that_the_front_page_names(summary):
  text = ' '.join((ROOT / 'README.md').read_text().split())
  for one, other in (('MotionMAE', 'pixels twice'), ('pixels twice', 'pixels')):
    assert difference(summary, one, other, 'motion/linear') in text


def test_fine_tuning_on_the_front_page(finetuned):
  text = ' '.join((ROOT / 'README.md').read_text().split())
  for arm in ('MotionMAE', 'pixels twice', 'pixels'):
    values = [100 * x for x in finetuned['arms'][arm]['measures'][f'{FINE_TUNED[0]}/-1']['values']]
    half = 2.776 * statistics.stdev(values) / math.sqrt(5)
    assert f'{arm} {statistics.mean(values):.1f} ± {half:.1f}' in text
