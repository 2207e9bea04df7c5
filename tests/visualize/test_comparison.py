"""Runs beside each other."""

import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.visualize.comparison import loss_panels, probe_table
from vmae_jax.visualize.curves import COLOURS


def metrics(*keys, steps=30):
  return [{'step': i, 'loss': 1.0} | {k: 1 / (1 + i) for k in keys} for i in range(steps)]


def count(picture, colour):
  rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return (np.abs(picture.astype(int) - rgb).sum(-1) < 12).sum()


def test_a_panel_for_each_run():
  one = loss_panels({'a': metrics('loss_pixels')}, title='x')
  four = loss_panels({n: metrics('loss_pixels', 'loss_motion') for n in 'abcd'})
  assert one.dtype == np.uint8 and one.shape[2] == 3
  assert four.shape[1] == 3 * one.shape[1] and four.shape[0] > 1.7 * one.shape[0]
  assert four.shape[1] <= 1100  # A page.
  assert count(one, COLOURS[0]) > 50 and count(one, COLOURS[1]) == 0
  assert count(four, COLOURS[0]) > 200 and count(four, COLOURS[1]) > 100


def test_nothing_to_draw():
  with pytest.raises(UserError, match='no run'):
    loss_panels({})
  with pytest.raises(UserError, match="'a' has no loss"):
    loss_panels({'a': [{'step': 1, 'learning_rate': 0.1}]})


def probed(knn, linear, train=40):
  row = {'knn': {'top1': knn}, 'linear': {'top1': linear}}
  accuracy = {'pre-trained': row, 'untrained': {k: {'top1': 0.1} for k in row}}
  return {'clips': {'train': train, 'val': 20}, 'largest_class': 0.25, 'accuracy': accuracy}


def test_table():
  table = probe_table({'mme': probed(0.5, 0.75), 'mgmae': probed(0.25, 0.3)})
  lines = table.splitlines()
  assert lines[0] == '| run | weights | k-NN top-1 | linear top-1 |'
  assert lines[2] == '| mme | pre-trained | 0.500 | 0.750 |'
  assert lines[5] == '| mgmae | untrained | 0.100 | 0.100 |'
  assert lines[-1].startswith('40 training and 20 held-out clips') and '0.250' in lines[-1]


def test_only_like_is_compared():
  with pytest.raises(UserError, match='different clips'):
    probe_table({'a': probed(0.5, 0.5), 'b': probed(0.5, 0.5, train=41)})
  with pytest.raises(UserError, match='no probe'):
    probe_table({})
