"""Everything that a run logs: its size, its metrics one step late, its speed and its results."""

import collections
import contextlib
import io
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging
from clu import parameter_overview
from jax.sharding import Mesh

from vmae_jax import chips, storage
from vmae_jax.data.loader import Loader
from vmae_jax.errors import UserError
from vmae_jax.method.state import TrainState
from vmae_jax.runs.bad_videos import BadVideos, count_unavailable, too_many
from vmae_jax.runs.metrics import MetricWriter, read_metrics
from vmae_jax.runs.progress import Progress
from vmae_jax.runs.run_dir import write_summary
from vmae_jax.visualize.curves import loss_curve

LINES = 20  # About how many lines a run prints.
# Metrics that count from the start of the run; the others are averaged between log lines.
COUNTERS = ('skipped', 'skipped_in_a_row', 'bad_clips')


class RunLog:
  """Console, metrics.jsonl, TensorBoard, bad_videos.csv, loss.png and summary.json of a run.

  Metrics of a step are read after the next one has been started, so that the device never
  waits for the host.
  """

  def __init__(
    self,
    config,
    workdir: str,
    *,
    clip_flops: int,
    schedule,
    steps: int,
    start: int,
    videos: int,
    kept: Mapping[str, Any],
    weighted: bool = False,
  ):
    """Opens the log of a run; it goes on where an earlier start stopped.

    `kept` is the result of `keep` from the checkpoint, if there is one; `weighted` says that the
    videos are of several sets, each with its own epochs.
    """
    main = jax.process_index() == 0
    self.config, self.workdir, self.main = config, workdir, main
    self.schedule, self.steps, self.start, self.videos = schedule, steps, start, videos
    self.writer = MetricWriter(workdir, enabled=main)
    self.writer.resume(start)
    part = '' if main else f'-{jax.process_index()}'
    self._bad_videos = BadVideos(f'{workdir}/bad_videos{part}.csv')
    self.every = config.log.every_steps or min(50, max(1, steps // LINES))
    shown = self.every * max(1, round(steps / LINES / self.every))
    self.progress = Progress(steps, start, log_every=shown, enabled=main)
    self.clip_flops = clip_flops
    self._pending = None  # (step, metrics on the device)
    # Sums over the good steps since the last log line, and their number, `good`.
    self._sums = collections.Counter(kept.get('sums', {}))
    self._counted_from, self._weighted = kept.get('counted_from', (0, 0)), weighted
    self._logged = set()  # Files whose write error has been logged.
    self._wait = 0.0  # Seconds that the loop has waited for data so far.
    # (step, time, waited) of the first step of this start and of the last log line.
    self._first = self._last = None
    self._began = time.perf_counter()

  def describe(self, state: TrainState, mesh: Mesh) -> None:
    """Prints and stores facts about the model, the data and the devices."""
    config = self.config
    overview = parameter_overview.get_parameter_overview(state.params, include_stats='sharding')
    if self.main:
      with self.logging_write_errors('parameters.txt'):
        storage.write_text(f'{self.workdir}/parameters.txt', overview + '\n')
    count = sum(x.size for x in jax.tree.leaves(state.params))
    axes = ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())
    device = jax.devices()[0]
    self.progress.print(
      f'{config.method}, size {config.model.size}: {count:,} parameters (listed in '
      f'{self.workdir}/parameters.txt), {self.clip_flops / 1e9:,.2f} GFLOP a clip\n'
      f'{self.videos:,} videos, {self.steps:,} steps of {config.batch_size} clips, mesh {axes} of '
      f'{device.device_kind}'
    )
    if device.platform != 'cpu' and chips.peak_flops(device.device_kind) is None:
      self.progress.print(
        f'no MFU is shown: the peak of {device.device_kind} is not in vmae_jax/chips.py'
      )
    if self.start:
      self.progress.print(f'going on from the checkpoint of step {self.start}')
    self.progress.print('compiling ...')
    self._began = time.perf_counter()

  def dispatched(self, step: int, metrics: dict[str, Any], loader: Loader) -> None:
    """Takes the metrics of a step that was just started and reads those of the one before."""
    with self.logging_write_errors('bad_videos.csv'):
      self._bad_videos.record(loader.failures, step)
    self.fetch()
    self._pending = step, metrics
    self._wait = loader.wait_seconds

  def fetch(self) -> None:
    """Reads the metrics of the step that was started last; waits until it ends."""
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    self._check(step, metrics)
    if not metrics['skipped_in_a_row']:
      self._sums.update({k: v for k, v in metrics.items() if k not in COUNTERS} | {'good': 1})
    mark = step, time.perf_counter(), self._wait
    if self._first is None:  # Speed is measured from the end of the first step, which compiles.
      self._first = self._last = mark
      loss, seconds = metrics['loss'], mark[1] - self._began
      self.progress.print(f'step {step} ended after {seconds:.0f} s, loss {loss:.4f}')
    shown = {}
    if step % self.every == 0 or step == self.steps:
      shown = self._write(metrics, mark)
    self.progress.update(step, shown)

  def _check(self, step: int, metrics: dict[str, float]) -> None:
    limit = self.config.optimizer.max_skipped
    if metrics['skipped_in_a_row'] >= limit:
      raise UserError(
        f'loss or gradient was not finite in {limit} steps in a row, up to step {step}; they '
        'changed nothing. Lower optimizer.base_lr or set optimizer.clip_norm, in a new --workdir.'
      )
    (first, before), data = self._counted_from, self.config.data
    visits = (step - first) * self.config.batch_size / data.repeats
    bad, limit = (metrics['bad_clips'] - before) / data.repeats, data.max_bad_share
    # Counted from within an epoch, or with weights, some videos are visited twice before others:
    # then no whole epoch counts.
    epoch = int(visits) + 1 if first or self._weighted else self.videos
    if too_many(bad, visits, videos=epoch, share=limit):
      raise UserError(
        f'{bad / visits:.1%} of the videos until step {step} had to be replaced, more than '
        f'data.max_bad_share ({limit:.1%}): they are in {self.workdir}/bad_videos.csv. Raise '
        'that share, or let python -m vmae_jax.check_data make a clean list and set '
        'data.changed=True to go on with it.'
      )

  def _write(self, metrics: dict[str, float], mark: tuple[int, float, float]) -> dict[str, float]:
    step = mark[0]
    good = self._sums.pop('good', 0)
    shown = {k: self._sums[k] / good if good else math.nan for k in metrics if k not in COUNTERS}
    shown |= {name: metrics[name] for name in COUNTERS}
    # The optimizer's own count, which skipped steps do not increase.
    count = step - 1 - metrics['skipped'] + bool(metrics['skipped_in_a_row'])
    shown['learning_rate'] = float(self.schedule(count))
    shown['epoch'] = step * self.config.batch_size / self.videos
    shown |= self._speed(self._last, mark)
    self._sums.clear()
    self._last = mark
    self.writer.write_scalars(step, shown)
    return shown

  def _speed(self, before, now) -> dict[str, float]:
    steps, seconds, waited = (b - a for a, b in zip(before, now, strict=True))
    if not steps:
      return {}
    clips = steps * self.config.batch_size / seconds
    rate = clips * self.clip_flops
    speed = {'clips_per_second': clips, 'step_seconds': seconds / steps}
    speed |= {'data_wait': waited / seconds, 'teraflops_per_second': rate / 1e12}
    peak = chips.peak_flops(jax.devices()[0].device_kind)
    return speed | ({'mfu': rate / (peak * jax.device_count())} if peak else {})

  def keep(self) -> dict[str, Any]:
    """What a checkpoint must hold so that a resumed run logs the same as an unbroken one."""
    self.fetch()
    self.writer.flush()
    self._bad_videos.flush()
    return {'sums': dict(self._sums), 'counted_from': self._counted_from}

  @contextlib.contextmanager
  def logging_write_errors(self, what: str) -> Iterator[None]:
    """Logs once that the file `what` cannot be written, as on a full disk, and goes on."""
    try:
      yield
    except OSError as e:
      if what not in self._logged:
        logging.error('%s cannot be written: %s. The run goes on.', what, e)
      self._logged.add(what)

  def leave_out(self, seconds: float) -> None:
    """Excludes time that was spent on something else from the speed of training."""
    self._first, self._last = (
      mark and (mark[0], mark[1] + seconds, mark[2]) for mark in (self._first, self._last)
    )

  def finish(self, state: TrainState, results: dict[str, Any]) -> None:
    """Writes the loss curve and summary.json with `results`; call it after the last `fetch`."""
    if not self.main:
      return
    records, config = read_metrics(self.workdir), self.config
    summary = {
      'method': config.method,
      'steps': self.steps,
      'clips': self.steps * config.batch_size,
      'loss': next((r['loss'] for r in reversed(records) if 'loss' in r), None),
      'skipped_steps': int(state.skipped),
      'bad_clips': int(state.replaced),
      'unavailable_videos': count_unavailable(self.workdir),
      'checkpoint': f'checkpoints/{self.steps}',
    } | results
    if self._first is not None:
      # The speed of this start alone: earlier ones may have run on another machine.
      summary |= {'from_step': self.start, **self._speed(self._first, self._last)}
    write_summary(self.workdir, summary)
    with self.logging_write_errors('loss.png'):
      heads = {key: None for record in records for key in record if key.startswith('loss_')}
      keys = ('loss', *(heads if len(heads) > 1 else ()))
      title = f'{summary["method"]}: loss over {self.steps:,} steps of {config.batch_size} clips'
      loss_curve(records, picture := io.BytesIO(), keys=keys, title=title)
      storage.write(f'{self.workdir}/loss.png', picture.getvalue())
    self.progress.print(f'done: {self.workdir}/summary.json, {self.workdir}/loss.png')

  def close(self) -> None:
    self.progress.close()
    self.writer.close()
    self._bad_videos.flush()
