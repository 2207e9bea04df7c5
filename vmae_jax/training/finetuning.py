"""Fine-tuning as a task of the training loop, with its validation and its test."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from vmae_jax import config as config_lib
from vmae_jax import config_finetuning, sharding, storage
from vmae_jax.data.augment import RandAugment
from vmae_jax.data.clips import ClipSampler, ViewSampler
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.evaluation.multiview import classify, score
from vmae_jax.evaluation.results import SHARES, write_results
from vmae_jax.method.mixing import pair
from vmae_jax.method.supervised import Supervised, build_supervised
from vmae_jax.runs.claim import claimed
from vmae_jax.runs.run_dir import CLASSES_FILE, go_on_as_before, prepare_run_dir, write_summary
from vmae_jax.runs.run_log import RunLog
from vmae_jax.training import initialise, loop
from vmae_jax.training.classes import Classes, count_classes, describe_classes
from vmae_jax.training.optimizer import make_optimizer, scale_by_layer


def finetune(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Fine-tunes and tests; continues where an earlier start in the folder `workdir` stopped.

  Raises:
    UserError: the config, the data, the folder or the model to start from is wrong, too many
      videos are broken, or the loss is not finite too many times in a row.
    Preempted: the process was asked to stop (SIGTERM or Ctrl-C) and has saved its state.
  """
  mesh = sharding.make_mesh(**config.mesh)
  config_finetuning.check(config, devices=mesh.shape['data'] * mesh.shape['fsdp'])
  go_on_as_before(workdir, config, config_lib.EARLIER)
  data = config.data
  if not data.val:
    raise UserError('no held-out videos are named: give --config.data.val=LIST.')
  specs = dict.fromkeys((data.train, data.val, data.test or data.val))  # Opens each once.
  sources = {spec: loop.open_videos(config, spec) for spec in specs}
  classes = count_classes(sources, train=data.train, classes=data.classes)
  if jax.process_index() == 0:
    print(describe_classes(sources[data.train], classes), flush=True)
  supervised = build_supervised(config, classes=classes.count)
  source, test_alone = sources[data.train], config.epochs == 0 and config.steps == 0
  steps = 0 if test_alone else loop.count_steps(config, videos=len(source))
  evaluation = Evaluation(config, workdir, supervised, sources, classes, mesh, steps)
  start = _find_start(config, workdir, supervised, mesh)
  if test_alone:
    return evaluation.test_only(start)
  task = loop.Task(
    method=supervised,
    make_step=make_step,
    source=source,
    sampler=clip_sampler(config),
    implied=config_finetuning.implied(),
    pretrained=start,
    watch=evaluation.write_class_names,
    evaluate=evaluation,
  )
  loop.run(config, workdir, mesh, task)


