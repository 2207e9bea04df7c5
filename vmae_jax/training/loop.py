"""The training loop of pre-training and fine-tuning: data, steps, checkpoints, logs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from vmae_jax import config as config_lib
from vmae_jax import peers, sharding
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import DataSet, check_paths, open_source
from vmae_jax.errors import Preempted, UserError
from vmae_jax.method.forward import Method
from vmae_jax.method.state import TrainState, init_state
from vmae_jax.method.supervised import Supervised
from vmae_jax.runs.agreement import check_agreement, check_same_data, describe_data
from vmae_jax.runs.checkpointer import Checkpointer, Restored
from vmae_jax.runs.claim import claimed
from vmae_jax.runs.profiling import StepProfile
from vmae_jax.runs.run_dir import prepare_run_dir
from vmae_jax.runs.run_log import RunLog
from vmae_jax.runs.stop import Stop
from vmae_jax.training.optimizer import warmup_cosine
from vmae_jax.training.step import LossFn, jit_step, make_train_step
from vmae_jax.training.teachers import same_networks


class Task(NamedTuple):
  """What the loop trains."""

  method: Method | Supervised  # Has `init`, `frozen` and `flops`.
  # (config, method, schedule, *, steps) -> the optimizer, and the step (state, batch, frozen) ->
  # (state, metrics), not jitted.
  make_step: Callable[..., tuple[optax.GradientTransformation, Callable[..., Any]]]
  source: DataSet  # The training videos.
  sampler: ClipSampler  # Cuts clips from them.
  implied: ml_collections.ConfigDict  # Values of keys that the config of an older run lacks.
  # (shapes of the parameters with shardings) -> parameters to start from; None: fresh ones.
  pretrained: Callable[[Any], Any] | None = None
  # (step, state, frozen, log) -> None, called after every step before the state is saved.
  watch: Callable[..., None] = lambda *_: None
  # (step, state, log, stopping) -> numbers for the summary, or None if `stopping()` became true
  # before it had finished; called after every step, after the state is saved, and for the same step
  # again at the next start.
  evaluate: Callable[..., dict[str, Any] | None] = lambda *_: {}


def run(config, workdir: str, mesh: Mesh, task: Task) -> TrainState:
  """Trains; continues where an earlier start in the folder `workdir` stopped.

  Returns:
    The last state.

  Raises:
    UserError: the folder is wrong or in use by another run, the data or frozen networks are not
      those of the checkpoint, the data are too few for its step, too many videos are broken, or the
      loss is not finite too many times in a row.
    Unavailable: the last checkpoint, or three in a row, cannot be saved.
    Preempted: the process was asked to stop (SIGTERM or Ctrl-C) and has saved its state.
  """
  check_agreement(config, task.source)
  data = describe_data(task.source)
  steps = count_steps(config, videos=len(task.source))
  schedule = make_schedule(config, steps=steps, videos=len(task.source))
  optimizer, step_function = task.make_step(config, task.method, schedule, steps=steps)
  with claimed(workdir), jax.set_mesh(mesh), Stop() as stop:
    ignore = config_lib.RUN_KEYS + ('data.train',) * config.data.changed
    prepare_run_dir(workdir, config, ignore=ignore, implied=task.implied)
    keeping = {name: config.checkpoint[name] for name in ('keep', 'keep_every_steps')}
    checkpointer = Checkpointer(workdir, config=config.to_dict(), **keeping)
    start, state, extra = start_state(config, task, optimizer, mesh, checkpointer)
    if start > steps:
      raise UserError(
        f'the checkpoint in {workdir} is of step {start}, but {config.epochs} epochs of these '
        f'{len(task.source)} videos end with step {steps}: give more videos, or begin another run '
        f'from its weights with --config.init_from={workdir}.'
      )
    networks = same_networks(task.method.frozen, extra.get('networks', {}))
    kept = extra.get('log', {})
    if check_same_data(extra.get('data', {}), data, changed=config.data.changed):
      # Broken videos are counted from here on.
      kept = kept | {'counted_from': (start, int(state.replaced))}
    step_fn = jit_step(step_function, state, mesh)
    # Frozen networks are whole on every device: they are small compared with the train state.
    frozen = jax.device_put(task.method.frozen, sharding.replicated(mesh))
    loader = make_loader(config, task.source, task.sampler, mesh, start_step=start, num_steps=steps)
    about = dict(steps=steps, start=start, videos=len(task.source), schedule=schedule)
    about['weighted'] = bool(getattr(task.source, 'weights', ()))
    log = RunLog(config, workdir, clip_flops=task.method.flops(), kept=kept, **about)

    def extra_of_now() -> dict[str, Any]:
      return {'data': data, 'networks': networks, 'log': log.keep()}

    def watch(step: int) -> None:
      with log.logging_write_errors('pictures'):
        task.watch(step, state, frozen, log)

    def evaluate(step: int, stopping: bool) -> dict[str, Any]:
      """The result of `task.evaluate`; raises Preempted if an unfinished run is to stop."""
      began = time.perf_counter()
      results = task.evaluate(step, state, log, lambda: stopping or stop.noted())
      log.leave_out(time.perf_counter() - began)
      if results is None or (stopping and step < steps):
        checkpointer.save_last(step, state, extra_of_now())
        raise Preempted(
          f'step {step} of {steps} is saved in {workdir}; start the same command to go on.'
        )
      return results

    profile = StepProfile(workdir, config.log.profile)
    log.describe(state, mesh)
    try:
      results = evaluate(start, False)
      if not start:
        watch(0)
      for step, batch in enumerate(loader, start=start + 1):
        with profile.step(step):
          state, metrics = step_fn(state, batch, frozen)
        log.dispatched(step, metrics, loader)
        profile.after(step, metrics)
        watch(step)
        stopping = stop.asked(step)
        if stopping or step % config.checkpoint.every_steps == 0 or step == steps:
          checkpointer.save(step, state, extra_of_now())
        results = evaluate(step, stopping) or results
      checkpointer.save_last(steps, state, extra_of_now())
      log.finish(state, results)
    except Exception as e:
      peers.check(e)  # Before the cleaning up, which would wait for the other processes.
      raise
    finally:
      loader.close()
      log.close()
      checkpointer.close()
      profile.close()
  return state


def open_videos(config, spec: str) -> DataSet:
  """Opens the videos that `spec` names, with the options of the config's block `data`.

  Errors are those of `open_source` and `check_paths`.
  """
  data = config.data
  source = open_source(spec, root=data.root, seconds=data.seconds)
  check_paths(source, data.max_bad_share, seconds=data.seconds)
  return source


def make_sampler(config, **options: Any) -> ClipSampler:
  """The sampler of training clips, with `options` besides those of the config's block `data`."""
  names = 'frames size stride sampling released_end crop flip repeats'.split()
  return ClipSampler(**{name: config.data[name] for name in names}, seed=config.seed, **options)


