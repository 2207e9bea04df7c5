"""Figures of a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from vmae_jax.compare.summary import title


def draw_figures(summary: Mapping[str, Any], folder: Path) -> None:
  """Writes one label against the other, and accuracy over clips and over FLOPs.

  Args:
    summary: As `summarise` returns it.
    folder: Gets LABEL-LABEL.png for the first two labels, and curves.png.
  """
  measures = summary['arms'][summary['baseline']]['measures']
  labels = list(dict.fromkeys(key.split('/')[0] for key in measures))
  probe = '/'.join(list(measures)[0].split('/')[1:])
  keys = [key for label in labels[:2] for key in measures if key.startswith(f'{label}/')]
  last = {key.split('/')[0]: key for key in keys}  # The last probe of each is the strongest.
  if len(last) == 2:
    figure = _against(summary, *last.values())
    figure.savefig(folder / f'{"-".join(last)}.png', dpi=150)
    plt.close(figure)
  figure = _curves(summary, [f'{label}/{probe}' for label in labels[:2]])
  figure.savefig(folder / 'curves.png', dpi=150)
  plt.close(figure)


def _against(summary: Mapping[str, Any], x: str, y: str) -> plt.Figure:
  figure, axes = plt.subplots(figsize=(6, 4.5), layout='constrained')
  for (name, arm), marker in zip(summary['arms'].items(), 'osDv^<>Pph*X' * 9, strict=False):
    one, other = arm['measures'][x], arm['measures'][y]
    axes.errorbar(
      100 * one['mean'],
      100 * other['mean'],
      xerr=100 * (one['half_width'] or 0),
      yerr=100 * (other['half_width'] or 0),
      fmt=marker,
      capsize=3,
      label=f'{name} ({len(arm["seeds"])} seeds)',
    )
  axes.set(xlabel=f'{title(x)}, top-1 [%]', ylabel=f'{title(y)}, top-1 [%]')
  axes.set_title(f'Frozen features after {summary["steps"]} steps; bars: 95 % intervals')
  axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.02, 0.5))
  axes.grid(alpha=0.3)
  figure.set_size_inches(8.5, 4.5)
  return figure


def _curves(summary: Mapping[str, Any], keys: list[str]) -> plt.Figure:
  figure, axes = plt.subplots(
    len(keys), 2, figsize=(9, 3.2 * len(keys)), squeeze=False, sharey='row', layout='constrained'
  )
  for row, key in zip(axes, keys, strict=True):
    for name, arm in summary['arms'].items():
      points = [(int(step), found[key]) for step, found in arm['curve'].items() if key in found]
      if not arm['clip_flops']:
        for one in row:
          one.axhline(100 * points[-1][1]['mean'], color='grey', ls='--', label=name)
        continue
      steps = [step for step, _ in points]
      clips = [step * arm['batch_size'] for step in steps]
      flops = [n * arm['clip_flops'] / 1e15 for n in clips]
      values = [100 * found['mean'] for _, found in points]
      bars = [100 * (found['half_width'] or 0) for _, found in points]
      for one, at in zip(row, (clips, flops), strict=True):
        one.errorbar(at, values, yerr=bars, marker='o', ms=3, capsize=2, label=name)
    row[0].set_ylabel(f'{title(key)}, top-1 [%]')
    for one, what in zip(row, ('clips seen', 'PFLOP'), strict=True):
      one.set_xlabel(what)
      one.grid(alpha=0.3)
  axes[0, 1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1.02, 0.5))
  return figure
