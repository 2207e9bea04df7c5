"""Pre-training as a task of the training loop."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from absl import logging

from vmae_jax import config as config_lib
from vmae_jax import sharding
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.evaluation.probing import PeriodicProbe
from vmae_jax.frozen.teacher import AVERAGE
from vmae_jax.method.build import codec_cells, window
from vmae_jax.method.forward import Method
from vmae_jax.method.state import TrainState
from vmae_jax.patience import Patience, PatientSource, ask_all
from vmae_jax.runs.run_dir import go_on_as_before
from vmae_jax.training import loop
from vmae_jax.training.initialise import start_from
from vmae_jax.training.optimizer import make_optimizer
from vmae_jax.training.teachers import build_method, tell_teachers
from vmae_jax.visualize.images import evenly
from vmae_jax.visualize.predictions import Pictures

LOOKED_AT = 8  # Number of videos that are examined before a run.


def train(config, workdir: str) -> TrainState:
  """Pre-trains; continues where an earlier start in the folder `workdir` stopped.

  Returns:
    The last state.

  Raises:
    UserError: the config, the data or the folder is wrong, too many videos are broken, or
      the loss is not finite too many times in a row.
    Preempted: the process was asked to stop (SIGTERM or Ctrl-C) and has saved its state.
  """
  mesh = sharding.make_mesh(**config.mesh)
  config_lib.check(config, devices=mesh.shape['data'] * mesh.shape['fsdp'])
  go_on_as_before(workdir, config, config_lib.EARLIER)
  method = build_method(config)
  tell_teachers(config, method)
  source = loop.open_videos(config, config.data.train)
  warn_of_few_frames(source, config.data)
  if method.vectors:
    check_vectors(source, config.data)
  steps = loop.count_steps(config, videos=len(source))
  # Errors come before the folder is claimed for this config.
  found = start_from(config, workdir, method.init, mesh, heads=method.model.encoder['heads'])
  sampler = clip_sampler(config)
  answering = PatientSource(source, Patience(config.data.seconds))
  if config.log.held_out:
    held_out = loop.open_videos(config, config.log.held_out)
    answering = PatientSource(held_out, Patience(config.data.seconds))
  pictures = Pictures(method, answering, sampler, config, workdir, mesh)

  def watch(step, state, frozen, log):
    if step % config.log.pictures_every_steps and step != steps:
      return
    if state.ema is not None:
      frozen = frozen | {AVERAGE: state.ema}
    try:
      log.writer.write_images(step, pictures.draw(step, state.params, frozen))
    except Exception as e:  # Missing pictures shall not end a run.
      log.progress.print(f'step {step}: no pictures ({type(e).__name__}: {e})')

  task = loop.Task(
    method=method,
    make_step=make_step,
    source=source,
    sampler=sampler,
    implied=config_lib.implied(),
    pretrained=found and found[1],
    watch=watch,
  )
  if config.probe.every_epochs:
    probe = PeriodicProbe(config, mesh, steps=steps, videos=len(source))
    task = task._replace(evaluate=probe)
  return loop.run(config, workdir, mesh, task)


def make_step(
  config, method: Method, schedule: optax.Schedule, *, steps: int
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
  """The optimizer of a config, and the training step of a run of `steps` steps."""
  optimizer = make_optimizer(config.optimizer, schedule)
  return optimizer, loop.make_step(config, method.loss, optimizer, steps=steps)


def warn_of_few_frames(source: Source, data) -> None:
  """Warns of a set of one video and, after a look at a few, of videos shorter than a clip."""
  if len(source) == 1:
    logging.warning('there is only one video to learn from, %s.', source.name(0))
  if data.sampling == 'segment':
    return
  lengths = _of_a_few(source, data, lambda video: video.num_frames)
  span, looked = data.frames * data.stride, len(lengths)
  if (short := sum(n < span for n in lengths)) > looked / 2:
    logging.warning(
      '%d of %d videos that were looked at are shorter than the %d frames of a clip (data.frames x '
      'data.stride): they repeat their last frame. Is data.stride right?',
      *(short, looked, span),
    )


def check_vectors(source: Source, data) -> None:
  """Raises a UserError if none of a few videos has motion vectors."""

  def found(video) -> bool:
    video.read(np.linspace(0, video.num_frames - 1, 4).astype(int))
    blocks = getattr(video, 'vectors', {}).values()
    return any(np.isfinite(x.values).any() for x in blocks)

  answers = _of_a_few(source, data, found, vectors=True)
  if answers and not any(answers):
    raise UserError(
      f'motion.name is codec, but none of {len(answers)} videos that were looked at has motion '
      'vectors: H.264, MPEG-4 and related codecs have them, H.265, VP9, AV1, pictures and TFDS do '
      'not. Encode the videos again (python -m vmae_jax.prepare ... --shards), or set '
      'motion.name=inverse_search.'
    )


def _of_a_few(source: Source, data, ask: Callable[[Any], int], **options: Any) -> list[int]:
  """Answers about a few videos from all over the set; those that fail are left to the loader."""

  def answer(i: int) -> int | None:
    with contextlib.suppress(Exception), source.open(i, **options) as video:
      return ask(video)
    return None

  chosen = evenly(len(source), most=LOOKED_AT).tolist()
  return [x for x in ask_all(answer, chosen, seconds=data.seconds) if isinstance(x, int)]


def clip_sampler(config) -> ClipSampler:
  """The sampler of clips, with the frames around them that targets need."""
  around = dict(window=window(config), vectors=codec_cells(config))
  return loop.make_sampler(config, slot=config.model.patch[0], **around)
