"""Training curves of one run, and of several runs in panels."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.types import Float, UInt8

# Okabe and Ito's colours, for any colour vision; lines differ in style, too.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
STYLES = ('-', '--', '-.', ':')
STYLE = {
  'font.size': 10,
  'axes.titlesize': 10,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'axes.prop_cycle': f'cycler("color", {list(COLOURS)})',
  'grid.color': '#dddddd',
  'grid.linewidth': 0.6,
  'legend.frameon': False,
  'legend.fontsize': 9,
}
ROUND = dict(nbins=5, steps=[1, 2, 5, 10], integer=True)  # Ticks at round numbers.
PANELS = 3  # Most panels in a row.
SMOOTHING = 0.05  # The window of the thick line, as a share of the run's length.


@contextlib.contextmanager
def styled():
  """The style of all plots."""
  import matplotlib

  with matplotlib.rc_context(STYLE):
    yield


@styled()
def loss_curve(
  metrics: Sequence[Mapping[str, Any]],
  path: str | os.PathLike | io.BytesIO,
  *,
  keys: Sequence[str] = ('loss',),
  title: str = '',
) -> None:
  """Draws a run's losses over steps (thin: raw, thick: smoothed) above the learning rate.

  Args:
    metrics: The run's records, from `read_metrics`.
    path: The PNG to write, or a file that gets it.
    keys: Scalars to draw: the loss, and the losses of heads.
  """
  # No pyplot: it would keep global state and could look for a display.
  from matplotlib.figure import Figure
  from matplotlib.ticker import FuncFormatter, MaxNLocator

  figure = Figure(figsize=(5.6, 4.0), layout='constrained')
  losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3.5, 1])
  for line, key in enumerate(key for key in keys if any(key in record for record in metrics)):
    head = key.removeprefix('loss_') if key != 'loss' else 'sum'
    _draw_series(losses, metrics, key, line, head if len(keys) > 1 else '')
  losses.set_ylabel('loss')
  losses.set_title(title)
  _scale_to_later_losses(losses)
  if len(keys) > 1:
    losses.legend()
  steps, rates = series(metrics, 'learning_rate')
  rate.plot(steps, rates, linewidth=1.2, **_style(0, steps))
  rate.set_ylabel('learning\nrate')
  rate.set_ylim(bottom=0)
  rate.locator_params(axis='y', nbins=3)
  rate.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f'{rate:.0e}' if rate else '0'))
  rate.set_xlabel('step')
  rate.xaxis.set_major_locator(MaxNLocator(**ROUND))
  for ax in (losses, rate):
    ax.grid()
  figure.align_ylabels()
  figure.savefig(path, dpi=200, format='png')


@styled()
def loss_panels(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> UInt8[np.ndarray, 'H W 3']:
  """One panel for each run with the losses of its heads, as their units differ between runs.

  Args:
    runs: Name of each run -> its records, from `read_metrics`.

  Raises:
    UserError: there is no run, or one has no loss.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  from matplotlib.ticker import MaxNLocator

  if not runs:
    raise UserError('there is no run whose loss could be drawn.')
  columns = min(PANELS, len(runs))
  rows = -(-len(runs) // columns)
  figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 0.3), layout='constrained', dpi=110)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for ax, (name, metrics) in zip(axes, runs.items(), strict=False):
    keys = dict.fromkeys(k for record in metrics for k in record if k.startswith('loss_'))
    if not keys:
      raise UserError(f'run {name!r} has no loss in its metrics: has it done a step?')
    for line, key in enumerate(keys):
      _draw_series(ax, metrics, key, line, key.removeprefix('loss_'))
    ax.set_title(name)
    ax.set_xlabel('step')
    ax.xaxis.set_major_locator(MaxNLocator(**ROUND | dict(nbins=4)))
    _scale_to_later_losses(ax)
    ax.set_ylim(bottom=0)
    ax.legend()
    ax.grid()
  for ax in axes[len(runs) :]:
    ax.set_visible(False)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_series(ax, metrics: Sequence[Mapping[str, Any]], key: str, line: int, label: str) -> None:
  """Draws a scalar over steps, in the colour and style that belong to the line's number."""
  steps, values = series(metrics, key)
  style = _style(line, steps)
  smooth = smoothed(values, window=1 + int(SMOOTHING * len(values)))
  ax.plot(steps, values, linewidth=0.6, alpha=0.3, color=style['color'])
  ax.plot(steps, smooth, linewidth=1.8, label=label or None, **style)


def _style(line: int, steps: Float[np.ndarray, ' s']) -> dict[str, Any]:
  colour, style = COLOURS[line % len(COLOURS)], STYLES[line % len(STYLES)]
  # A line through one point cannot be seen.
  return {'color': colour, 'linestyle': style, 'marker': 'o' if len(steps) == 1 else None}


def _scale_to_later_losses(ax) -> None:
  """Fits the y axis to all but the first tenth, whose high losses would flatten the rest."""
  later = [y[len(y) // 10 :] for y in (line.get_ydata() for line in ax.lines)]
  later = [y[np.isfinite(y)] for y in later]
  if later and all(len(y) > 1 for y in later):
    low, high = min(y.min() for y in later), max(y.max() for y in later)
    ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9)


def series(
  metrics: Sequence[Mapping[str, Any]], key: str
) -> tuple[Float[np.ndarray, ' s'], Float[np.ndarray, ' s']]:
  """Steps and values of the records that have the key."""
  pairs = [(record['step'], record[key]) for record in metrics if key in record]
  steps, values = np.array(pairs, float).reshape(-1, 2).T
  return steps, values


def smoothed(values: Float[np.ndarray, ' s'], *, window: int) -> Float[np.ndarray, ' s']:
  """The mean over `window` values centred at each, fewer at the ends, without NaN.

  A step whose window is all NaN stays NaN.
  """
  kernel = np.ones(window)
  known = np.isfinite(values)
  sums = np.convolve(np.where(known, values, 0), kernel, mode='same')
  counts = np.convolve(known, kernel, mode='same')
  return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0.5)
