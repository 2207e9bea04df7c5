"""Builds the `Method` that a config describes: looks up names and checks options."""

import functools
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name, check_options, lookup
from vmae_jax.frozen import teacher as teacher_lib
from vmae_jax.frozen.raft import load_raft
from vmae_jax.frozen.teacher import AVERAGE, Teacher
from vmae_jax.frozen.tokenizer import UNTRAINED, Tokenizer, load_tokenizer, untrained_tokenizer
from vmae_jax.masking import DECODER_MASKINGS, MASKINGS, Mask
from vmae_jax.method.augmentation import build_augmentation
from vmae_jax.method.forward import Head, Method
from vmae_jax.method.losses import LOSSES
from vmae_jax.method.wiring import aligned, build_model, encoder_arguments, pixel_statistics
from vmae_jax.models.decoder import ACTIVATIONS, Output
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.patches import token_grid
from vmae_jax.motion import follow as follow_lib
from vmae_jax.motion.flow import ESTIMATORS, Flow, estimate
from vmae_jax.motion.follow import RATES, Followed
from vmae_jax.targets import TARGETS
from vmae_jax.targets.hog import cell_of
from vmae_jax.targets.target import Target


def build_method(config, *, teachers: Mapping[str, Teacher] | None = None) -> Method:
  """The method that a config describes.

  Args:
    config: A config of pre-training.
    teachers: The config's teachers that have a path; see `training.teachers`.

  Raises:
    UserError: a name or option does not exist, sizes do not divide, or a target's tokenizer or
      teacher is missing.
  """
  data, patch = config.data, tuple(config.model.patch)
  grid = token_grid((data.frames, data.size, data.size), patch)
  tokenizer, (raft_size, raft) = _load_tokenizer(config), _load_raft(config)
  masking, decoder_masking = _maskings(config, grid)
  flow, follow = _motion(config, raft_size)
  teachers = _teachers(config, teachers or {})
  heads = {
    name: _head(name, head, config, tokenizer, teachers) for name, head in config.heads.items()
  }
  frozen = {'tokenizer': tokenizer and tokenizer.params, 'raft': raft}
  frozen |= {f'teacher {name}': x.params for name, x in teachers.items() if x.where != AVERAGE}
  frozen = {name: params for name, params in frozen.items() if params is not None}

  method = Method(
    # The model's outputs follow from the targets' shapes; until these are known there are none.
    model=types.SimpleNamespace(apply=lambda *_, **__: ({}, {})),
    augment=build_augmentation(config.augment),
    flow=flow,
    follow=follow,
    masking=masking,
    decoder_masking=decoder_masking,
    heads=heads,
    own_losses={'alignment': config.regressor.alignment_weight} if aligned(config) else {},
    tokenizer=tokenizer,
    teachers=teachers,
    frozen=frozen,
    window=window(config),
    vectors=codec_cells(config),
    shuffled=data.get('shuffled', False),  # Older runs have no such key.
    grid=grid,
    patch=patch,
    seed=config.seed,
  )

  def mask_and_targets(*batch_and_frozen):
    out = method.forward({}, *batch_and_frozen)
    return out.mask, out.targets

  given = method.example(), frozen | teacher_lib.averaged(teachers)
  mask, targets = jax.eval_shape(mask_and_targets, *given)
  visible, masked = mask.visible.size, mask.masked.size
  if not visible or not masked:
    raise UserError(
      f'masking {config.masking.name} with ratio {config.masking.ratio} leaves {visible} of '
      f'{"x".join(map(str, grid))} tokens visible and {masked} to predict: change masking.ratio or '
      'decoder_masking.ratio.'
    )
  outputs = _outputs(config, targets, tokenizer)
  return method._replace(model=build_model(config, heads=outputs))


def _outputs(config, targets: dict[str, Target], tokenizer: Tokenizer | None) -> dict[str, Output]:
  """The output layers of each head, from the shapes of targets."""
  outputs = {}
  for name, head in config.heads.items():
    width = targets[name].values.shape[-1]
    logits = head.loss == 'cross_entropy'
    if logits:  # A token has f codes, each with logits over all codes.
      width *= tokenizer.model.codes
    weights = targets[name].weights
    if head.loss == 'cosine' and weights is not None and weights.shape[-1] > 1:
      raise UserError(
        f'heads.{name}: the target {head.target} has a weight for each value, which the loss '
        'cosine cannot use: choose another loss.'
      )
    activation = head.get('activation', 'none')
    check_name(activation, ACTIVATIONS, f'heads.{name}.activation')
    outputs[name] = Output(head.decoder, width, head.get('hidden', 0), activation, logits)
  return outputs


