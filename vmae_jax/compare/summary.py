"""The results of all runs of a study together: means, intervals and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from vmae_jax.evaluation.probing import TITLES
from vmae_jax.evaluation.results import markdown

LEVEL = 0.95  # The confidence level of all intervals.
FINETUNED = 'fine-tuned'  # Stands for a probe if the whole model is trained on the label.


def interval(values: Sequence[float]) -> dict[str, Any]:
  """The mean, half the width of Student's 95 % interval (None for one value), and the values."""
  n, half = len(values), None
  if n > 1:
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
  return {'mean': float(np.mean(values)), 'half_width': half, 'values': list(values)}


def summarise(arms: Mapping[str, Mapping[int, Mapping[str, Any]]], *, steps: int) -> dict[str, Any]:
  """For every arm and measure: mean and interval, also of the difference from the baseline.

  Differences are between runs with the same seed, which share initial weights and order of clips.

  Args:
    arms: Arm -> seed -> the run's result.json; the first arm is the baseline.
    steps: Steps of a run.

  Returns:
    `arms`: arm -> `seeds`, `measures` ('LABEL/PROBE/LAYER' -> `interval`), `differences` (the
    same, for seeds that both arms have), and `curve` (step -> the same as `measures`);
    `baseline`, `steps`, `level`.
  """
  flat = {
    arm: {
      seed: {int(step): _flat(found) for step, found in result['measured'].items()}
      for seed, result in runs.items()
    }
    for arm, runs in arms.items()
  }
  baseline = next(iter(flat))
  last = {arm: {s: found[max(found)] for s, found in runs.items()} for arm, runs in flat.items()}
  summary = {}
  for arm, runs in flat.items():
    shared = [seed for seed in runs if seed in last[baseline]]
    some = next(iter(arms[arm].values()))
    summary[arm] = {
      'seeds': list(runs),
      'clip_flops': some.get('clip_flops', 0),
      'batch_size': some['config']['batch_size'],
      'measures': _intervals([last[arm][seed] for seed in runs]),
      'differences': _intervals(
        [
          {
            key: value - last[baseline][seed][key]
            for key, value in last[arm][seed].items()
            if key in last[baseline][seed]
          }
          for seed in shared
        ]
      ),
      'curve': {
        step: _intervals([found[step] for found in runs.values() if step in found])
        for step in sorted({step for found in runs.values() for step in found})
      },
    }
  return {'arms': summary, 'baseline': baseline, 'steps': steps, 'level': LEVEL}


def _flat(found: Mapping[str, Any]) -> dict[str, float]:
  return {
    f'{label}/{probe}/{layer}': top1
    for label, probes in found.items()
    for probe, layers in probes.items()
    for layer, top1 in layers.items()
  }


def _intervals(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  keys = [key for key in found[0] if all(key in one for one in found)] if found else []
  return {key: interval([one[key] for one in found]) for key in keys}


def table(summary: Mapping[str, Any]) -> str:
  """The summary as Markdown: a table of accuracies and a table of differences."""
  arms, baseline = summary['arms'], summary['baseline']
  keys = list(arms[baseline]['measures'])
  lines = [
    f'Top-1 accuracy in per cent after {summary["steps"]} steps: mean over seeds, and half the '
    f'width of the {summary["level"]:.0%} interval.',
    '',
    *rows(arms, keys, 'measures'),
    '',
    f'Difference from {baseline}, seed by seed, in points.',
    '',
    *rows({name: arm for name, arm in arms.items() if name != baseline}, keys, 'differences'),
  ]
  return '\n'.join(lines) + '\n'


def rows(arms: Mapping[str, Any], keys: Sequence[str], part: str) -> list[str]:
  """Lines of a table: `keys` of a summary's `part`, 'measures' or 'differences', for each arm."""
  lines = [('arm', 'seeds', *map(title, keys))]
  for name, arm in arms.items():
    cells = (_cell(arm[part].get(key), signed=part == 'differences') for key in keys)
    # Differences only have the seeds that both arms have.
    seeds = max((len(found['values']) for found in arm[part].values()), default=0)
    lines.append((name, seeds, *cells))
  return markdown(lines)


def title(key: str) -> str:
  """The title of a measure in a table."""
  label, probe, layer = key.split('/')
  return f'{label}, {TITLES.get(probe, probe)}' + ('' if layer == '-1' else f', layer {layer}')


def _cell(found: Mapping[str, Any] | None, *, signed: bool) -> str:
  if found is None:
    return ''
  mean = f'{100 * found["mean"]:{"+" if signed else ""}.1f}'
  half = found['half_width']
  return mean if half is None else f'{mean} ± {100 * half:.1f}'