def make_step(
  config, supervised: Supervised, schedule: optax.Schedule, *, steps: int
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
  """The optimizer of a config, and the training step of a run of `steps` steps."""
  optimizer = optax.chain(
    make_optimizer(config.optimizer, schedule),
    scale_by_layer(decay=config.optimizer.layer_decay, depth=supervised.model.encoder['depth']),
  )
  train_step = loop.make_step(config, supervised.loss, optimizer, steps=steps)

  def step(state, batch, frozen):
    return train_step(state, pair(batch) if supervised.mix is not None else batch, frozen)

  return optimizer, step


def clip_sampler(config) -> ClipSampler:
  """The sampler of training clips."""
  data, augment = config.data, config.data.randaugment
  look = RandAugment(**augment) if augment.operations else None
  crop = dict(area=tuple(data.crop_area), resampling=data.resampling)
  return loop.make_sampler(config, augment=look, **crop)


def _find_start(
  config, workdir: str, supervised: Supervised, mesh: Mesh
) -> Callable[[Any], Any] | None:
  """Compares the model that `init_from` names with the classifier.

  Returns:
    (shapes with shardings) -> parameters; None if a run goes on or starts from scratch.
  """
  options = {name: supervised.model.encoder[name] for name in ('heads', 'position_grid')}
  options['head'] = config.init_head
  found = initialise.start_from(config, workdir, supervised.init, mesh, **options)
  if found is None:
    return None
  plan, start = found
  if config.epochs == 0 and config.steps == 0 and plan.new:
    raise UserError(
      f'init_from: {config.init_from} has no {", ".join(plan.new)}, and with epochs=0 and steps=0 '
      'nothing would be trained before the test: set epochs, or give a fine-tuned model.'
    )
  return start


class Evaluation:
  """Validation during training and the test at its end; a restart repeats neither.

  The weights tested are the moving average, if there is one, else the last ones: to choose the
  best checkpoint by the videos that it is then tested on would bias the result.
  """

  def __init__(
    self,
    config,
    workdir: str,
    supervised: Supervised,
    sources: dict[str, Source],
    classes: Classes,
    mesh: Mesh,
    steps: int,
  ):
    self._config, self._workdir, self._classes = config, workdir, classes
    self._supervised, self._sources, self._mesh = supervised, sources, mesh
    self._probabilities = jax.jit(supervised.probabilities)
    self._names_to_write = classes.names
    epochs, videos = config.test.every_epochs, len(sources[config.data.train])
    self._steps = steps
    self._every = epochs and max(1, round(epochs * videos / config.batch_size))

  def write_class_names(self, *_: Any) -> None:
    """Writes the names of the classes once in each start, see `Task.watch`."""
    if self._names_to_write and jax.process_index() == 0:
      text = ''.join(f'{name}\n' for name in self._names_to_write)
      storage.write_text(f'{self._workdir}/{CLASSES_FILE}', text)
    self._names_to_write = ()

  def __call__(self, step: int, state, log: RunLog, stopping) -> dict[str, Any] | None:
    """Validates or tests if that is due after a step; None if it was stopped before the end."""
    average = state.ema is not None
    params = state.ema if average else state.params
    weights = f'step {step:,}{" (moving average)" if average else ""}'
    scalars, test = {}, self._config.test
    if self._every and step and step % self._every == 0:
      log.fetch()
      result = self._classify(params, step, self._config.data.val, 1, 1, stopping)
      if result is None:
        return None
      scalars = {f'val_{name}': value for name, value in result[1].items()}
      log.writer.write_scalars(step, scalars)
      log.progress.print(f'step {step}: {_line("validation", result[1])}')
    if step < self._steps:
      return scalars
    log.fetch()
    result = self._test(params, step, weights, stopping)
    if result is None:
      return None
    tested = {f'test_{name}': value for name, value in result.items()}
    log.writer.write_scalars(step, tested)
    log.progress.print(_line(f'test of {test.segments} x {test.crops} views', result))
    return scalars | tested

  def test_only(self, start: Callable[[Any], Any] | None) -> None:
    """Tests the model that `init_from` names, without training."""
    if start is None:
      raise UserError('epochs=0 and steps=0 is a test alone: give --config.init_from, too.')
    config = self._config
    implied = config_finetuning.implied()
    with claimed(self._workdir), jax.set_mesh(self._mesh):
      prepare_run_dir(self._workdir, config, ignore=config_lib.RUN_KEYS, implied=implied)
      shapes = jax.eval_shape(self._supervised.init, jax.random.key(0))
      like = loop.placed(shapes, sharding.tree_shardings(shapes, self._mesh))
      result = self._test(start(like), 0, config.init_from, lambda: False)
      if jax.process_index() == 0:
        about = {'method': config.method, 'init_from': config.init_from}
        write_summary(self._workdir, about | result)
        print(_line('test', result))

  def _test(self, params, step: int, weights: str, stopping) -> dict[str, int | float] | None:
    """The test at the end: writes its files and returns its scores; None if it was stopped."""
    config = self._config
    data, test = config.data, config.test
    spec = data.test or data.val
    found = self._classify(params, step, spec, test.segments, test.crops, stopping)
    if found is None:
      return None
    records, result = found
    if jax.process_index() == 0:
      facts = {
        'model': f'{config.method}, size {config.model.size}, {weights}',
        'started from': config.init_from or 'scratch',
        'tested on': spec,
        'clips': f'{data.frames} frames of {data.size} x {data.size}, {data.sampling} sampling'
        + (f', stride {data.stride}' if data.sampling != 'segment' else '')
        + f', {data.resampling} resampling',
        'views': f'{test.segments} in time x {test.crops} in space, mean of softmax',
      }
      classes = dict(classes=self._classes.count, names=self._classes.names)
      write_results(self._workdir, records, self._sources[spec], **classes, facts=facts)
    return result

  def _classify(self, params, step: int, spec: str, segments: int, crops: int, stopping):
    """Records and scores of one validation or test; None if it was stopped before the end."""
    data, views = self._config.data, dict(segments=segments, crops=crops, repeats=segments * crops)
    clip = {name: data[name] for name in 'frames size stride sampling resampling'.split()}
    records = classify(
      functools.partial(self._probabilities, params),
      self._sources[spec],
      ViewSampler(**clip, **views),
      f'{self._workdir}/evaluation/step{step:07d}_{segments}x{crops}.jsonl',
      about={'step': step, 'data': spec},
      batch_size=self._config.test.batch_size,
      mesh=self._mesh,
      threads=data.threads,
      stopping=stopping,
    )
    return None if records is None else (records, score(records, classes=self._classes.count))


def _line(what: str, result: dict[str, int | float]) -> str:
  shares = ', '.join(f'{text} {result[key]:.1%}' for key, text in SHARES.items() if key in result)
  broken = f', {result["unreadable"]} of which could not be read' if result['unreadable'] else ''
  return f'{what}: {shares}; {result["videos"]:,} videos{broken}'