def _head(
  name: str, head, config, tokenizer: Tokenizer | None, teachers: dict[str, Teacher]
) -> Head:
  function = lookup(TARGETS, head.target, f'heads.{name}.target')
  loss = lookup(LOSSES, head.loss, f'heads.{name}.loss')
  given = ('clip', 'flow', 'followed', 'patch', 'encode', 'factor')
  check_options(function, dict(head.options), f'heads.{name}.options', given)
  codes = _needs(head, 'tokenizer')
  if codes != (head.loss == 'cross_entropy'):
    raise UserError(
      f'heads.{name} has target {head.target} and loss {head.loss}: codes need the loss '
      'cross_entropy, and other targets cannot have it.'
    )
  other_clip, repeats = head.get('other_clip', False), config.data.repeats
  if other_clip and config.batch_size // config.optimizer.accumulate <= repeats:
    raise UserError(
      f'heads.{name}.other_clip: all clips that are computed together are from one video: '
      'choose a larger batch_size, or fewer data.repeats or optimizer.accumulate.'
    )
  asks_for_flow = hasattr(function, 'flow_pairs')
  function = functools.partial(function, patch=tuple(config.model.patch), **head.options)
  teacher = teachers[head.options.teacher] if _needs(head, 'teacher') else None

  def target(clip, flow, followed, frozen):
    given = {'flow': flow} if asks_for_flow else {}
    if codes:
      model, params = tokenizer.model, {'params': frozen['tokenizer']}
      given['encode'] = functools.partial(model.apply, params, method='encode')
      given['factor'] = model.factor
    if teacher:
      params = teacher_lib.params_of(head.options.teacher, teacher, frozen)
      given['teacher'] = functools.partial(teacher.tokens, params)
    found = function(clip, followed, **given)
    found = found if isinstance(found, Target) else Target(found)
    if other_clip:  # Rolls by all clips of one video, which are neighbours in the batch.
      found = jax.tree.map(lambda x: jnp.roll(x, repeats, axis=0), found)
    return found

  return Head(target, loss, head.weight, bool(teacher and teacher.where == AVERAGE))


def _maskings(
  config, grid: tuple[int, int, int]
) -> tuple[Callable[..., Mask], Callable[..., Mask] | None]:
  """`Method.masking` and `Method.decoder_masking`."""
  block, decoded = config.masking, config.decoder_masking
  masking = lookup(MASKINGS, block.name, 'masking.name')
  given = ('key', 'clip', 'flow', 'grid', 'ratio')
  check_options(masking, dict(block.options), 'masking.options', given)
  masking = jax.vmap(functools.partial(masking, grid=grid, ratio=block.ratio, **block.options))
  check_name(decoded.name, ('none', *DECODER_MASKINGS), 'decoder_masking.name')
  if decoded.name == 'none':
    return masking, None
  if config.regressor.name != 'none' and decoded.name == 'running_cell':
    raise UserError(
      'decoder_masking running_cell also decodes visible tokens, which a regressor must not get as '
      'targets: choose decoder_masking.name=random.'
    )
  decoder_masking = DECODER_MASKINGS[decoded.name]
  return masking, jax.vmap(functools.partial(decoder_masking, grid=grid, ratio=decoded.ratio))


def _motion(
  config, raft_size: str | None
) -> tuple[Callable[..., Flow | None], Callable[..., Followed | None]]:
  """`Method.flow`, for all pairs of frames that maskings and targets need, and `Method.follow`."""
  pairs, tracking = _flow_pairs(config), config.tracking
  options = dict(
    # Older runs have no such key.
    pitch=cell_of(tuple(config.model.patch), tracking.get('points', 2)) if _tracked(config) else 0,
    smooth=tracking.median,
    camera=tracking.camera,
    integer=tracking.integer,
  )

  def estimator(frozen, moved):
    function = functools.partial(ESTIMATORS[config.motion.name], **config.motion.options)
    if raft_size is not None:
      return functools.partial(function, frozen['raft'], size=raft_size)
    return functools.partial(function, **moved) if moved else function

  def flow(images, frozen):
    if not pairs:
      return None
    clip, T = images['video'], config.data.frames
    moved = {name: images[name][:, :T] for name in ('vectors', 'times') if name in images}
    return estimate(clip, pairs=pairs, estimator=estimator(frozen, moved))

  def follow(images, flow, frozen):
    if not _tracked(config):
      return None
    clip, T = images['video'], config.data.frames
    if (window := images.get('window')) is not None:
      rows = len(window) * window.shape[1], window.shape[2]  # Each slot is a row of its own.
      moved = {name: images[name][:, T:] for name in ('vectors', 'times') if name in images}
      moved = {name: x.reshape(*rows, *x.shape[2:]) for name, x in moved.items()}
      return follow_lib.follow_window(window, estimator=estimator(frozen, moved), **options)
    slot = config.model.patch[0]
    if tracking.rate == 'slot':
      return follow_lib.follow_slots(clip, flow, slot=slot, **options)
    return follow_lib.follow_clip(clip, flow, slot=slot, steps=tracking.steps, **options)

  return flow, follow


