"""The pre-training loop: data in, steps, checkpoints, logs, pictures."""

import os

import jax

from vmae_jax import config as config_lib
from vmae_jax import sharding
from vmae_jax.cli import Preempted
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.errors import UserError
from vmae_jax.training import optimizer as optimizer_lib
from vmae_jax.training.checkpoint import Checkpointer, check_params, load_params
from vmae_jax.training.compose import build_objective
from vmae_jax.training.objective import Objective
from vmae_jax.training.run_dir import prepare_run_dir
from vmae_jax.training.run_log import RunLog
from vmae_jax.training.step import TrainState, init_state, make_train_step
from vmae_jax.training.stop import Stop
from vmae_jax.visualize.predictions import Pictures


def train(config, workdir: str) -> TrainState:
  """Pre-trains as the config says; goes on where an earlier start in `workdir` stopped.

  Args:
    config: As made by a file in configs/.
    workdir: Folder of the run.

  Returns:
    The last state.

  Raises:
    UserError: the config, the data or the folder is wrong, too many videos are broken, or
      the loss is no number too many times in a row.
    Preempted: the process was asked to stop (SIGTERM or Ctrl-C) and has saved its state.
  """
  mesh = sharding.make_mesh(**config.mesh)
  config_lib.check(config, devices=mesh.shape['data'] * mesh.shape['fsdp'])
  objective = build_objective(config)
  data = config.data
  source = open_source(data.train, root=data.root)
  check_paths(source, max_bad_share=data.max_bad_share)
  steps = config.steps or round(config.epochs * len(source) / config.batch_size)
  if steps < 1:
    raise UserError(
      f'epochs {config.epochs} of {len(source)} videos are less than one step of '
      f'{config.batch_size} clips: raise epochs or set steps.'
    )
  if config.init_from:  # Before the folder is claimed for this config.
    check_params(config.init_from, jax.eval_shape(objective.init, jax.random.key(0)))
  prepare_run_dir(workdir, config, ignore=config_lib.RUN_KEYS)

  optimizer, schedule = _optimizer(config, steps=steps, videos=len(source))
  with jax.set_mesh(mesh), Stop() as stop:
    checkpointer = Checkpointer(
      workdir,
      keep=config.checkpoint.keep,
      keep_every_steps=config.checkpoint.keep_every_steps,
      config=config.to_dict(),
    )
    state = start_state(config, objective, optimizer, mesh, checkpointer)
    step_fn = jax.jit(
      make_train_step(
        objective.loss,
        optimizer,
        accumulate=config.optimizer.accumulate,
        ema=config.optimizer.ema,
      ),
      donate_argnums=0,
    )
    # Frozen networks are whole on every device: they are small beside what is trained.
    frozen = jax.device_put(objective.frozen, sharding.replicated(mesh))
    sampler = clip_sampler(config)
    start = int(state.step)
    loader = Loader(
      source,
      sampler,
      batch_size=config.batch_size,
      seed=config.seed,
      shuffle=True,
      mesh=mesh,
      start_step=start,
      num_steps=steps,
      threads=data.threads or os.cpu_count(),
      workers=data.workers,
    )
    log = RunLog(
      config, workdir, objective, schedule=schedule, steps=steps, start=start, videos=len(source)
    )
    log.describe(state, mesh)
    try:
      pictures = Pictures(objective, source, sampler, config, workdir, mesh)
      for step, batch in enumerate(loader, start=start + 1):
        state, metrics = step_fn(state, batch, frozen)
        log.dispatched(step, metrics, loader)
        if step % config.log.pictures_every_steps == 0 or step == steps:
          log.writer.write_images(step, pictures.draw(step, state.params, frozen))
        stopping = stop.asked(step)
        if stopping or step % config.checkpoint.every_steps == 0 or step == steps:
          checkpointer.save(step, state)
        if stopping and step < steps:
          log.fetch()
          if not checkpointer.wait():
            raise UserError(f'asked to stop at step {step}, but its checkpoint was not saved.')
          raise Preempted(
            f'step {step} of {steps} is saved in {workdir}; start the same command to go on.'
          )
      log.fetch()
      checkpointer.wait()
      log.finish(state)
    finally:
      loader.close()
      log.close()
      checkpointer.close()
  return state


def clip_sampler(config) -> ClipSampler:
  """How clips are cut from videos, as the config's block `data` says."""
  data = config.data
  return ClipSampler(
    frames=data.frames,
    size=data.size,
    stride=data.stride,
    sampling=data.sampling,
    crop=data.crop,
    flip=data.flip,
    repeats=data.repeats,
    seed=config.seed,
  )


def start_state(config, objective: Objective, optimizer, mesh, checkpointer) -> TrainState:
  """The state of the newest checkpoint, else a fresh one, laid out over the mesh."""

  def init(params):
    return init_state(params, optimizer, ema=config.optimizer.ema)

  key = jax.random.key(config.seed)
  params = jax.eval_shape(objective.init, key)
  state = jax.eval_shape(init, params)
  shardings = sharding.tree_shardings(state, mesh)

  def placed(tree, places):
    return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places
    )

  restored = checkpointer.restore(placed(state, shardings))
  if restored is not None:
    return restored[1]
  if config.init_from:
    params = load_params(config.init_from, placed(params, shardings.params))
    return jax.jit(init, out_shardings=shardings)(params)
  return jax.jit(lambda key: init(objective.init(key)), out_shardings=shardings)(key)


def _optimizer(config, *, steps: int, videos: int):
  c = config.optimizer
  scale = config.batch_size / 256
  schedule = optimizer_lib.warmup_cosine(
    peak=c.base_lr * scale,
    end=c.base_min_lr * scale,
    warmup_steps=min(round(c.warmup_epochs * videos / config.batch_size), steps),
    steps=steps,
  )
  optimizer = optimizer_lib.make_optimizer(
    schedule=schedule,
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
    clip_norm=c.clip_norm,
  )
  return optimizer, schedule
