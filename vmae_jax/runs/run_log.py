"""What is told about a run: its size, metrics one step late, speed, and its end."""

import collections
import pathlib
import time
from typing import Any

import jax
from clu import parameter_overview
from jax.sharding import Mesh

from vmae_jax import chips
from vmae_jax.data.loader import Loader
from vmae_jax.errors import UserError
from vmae_jax.method.state import TrainState
from vmae_jax.runs.bad_videos import BadVideos
from vmae_jax.runs.metrics import MetricWriter, read_metrics
from vmae_jax.runs.progress import Progress
from vmae_jax.runs.run_dir import write_summary
from vmae_jax.visualize.curves import loss_curve

# Metrics that count since the start of the run; the others are averaged between log lines.
COUNTERS = ('skipped', 'skipped_in_a_row', 'bad_clips')
FEW_CLIPS = 200  # Before so many, the share of bad ones says little.


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
  ):
    main = jax.process_index() == 0
    self.config, self.workdir, self.main = config, pathlib.Path(workdir), main
    self.schedule, self.steps, self.start, self.videos = schedule, steps, start, videos
    self.writer = MetricWriter(workdir, enabled=main)
    self.writer.resume(start)
    part = '' if main else f'-{jax.process_index()}'
    self._bad_videos = BadVideos(self.workdir / f'bad_videos{part}.csv')
    self.progress = Progress(steps, start, log_every=config.log.every_steps, enabled=main)
    self.clip_flops = clip_flops
    self._pending = None  # (step, metrics on the device)
    self._sums = collections.Counter()
    self._wait = 0.0  # Seconds that the loop has waited for data, in all.
    self._first = self._last = None  # (step, time, waited) of the first and the last log line.
    self._shown = {}

  def describe(self, state: TrainState, mesh: Mesh) -> None:
    """Prints and stores what is about to be trained."""
    config = self.config
    overview = parameter_overview.get_parameter_overview(state.params, include_stats='sharding')
    if self.main:
      (self.workdir / 'parameters.txt').write_text(overview + '\n')
    count = sum(x.size for x in jax.tree.leaves(state.params))
    axes = ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())
    device = jax.devices()[0]
    self.progress.print(
      f'{config.method}, size {config.model.size}: {count:,} parameters (listed in '
      f'{self.workdir / "parameters.txt"}), {self.clip_flops / 1e9:,.2f} GFLOP a clip\n'
      f'{self.videos:,} videos, {self.steps:,} steps of {config.batch_size} clips, mesh {axes} of '
      f'{device.device_kind}'
    )
    if device.platform != 'cpu' and chips.peak_flops(device.device_kind) is None:
      self.progress.print(
        f'no MFU is shown: the peak of {device.device_kind} is not in vmae_jax/chips.py'
      )
    if self.start:
      self.progress.print(f'going on from the checkpoint of step {self.start}')

  def dispatched(self, step: int, metrics: dict[str, Any], loader: Loader) -> None:
    """Takes the metrics of a step that was just started and reads those of the one before."""
    self._bad_videos.record(loader.failures, step)
    self.fetch()
    self._pending = step, metrics
    self._wait = loader.wait_seconds

  def fetch(self) -> None:
    """Reads the metrics of the last step started, which waits for it to end."""
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    self._check(step, metrics)
    for name, value in metrics.items():
      self._sums[name] += value
    self._sums['steps'] += 1
    mark = step, time.perf_counter(), self._wait
    if self._first is None:  # The first step compiles: speed is measured from its end.
      self._first = self._last = mark
    shown = {}
    if step % self.config.log.every_steps == 0 or step == self.steps:
      shown = self._write(metrics, mark)
    self.progress.update(step, shown)

  def _check(self, step: int, metrics: dict[str, float]) -> None:
    limit = self.config.optimizer.max_skipped
    if metrics['skipped_in_a_row'] >= limit:
      raise UserError(
        f'loss or gradient was not finite in {limit} steps in a row, up to step {step}; they '
        'changed nothing. Lower optimizer.base_lr or set optimizer.clip_norm, in a new --workdir.'
      )
    clips, limit = step * self.config.batch_size, self.config.data.max_bad_share
    if clips >= FEW_CLIPS and metrics['bad_clips'] > limit * clips:
      raise UserError(
        f'{metrics["bad_clips"] / clips:.1%} of the clips until step {step} had to be replaced, '
        f'more than data.max_bad_share ({limit:.1%}): their videos are in '
        f'{self.workdir / "bad_videos.csv"}; python -m vmae_jax.check_data makes a clean list.'
      )

  def _write(self, metrics: dict[str, float], mark: tuple[int, float, float]) -> dict[str, float]:
    step = mark[0]
    count = self._sums.pop('steps')
    shown = {name: total / count for name, total in self._sums.items()}
    shown |= {name: metrics[name] for name in COUNTERS}
    shown['learning_rate'] = float(self.schedule(step - 1))
    shown['epoch'] = step * self.config.batch_size / self.videos
    shown |= self._speed(self._last, mark)
    self._sums.clear()
    self._last, self._shown = mark, shown
    self.writer.write_scalars(step, shown)
    return shown

  def _speed(self, before, now) -> dict[str, float]:
    steps, seconds, waited = (b - a for a, b in zip(before, now, strict=True))
    if not steps:
      return {}
    clips = steps * self.config.batch_size / seconds
    rate = clips * self.clip_flops
    speed = {
      'clips_per_second': clips,
      'step_seconds': seconds / steps,
      'data_wait': waited / seconds,
      'teraflops_per_second': rate / 1e12,
    }
    peak = chips.peak_flops(jax.devices()[0].device_kind)
    return speed | ({'mfu': rate / (peak * jax.device_count())} if peak else {})

  def leave_out(self, seconds: float) -> None:
    """Leaves time that was spent on something else out of the speed of training."""
    self._first, self._last = (
      mark and (mark[0], mark[1] + seconds, mark[2]) for mark in (self._first, self._last)
    )

  def finish(self, state: TrainState, results: dict[str, Any]) -> None:
    """Writes the loss curve and summary.json, with `results`; all steps have been fetched."""
    if not self.main:
      return
    summary = {
      'method': self.config.method,
      'steps': self.steps,
      'clips': self.steps * self.config.batch_size,
      'loss': self._shown.get('loss'),
      'skipped_steps': int(state.skipped),
      'bad_clips': int(state.replaced),
      'checkpoint': f'checkpoints/{self.steps}',
    } | results
    if self._first is not None:
      # Of this start alone: an earlier one may have run on another machine.
      summary |= {'from_step': self.start, **self._speed(self._first, self._last)}
    write_summary(self.workdir, summary)
    loss_curve({'': read_metrics(self.workdir)}, self.workdir / 'loss.png')
    self.progress.print(f'done: {self.workdir / "summary.json"}, {self.workdir / "loss.png"}')

  def close(self) -> None:
    self.progress.close()
    self.writer.close()
