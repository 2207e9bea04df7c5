"""Figures of a study."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from vmae_jax.compare.summary import title
from vmae_jax.visualize.curves import styled

# An arm has the same marker, colour and line in all figures.
MARKERS = 'osDv^<>Pph*X' * 9
COLOURS = [f'C{i}' for i in range(len(MARKERS))]
LEGEND = dict(fontsize=8, loc='center left', bbox_to_anchor=(1.02, 0.5))
LINES = [('-', '--', ':')[i // 7 % 3] for i in range(len(MARKERS))]  # The style has 7 colours.


@styled()
def draw_figures(
  summary: Mapping[str, Any], folder: Path, held_out: Mapping[str, Iterable[Sequence[str]]]
) -> None:
  """Writes the figures of a study to a folder.

  LABEL-LABEL.png has the accuracies of the first two labels, curves.png accuracy over clips and
  FLOPs, and gain-LABEL.png, for each label in `held_out`, gains over the baseline.
  """
  measures = summary['arms'][summary['baseline']]['measures']
  labels = list(dict.fromkeys(key.split('/')[0] for key in measures))
  keys = [key for label in labels[:2] for key in measures if key.startswith(f'{label}/')]
  last = {key.split('/')[0]: key for key in keys}  # The last probe of each is the strongest.
  figures = {}
  if len(last) == 2:
    figures['-'.join(last)] = _against(summary, *last.values())
  early = next(iter(summary['arms'][summary['baseline']]['curve'].values()))
  of_labels = ([key for key in early if key.startswith(f'{label}/')] for label in labels[:2])
  if keys := [found[-1] for found in of_labels if found]:  # Some probes have only the last step.
    figures['curves'] = _curves(summary, keys)
  for label, pairs in held_out.items():
    figures[f'gain-{label}'] = _gains(summary, label, [name for name, _ in pairs])
  for name, figure in figures.items():
    figure.savefig(folder / f'{name}.png', dpi=150)
    plt.close(figure)


def _gains(summary: Mapping[str, Any], label: str, names: list[str]) -> plt.Figure:
  """Paired differences from the baseline on each of a label's held-out sets."""
  figure, axes = plt.subplots(figsize=(8.5, 4.5), layout='constrained')
  axes.axhline(0, color='grey', lw=1)
  for i, ((name, arm), marker, colour, line) in enumerate(
    zip(summary['arms'].items(), MARKERS, COLOURS, LINES, strict=False)
  ):
    found = {key.split('/')[0]: value for key, value in arm['differences'].items()}
    measured = [found[f'{label}, {one}'] for one in names if f'{label}, {one}' in found]
    if name == summary['baseline'] or len(measured) < len(names):
      continue
    bars = [100 * (one['half_width'] or 0) for one in measured]
    gains = [100 * one['mean'] for one in measured]
    look = dict(marker=marker, color=colour, ls=line, capsize=3)
    look['label'] = _counted(name, len(measured[0]['values']), summary)
    shift = 0.5 * (i / len(summary['arms']) - 0.5)  # So that bars do not hide each other.
    axes.errorbar([at + shift for at in range(len(names))], gains, yerr=bars, **look)
  axes.set_xticks(range(len(names)), [textwrap.fill(one, 12) for one in names])
  axes.set_ylabel(f'gain over {summary["baseline"]}, {label}, top-1 [points]')
  axes.set_title('The same probes on further held-out clips' + _bars(summary))
  if axes.get_legend_handles_labels()[0]:
    axes.legend(**LEGEND)
  axes.grid(alpha=0.3)
  return figure


def _bars(summary: Mapping[str, Any]) -> str:
  counts = {len(arm['seeds']) for arm in summary['arms'].values()}
  if counts == {1}:
    return '; one seed'
  of_all = f' of {max(counts)} seeds' if len(counts) == 1 else ''
  return f'; bars: {summary["level"]:.0%} intervals{of_all}'


def _counted(name: str, seeds: int, summary: Mapping[str, Any]) -> str:
  """An arm's name, with its number of seeds unless all arms have this number."""
  if all(len(arm['seeds']) == seeds for arm in summary['arms'].values()):
    return name
  return f'{name} ({seeds} seed{"s" * (seeds != 1)})'


def _against(summary: Mapping[str, Any], x: str, y: str) -> plt.Figure:
  figure, axes = plt.subplots(figsize=(8.5, 4.5), layout='constrained')
  for (name, arm), marker, colour in zip(summary['arms'].items(), MARKERS, COLOURS, strict=False):
    if x not in arm['measures'] or y not in arm['measures']:  # From before they were added.
      continue
    one, other = arm['measures'][x], arm['measures'][y]
    bars = {'xerr': 100 * (one['half_width'] or 0), 'yerr': 100 * (other['half_width'] or 0)}
    look = dict(
      fmt=marker, color=colour, capsize=3, label=_counted(name, len(arm['seeds']), summary)
    )
    axes.errorbar(100 * one['mean'], 100 * other['mean'], **bars, **look)
  axes.set(xlabel=f'{title(x)}, top-1 [%]', ylabel=f'{title(y)}, top-1 [%]')
  axes.set_title(f'Frozen features after {summary["steps"]:,} steps' + _bars(summary))
  axes.legend(**LEGEND)
  axes.grid(alpha=0.3)
  return figure


def _curves(summary: Mapping[str, Any], keys: list[str]) -> plt.Figure:
  figure, axes = plt.subplots(
    len(keys), 2, figsize=(9, 3.2 * len(keys)), squeeze=False, sharey='row', layout='constrained'
  )
  for row, key in zip(axes, keys, strict=True):
    for (name, arm), colour, line in zip(summary['arms'].items(), COLOURS, LINES, strict=False):
      points = [(int(step), found[key]) for step, found in arm['curve'].items() if key in found]
      if not points:
        continue
      if not arm['clip_flops']:
        for one in row:
          one.axhline(100 * points[-1][1]['mean'], color='grey', ls='--', label=name)
        continue
      steps = [step for step, _ in points]
      clips = [step * arm['batch_size'] for step in steps]
      flops = [n * arm['clip_flops'] / 1e12 for n in clips]
      values = [100 * found['mean'] for _, found in points]
      bars = [100 * (found['half_width'] or 0) for _, found in points]
      look = dict(marker='o', ms=3, capsize=2, color=colour, ls=line, label=name)
      for one, at in zip(row, (clips, flops), strict=True):
        one.errorbar(at, values, yerr=bars, **look)
    row[0].set_ylabel(f'{title(key)}, top-1 [%]')
    for one, what in zip(row, ('clips seen', 'TFLOP'), strict=True):
      one.set_xlabel(what)
      one.xaxis.set_major_locator(MaxNLocator(5))
      one.xaxis.set_major_formatter('{x:,.0f}')
      one.grid(alpha=0.3)
  axes[0, 1].legend(**LEGEND)
  return figure
