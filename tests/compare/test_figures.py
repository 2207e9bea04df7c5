"""Figures of studies whose runs were not all asked the same."""

import pytest

from vmae_jax.compare.figures import draw_figures
from vmae_jax.compare.summary import summarise


def run(*probes, early=()):
  """A run that was asked by these probes at its end."""

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
def test_what_was_not_asked_is_not_drawn(arms, names, tmp_path):
  draw_figures(summarise(arms, steps=10), tmp_path, {})
  assert sorted(path.name for path in tmp_path.iterdir()) == names
