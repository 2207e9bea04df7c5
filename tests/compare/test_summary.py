"""Means, intervals and paired differences of a study."""

import math

import pytest

from vmae_jax.compare.summary import interval, summarise, table


def test_interval():
  """By hand: sd of 1 2 3 4 6 is sqrt(3.7); the 97.5 % quantile of Student's t with 4 is 2.7764."""
  found = interval([1.0, 2.0, 3.0, 4.0, 6.0])
  assert found['mean'] == pytest.approx(3.2)
  assert found['half_width'] == pytest.approx(2.7764 * math.sqrt(3.7 / 5), rel=1e-4)
  assert interval([0.25])['half_width'] is None


def run(**steps):
  """A run with these k-NN accuracies on the label `motion`, by step."""
  measured = {step[1:]: {'motion': {'knn': {'-1': top1}}} for step, top1 in steps.items()}
  return {'config': {'batch_size': 4}, 'clip_flops': 10, 'measured': measured}


ARMS = {
  'pixels': {0: run(s5=0.1, s10=0.2), 1: run(s5=0.2, s10=0.4), 2: run(s5=0.3, s10=0.5)},
  'flow': {0: run(s5=0.2, s10=0.3), 1: run(s5=0.3, s10=0.5)},
}
KEY = 'motion/knn/-1'


def test_differences_are_paired_by_seed():
  summary = summarise(ARMS, steps=10)
  flow = summary['arms']['flow']
  assert flow['measures'][KEY]['mean'] == pytest.approx(0.4)
  # Of the seeds that both have: 0.3 - 0.2 and 0.5 - 0.4, however much the seeds differ.
  assert flow['differences'][KEY]['values'] == pytest.approx([0.1, 0.1])
  assert flow['differences'][KEY]['half_width'] == pytest.approx(0, abs=1e-12)
  assert summary['arms']['pixels']['curve'][5][KEY]['mean'] == pytest.approx(0.2)
  assert list(summary['arms']['flow']['curve']) == [5, 10]


def test_table():
  text = table(summarise(ARMS, steps=10))
  assert '| pixels | 3 | 36.7 ± 37.9 |' in text
  assert '| flow | 2 | +10.0 ± 0.0 |' in text
  fewer = {'pixels': {0: ARMS['pixels'][0]}, 'flow': ARMS['flow']}
  text = table(summarise(fewer, steps=10))  # One seed alone is in both arms.
  assert '| flow | 2 | 40.0 ± 127.1 |' in text and '| flow | 1 | +10.0 |' in text
  alone = table(summarise({'pixels': {0: ARMS['pixels'][0]}}, steps=10))
  assert '| pixels | 1 | 20.0 |' in alone  # No interval of one seed.
