"""Several runs beside each other: losses that cannot share an axis, and a table of probes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.evaluation.probing import TITLES
from vmae_jax.types import UInt8
from vmae_jax.visualize.curves import COLOURS, SMOOTHING, STYLES, series, smoothed

COLUMNS = 3


def loss_panels(
  runs: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str = ''
) -> UInt8[np.ndarray, 'H W 3']:
  """A panel for each run with the losses of its heads: what they count differs, so no common axis.

  Args:
    runs: Name of a run -> what `read_metrics` gave.
    title: Text above.

  Raises:
    UserError: there is no run, or one has no loss.
  """
  # No pyplot: it would keep global state and could look for a display.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  if not runs:
    raise UserError('there is no run whose loss could be drawn.')
  columns = min(COLUMNS, len(runs))
  rows = -(-len(runs) // columns)
  figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 0.3), layout='constrained', dpi=110)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for ax, (name, metrics) in zip(axes, runs.items(), strict=False):
    keys = dict.fromkeys(k for record in metrics for k in record if k.startswith('loss_'))
    if not keys:
      raise UserError(f'run {name!r} has no loss in its metrics: has it done a step?')
    for i, key in enumerate(keys):
      look = dict(color=COLOURS[i % len(COLOURS)], linestyle=STYLES[i % len(STYLES)])
      steps, values = series(metrics, key)
      ax.plot(steps, values, linewidth=0.6, alpha=0.3, color=look['color'])
      smooth = smoothed(values, window=1 + int(SMOOTHING * len(values)))
      ax.plot(steps, smooth, linewidth=1.8, label=key.removeprefix('loss_'), **look)
    ax.set_title(name, loc='left', fontsize='medium')
    ax.set_xlabel('step', fontsize='small')
    ax.tick_params(labelsize='small')
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize='small')
    ax.spines[['top', 'right']].set_visible(False)
    ax.grid(color='#dddddd', linewidth=0.6)
  for ax in axes[len(runs) :]:
    ax.set_visible(False)
  figure.suptitle(title, x=0.01, ha='left', fontsize='medium')
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def probe_table(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Markdown: for each run what its frozen features know, beside those of its untrained twin.

  Args:
    results: Name of a run -> what `vmae_jax.evaluation.probing.probe` gave.

  Raises:
    UserError: there is no run, or runs were probed on other clips.
  """
  if not results:
    raise UserError('there is no probe to tell of.')
  first = next(iter(results.values()))
  clips = first['clips']
  if any(result['clips'] != clips for result in results.values()):
    raise UserError('runs probed on different clips do not belong into one table.')
  probes = list(next(iter(first['accuracy'].values())))
  models = [(name, model) for name, result in results.items() for model in result['accuracy']]
  titles = [f'{TITLES[probe]} top-1' for probe in probes]
  lines = ['| run | ' + ' | '.join(['weights', *titles]) + ' |', '|---' * (2 + len(titles)) + '|']
  for name, model in models:
    row = results[name]['accuracy'][model]
    cells = [f'{row[probe]["top1"]:.3f}' for probe in probes]
    lines.append('| ' + ' | '.join([name, model, *cells]) + ' |')
  chance = first['largest_class']
  lines += [
    '',
    f'{clips["train"]:,} training and {clips["val"]:,} held-out clips; always naming the largest '
    f'class gives {chance:.3f}.',
  ]
  return '\n'.join(lines)