def make_loader(config, source: DataSet, sampler: ClipSampler, mesh: Mesh, **options) -> Loader:
  """The loader of training clips; `options` are `start_step` and `num_steps`."""
  options |= {name: config.data[name] for name in 'order threads workers seconds'.split()}
  options |= dict(batch_size=config.batch_size, seed=config.seed, shuffle=True)
  return Loader(source, sampler, mesh=mesh, **options)


def count_steps(config, *, videos: int) -> int:
  """Steps of the whole run; a UserError if that is less than one."""
  steps = config.steps or round(config.epochs * videos / config.batch_size)
  if steps < 1:
    raise UserError(
      f'epochs {config.epochs} of {videos} videos are less than one step of '
      f'{config.batch_size} clips: raise epochs or set steps.'
    )
  return steps


def placed(shapes: Any, places: Any) -> Any:
  """A tree of shapes with shardings."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
  )


def start_state(config, task: Task, optimizer, mesh: Mesh, checkpointer: Checkpointer) -> Restored:
  """The newest checkpoint, or step 0 with a new state, on the devices of the mesh."""

  def init(params):
    return init_state(params, optimizer, ema=config.optimizer.ema)

  key = jax.random.key(config.seed)
  params = jax.eval_shape(task.method.init, key)
  state = jax.eval_shape(init, params)
  shardings = sharding.tree_shardings(state, mesh)

  restored = checkpointer.restore(placed(state, shardings))
  if restored is not None:
    return restored
  if task.pretrained is not None:
    params = task.pretrained(placed(params, shardings.params))
    return Restored(0, jax.jit(init, out_shardings=shardings)(params), {})
  fresh = jax.jit(lambda key: init(task.method.init(key)), out_shardings=shardings)
  return Restored(0, fresh(key), {})


def make_schedule(config, *, steps: int, videos: int) -> optax.Schedule:
  """Linear warm-up, then half a cosine; learning rates in the config are for 256 clips."""
  c = config.optimizer
  scale = config.batch_size / 256
  rates = dict(peak=c.base_lr * scale, end=c.base_min_lr * scale)
  warmup = min(round(c.warmup_epochs * videos / config.batch_size), steps)
  return warmup_cosine(**rates, warmup_steps=warmup, steps=steps)


def make_step(config, loss: LossFn, optimizer: optax.GradientTransformation, *, steps: int):
  """The result of `make_train_step` with the config's options, in a run of `steps` steps."""
  c = config.optimizer
  if c.ema_end and not c.ema:
    raise UserError(f'optimizer.ema_end is {c.ema_end}, but optimizer.ema, the first decay, is 0.')
  ema = optax.linear_schedule(c.ema, c.ema_end, steps) if c.ema and c.ema_end else c.ema
  return make_train_step(loss, optimizer, accumulate=c.accumulate, ema=ema)
