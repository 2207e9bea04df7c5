"""That the numbers measure what they say; not how good they are."""

import numpy as np
import pytest

from tests.benchmark import flow
from tests.data.clips_on_disk import write_video


def test_known_motions_are_scored_by_their_error(tmp_path, monkeypatch):
  paths = [write_video(tmp_path / 'a.mp4', frames=30)]
  monkeypatch.setattr(flow, 'motions', lambda: {'m': np.full((224, 224, 2), 3.0)})
  monkeypatch.setattr(flow, '_seconds', lambda name, rounds: 0.5)
  there = {
    'right': lambda a, b: np.full((224, 224, 2), 3.0),
    'none': lambda a, b: np.zeros((224, 224, 2)),
  }
  monkeypatch.setattr(flow, 'contenders', lambda names: there)
  result = flow.benchmark_flow(paths, estimators=['right'], rounds=1)
  for row in result['known']['m'].values():
    assert row['right'] == 0 and row['none'] == pytest.approx(18**0.5)
  assert result['natural']['1'][paths[0]]['none'] == pytest.approx(0, abs=1e-6)
  assert '| m | clean | 0.00 | 4.24 |' in flow.table(result)


def test_look_up_and_enlarge():
  image = np.random.default_rng(0).uniform(size=(6, 8, 3)).astype(np.float32)
  for order in (1, 3):
    moved = flow.look_up(image, np.full((6, 8, 2), [2.0, -1.0]), order=order)
    np.testing.assert_allclose(moved[1:, :-2], image[:-1, 2:], atol=1e-5)
  coarse = np.full((4, 4, 2), [1.0, -2.0], np.float32)
  np.testing.assert_allclose(flow.enlarge(coarse, 8), np.full((8, 8, 2), [2.0, -4.0]))