def window(config) -> int:
  """How many neighbouring video frames the loader must add to each time slot, or 0."""
  tracking = config.tracking
  check_name(tracking.rate, RATES, 'tracking.rate')
  return tracking.steps + 1 if _tracked(config) and tracking.rate == 'video' else 0


def codec_cells(config) -> int:
  """Cells of the codec's motion along each side of a clip that the loader must add, or 0.

  Each token has at least two along each of its sides.
  """
  if config.motion.name != 'codec' or not (_flow_pairs(config) or window(config)):
    return 0
  _, h, w = token_grid((config.data.frames, *(config.data.size,) * 2), tuple(config.model.patch))
  return 2 * math.lcm(h, w)


def _needs(head, name: str) -> bool:
  """Whether a head's target needs `name`: `points`, the `tokenizer` or a `teacher`."""
  return name in getattr(TARGETS.get(head.target), 'needs', ())


def _tracked(config) -> bool:
  return any(_needs(head, 'points') for head in config.heads.values())


def _flow_pairs(config) -> list[tuple[int, int]]:
  """All pairs of the clip's frames whose flow maskings or targets need."""
  frames, pairs = config.data.frames, set()
  if _tracked(config) and not window(config):
    gap = config.model.patch[0] if config.tracking.rate == 'slot' else 1
    pairs |= set(follow_lib.clip_pairs(frames, gap=gap))
  masking = config.masking
  asking = {('masking.name', masking.name): (MASKINGS.get(masking.name), masking.options)}
  for name, head in config.heads.items():
    asking[f'heads.{name}.target', head.target] = TARGETS.get(head.target), head.options
  for (key, name), (function, options) in asking.items():
    if pairs_of := getattr(function, 'flow_pairs', None):
      asked = pairs_of(frames, **options)
      if not asked:
        raise UserError(
          f'{name} follows motion from frame to frame, but data.frames is {frames}: choose more '
          f'frames, or another {key}.'
        )
      pairs |= set(asked)
  return sorted(pairs)


def _load_tokenizer(config) -> Tokenizer | None:
  """The frozen tokenizer, if a target needs it."""
  if not any(_needs(head, 'tokenizer') for head in config.heads.values()):
    return None
  path = config.tokenizer.path
  return untrained_tokenizer() if path == UNTRAINED else load_tokenizer(path)


def asked_teachers(config) -> list[str]:
  """The names of the teachers that heads ask for.

  Raises:
    UserError: a head names none, or one that the config does not have.
  """
  asking = {name: head for name, head in config.heads.items() if _needs(head, 'teacher')}
  for name, head in asking.items():
    check_name(head.options.get('teacher', ''), config.teachers, f'heads.{name}.options.teacher')
  return sorted({head.options.teacher for head in asking.values()})


def _teachers(config, found: Mapping[str, Teacher]) -> dict[str, Teacher]:
  """The teachers that heads ask for: those in `found`, and those that need no file."""
  data, teachers = config.data, {}
  for name in asked_teachers(config):
    path = config.teachers[name].path
    if path not in (AVERAGE, UNTRAINED):
      if name not in found:
        raise UserError(
          f'teachers.{name} has no weights: give --config.teachers.{name}.path=PATH, a run of '
          'pretrain or finetune, or a checkpoint of another implementation.'
        )
      teachers[name] = found[name]
      continue
    if path == AVERAGE and not config.optimizer.ema:
      raise UserError(f'teachers.{name} is the moving average, and optimizer.ema is 0: set it.')
    arguments, common = encoder_arguments(config.model)
    encoder = Encoder(**arguments, **common, **pixel_statistics(data))
    clip = (data.frames, data.size, data.size)

    def init(encoder=encoder, clip=clip):
      return encoder.init(jax.random.key(0), jnp.zeros((1, *clip, 3)))['params']

    params = jax.eval_shape(init) if path == AVERAGE else jax.jit(init)()
    teachers[name] = Teacher(encoder, params, clip, path)
  return teachers


def _load_raft(config) -> tuple[str | None, Any]:
  """Size and parameters of RAFT, or (None, None) if another estimator or no flow is used."""
  motion = config.motion
  estimator = lookup(ESTIMATORS, motion.name, 'motion.name')
  given = ('params', 'clip', 'pairs', 'size', 'vectors', 'times')
  check_options(estimator, dict(motion.options), 'motion.options', given)
  needed = motion.name == 'raft' and (_flow_pairs(config) or window(config))
  return load_raft(motion.path) if needed else (None, None)
