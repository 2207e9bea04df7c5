"""Figures of studies whose runs do not all have the same measures."""

import matplotlib.pyplot as plt
import pytest

from vmae_jax.compare import figures
from vmae_jax.compare.figures import draw_figures
from vmae_jax.compare.summary import summarise


def run(*probes, early=()):
  """A run that was measured with these probes after its last step."""

  def asked(probes):
    return {label: {probe: {'-1': 0.5} for probe in probes} for label in ('motion', 'look')}

  measured = {'5': asked(early), '10': asked(probes)}
  return {'config': {'batch_size': 4}, 'clip_flops': 10, 'measured': measured}


@pytest.mark.parametrize(
  ('arms', 'names'),
  [
    # On the way attentive probes are left off.
    ({'pixels': {1: run('attentive')}, 'flow': {1: run('attentive')}}, ['motion-look.png']),
    # A probe is added to the study: the baseline is the first to be asked anew.
    (
      {'pixels': {1: run('knn', 'linear', early=['knn', 'linear'])}, 'flow': {1: run('knn')}},
      ['curves.png', 'motion-look.png'],
    ),
  ],
)
def test_missing_measures_are_not_drawn(arms, names, tmp_path):
  draw_figures(summarise(arms, steps=10), tmp_path, {})
  assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
  ('seeds', 'title', 'names'),
  [
    ((1, 1), 'after 10 steps; one seed', ['pixels', 'flow']),
    ((3, 3), 'after 10 steps; bars: 95% intervals of 3 seeds', ['pixels', 'flow']),
    # Where not all have as many, each says how many.
    ((2, 1), 'after 10 steps; bars: 95% intervals', ['pixels (2 seeds)', 'flow (1 seed)']),
  ],
)
def test_a_figure_says_how_many_seeds_there_are(seeds, title, names):
  runs = {
    name: {seed: run('knn', early=['knn']) for seed in range(1, count + 1)}
    for name, count in zip(('pixels', 'flow'), seeds, strict=True)
  }
  summary = summarise(runs, steps=10)
  figure = figures._against(summary, 'look/knn/-1', 'motion/knn/-1')
  (axes,) = figure.axes
  plt.close(figure)
  assert axes.get_title().endswith(title)
  assert [text.get_text() for text in axes.get_legend().get_texts()] == names
