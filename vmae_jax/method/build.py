"""Builds the `Method` that a config describes; looks up its names and checks its options."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name, check_options, lookup
from vmae_jax.frozen.raft import load_raft
from vmae_jax.frozen.tokenizer import UNTRAINED, Tokenizer, load_tokenizer, untrained_tokenizer
from vmae_jax.masking import DECODER_MASKINGS, MASKINGS, Mask
from vmae_jax.method.augmentation import build_augmentation
from vmae_jax.method.forward import Head, Method
from vmae_jax.method.losses import LOSSES
from vmae_jax.models.attention import IMPLEMENTATIONS
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.blocks import REMAT
from vmae_jax.models.decoder import ACTIVATIONS, Output
from vmae_jax.models.patches import token_grid
from vmae_jax.models.regressed_autoencoder import RegressedAutoencoder
from vmae_jax.models.sizes import SIZES
from vmae_jax.motion.flow import ESTIMATORS, Flow, estimate
from vmae_jax.motion.follow import RATES, Followed, clip_pairs, follow_clip, follow_window
from vmae_jax.targets import TARGETS
from vmae_jax.targets.hog import cell_of
from vmae_jax.targets.target import Target

DTYPES = {'bfloat16': jnp.bfloat16, 'float32': jnp.float32}
REGRESSORS = ('none', 'latent')


def build_method(config) -> Method:
  """The method that a config describes.

  Raises:
    UserError: a name or option that does not exist, sizes that do not divide, or a target
      whose tokenizer is missing.
  """
  model, data, regressor = config.model, config.data, config.regressor
  patch = tuple(model.patch)
  grid = token_grid((data.frames, data.size, data.size), patch)
  check_name(regressor.name, REGRESSORS, 'regressor.name')
  tokenizer, (raft_size, raft) = _load_tokenizer(config), _load_raft(config)
  masking, decoder_masking = _maskings(config, grid)
  flow, follow = _motion(config, raft_size)
  heads = {name: _head(name, head, patch, tokenizer) for name, head in config.heads.items()}
  frozen = {'tokenizer': tokenizer and tokenizer.params, 'raft': raft}
  frozen = {name: params for name, params in frozen.items() if params is not None}

  def mask(keys, clip, frozen):
    hidden = masking(keys, clip, flow(clip, frozen))
    return decoder_masking(keys, hidden) if decoder_masking else hidden

  def targets(clip, window, frozen):
    moved = flow(clip, frozen)
    followed = follow(clip, window, moved, frozen)
    return {name: head.target(clip, moved, followed, frozen) for name, head in heads.items()}

  frame = (data.size, data.size, 3)
  clip = jax.ShapeDtypeStruct((1, data.frames, *frame), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 1)
  hidden = jax.eval_shape(mask, keys, clip, frozen)
  if not hidden.visible.size or not hidden.masked.size:
    raise UserError(
      f'masking {config.masking.name} with ratio {config.masking.ratio} leaves '
      f'{hidden.visible.size} of {"x".join(map(str, grid))} tokens visible and '
      f'{hidden.masked.size} to predict: change masking.ratio or decoder_masking.ratio.'
    )
  between = window(config)
  frames = jax.ShapeDtypeStruct((1, grid[0], between, *frame), jnp.float32) if between else None
  outputs = _outputs(config, jax.eval_shape(targets, clip, frames, frozen), tokenizer)
  return Method(
    model=build_model(config, heads=outputs),
    augment=build_augmentation(config.augment),
    flow=flow,
    follow=follow,
    masking=masking,
    decoder_masking=decoder_masking,
    heads=heads,
    own_losses={} if regressor.name == 'none' else {'alignment': regressor.alignment_weight},
    tokenizer=tokenizer,
    frozen=frozen,
    window=between,
    grid=grid,
    patch=patch,
    seed=config.seed,
  )


def build_model(config, *, heads: dict[str, Output]) -> MaskedAutoencoder | RegressedAutoencoder:
  """The autoencoder of the config blocks `model` and `regressor`, with the given heads."""
  encoder, decoder, common = model_arguments(config.model)
  encoder |= {'mean': tuple(config.data.mean), 'std': tuple(config.data.std)}
  regressor = config.regressor
  if regressor.name == 'none':
    return MaskedAutoencoder(encoder, decoder, heads, common)
  decoder['layer_scale'] = regressor.layer_scale
  same = {name: decoder[name] for name in ('heads', 'mlp', 'layer_scale')}
  return RegressedAutoencoder(encoder, {'depth': regressor.depth} | same, decoder, heads, common)


def model_arguments(model) -> tuple[dict, dict, dict]:
  """Arguments of encoder, decoder and both, from the config block `model`."""
  encoder, common = encoder_arguments(model)
  given = dict(width=model.decoder_width, depth=model.decoder_depth, heads=model.decoder_heads)
  decoder = SIZES[model.size]['decoder'] | {k: v for k, v in given.items() if v is not None}
  if model.decoder_width is not None:
    decoder['mlp'] = 4 * decoder['width']
  decoder['mlp'] = model.get('decoder_mlp') or decoder['mlp']  # Older runs have no such key.
  if decoder['width'] % decoder['heads']:
    raise UserError(
      f'model: the decoder width {decoder["width"]} is no multiple of its {decoder["heads"]} heads.'
    )
  return encoder, decoder, common


def encoder_arguments(model) -> tuple[dict, dict]:
  """Arguments of the encoder alone and those that decoders share, from the config block `model`."""
  size = lookup(SIZES, model.size, 'model.size')
  encoder = {k: v for k, v in size.items() if k != 'decoder'} | {'patch': tuple(model.patch)}
  fastest = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
  check_name(model.attention, IMPLEMENTATIONS, 'model.attention')
  check_name(model.remat, REMAT, 'model.remat')
  common = dict(
    eps=model.eps,
    dtype=lookup(DTYPES | {'auto': fastest}, model.dtype, 'model.dtype'),
    implementation=model.attention,
    scan=model.scan,
    remat=model.remat,
  )
  return encoder, common


def _outputs(config, targets: dict[str, Target], tokenizer: Tokenizer | None) -> dict[str, Output]:
  """The output that each head adds to its decoder, from the shapes of targets."""
  outputs = {}
  for name, head in config.heads.items():
    width = targets[name].values.shape[-1]
    if head.loss == 'cross_entropy':  # f codes a token: logits for each.
      width *= tokenizer.model.codes
    activation = head.get('activation', 'none')
    check_name(activation, ACTIVATIONS, f'heads.{name}.activation')
    outputs[name] = Output(head.decoder, width, head.get('hidden', 0), activation)
  return outputs


def _head(name: str, head, patch: tuple[int, int, int], tokenizer: Tokenizer | None) -> Head:
  function = lookup(TARGETS, head.target, f'heads.{name}.target')
  loss = lookup(LOSSES, head.loss, f'heads.{name}.loss')
  given = ('clip', 'flow', 'followed', 'patch', 'encode', 'factor')
  check_options(function, head.options.keys(), f'heads.{name}.options', given)
  codes = _needs(head, 'tokenizer')
  if codes != (head.loss == 'cross_entropy'):
    raise UserError(
      f'heads.{name}: the target codes goes with the loss cross_entropy, and no other does; '
      f'it has target {head.target} and loss {head.loss}.'
    )
  other_clip = head.get('other_clip', False)
  asks_for_flow = hasattr(function, 'flow_pairs')
  function = functools.partial(function, patch=patch, **head.options)

  def target(clip, flow, followed, frozen):
    found = own_target(clip, flow, followed, frozen)
    if other_clip:
      return jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), found)
    return found

  def own_target(clip, flow, followed, frozen):
    given = {'flow': flow} if asks_for_flow else {}
    if codes:
      model, params = tokenizer.model, {'params': frozen['tokenizer']}
      given['encode'] = functools.partial(model.apply, params, method='encode')
      given['factor'] = model.factor
    values = function(clip, followed, **given)
    return values if isinstance(values, Target) else Target(values)

  return Head(target, loss, head.weight)


def _maskings(
  config, grid: tuple[int, int, int]
) -> tuple[Callable[..., Mask], Callable[..., Mask] | None]:
  """`Method.masking` and `Method.decoder_masking`."""
  block, decoded = config.masking, config.decoder_masking
  masking = lookup(MASKINGS, block.name, 'masking.name')
  given = ('key', 'clip', 'flow', 'grid', 'ratio')
  check_options(masking, block.options.keys(), 'masking.options', given)
  masking = jax.vmap(functools.partial(masking, grid=grid, ratio=block.ratio, **block.options))
  check_name(decoded.name, ('none', *DECODER_MASKINGS), 'decoder_masking.name')
  if decoded.name == 'none':
    return masking, None
  if config.regressor.name != 'none' and decoded.name == 'running_cell':
    raise UserError(
      'decoder_masking running_cell also decodes tokens that are visible, which a regressor must '
      'not be shown as targets: take decoder_masking.name random.'
    )
  decoder_masking = DECODER_MASKINGS[decoded.name]
  return masking, jax.vmap(functools.partial(decoder_masking, grid=grid, ratio=decoded.ratio))


def _motion(
  config, raft_size: str | None
) -> tuple[Callable[..., Flow | None], Callable[..., Followed | None]]:
  """`Method.flow`, of all pairs of frames that anything needs, and `Method.follow`."""
  pairs, tracking = _flow_pairs(config), config.tracking
  options = dict(
    pitch=cell_of(tuple(config.model.patch)) if _tracked(config) else 0,
    smooth=tracking.median,
    camera=tracking.camera,
    integer=tracking.integer,
  )

  def estimator(frozen):
    function = functools.partial(ESTIMATORS[config.motion.name], **config.motion.options)
    if raft_size is None:
      return function
    return functools.partial(function, frozen['raft'], size=raft_size)

  def flow(clip, frozen):
    return estimate(clip, pairs=pairs, estimator=estimator(frozen)) if pairs else None

  def follow(clip, window, flow, frozen):
    if not _tracked(config):
      return None
    if window is not None:
      return follow_window(window, estimator=estimator(frozen), **options)
    return follow_clip(clip, flow, slot=config.model.patch[0], steps=tracking.steps, **options)

  return flow, follow


def window(config) -> int:
  """How many neighbouring video frames the loader must add to each time slot."""
  tracking = config.tracking
  check_name(tracking.rate, RATES, 'tracking.rate')
  return tracking.steps + 1 if _tracked(config) and tracking.rate == 'video' else 0


def _needs(head, name: str) -> bool:
  """Whether the target of a head needs `points` or the `tokenizer`."""
  return name in getattr(TARGETS.get(head.target), 'needs', ())


def _tracked(config) -> bool:
  return any(_needs(head, 'points') for head in config.heads.values())


def _flow_pairs(config) -> list[tuple[int, int]]:
  """All pairs of the clip's frames between which maskings or targets need the flow."""
  frames = config.data.frames
  pairs = set(clip_pairs(frames) if _tracked(config) and not window(config) else ())
  masking = config.masking
  asking = {('masking.name', masking.name): (MASKINGS.get(masking.name), masking.options)}
  for name, head in config.heads.items():
    asking[f'heads.{name}.target', head.target] = TARGETS.get(head.target), head.options
  for (key, name), (function, options) in asking.items():
    if pairs_of := getattr(function, 'flow_pairs', None):
      asked = pairs_of(frames, **options)
      if not asked:
        raise UserError(
          f'{name} follows motion from frame to frame, and data.frames is {frames}: give clips '
          f'more frames, or take another {key}.'
        )
      pairs |= set(asked)
  return sorted(pairs)


def _load_tokenizer(config) -> Tokenizer | None:
  """The frozen tokenizer, if a target needs it."""
  if not any(_needs(head, 'tokenizer') for head in config.heads.values()):
    return None
  path = config.tokenizer.path
  return untrained_tokenizer() if path == UNTRAINED else load_tokenizer(path)


def _load_raft(config) -> tuple[str | None, Any]:
  """Size and parameters of RAFT, if it is named and anything needs flow, else None."""
  motion = config.motion
  estimator = lookup(ESTIMATORS, motion.name, 'motion.name')
  given = ('params', 'clip', 'pairs', 'size')
  check_options(estimator, motion.options.keys(), 'motion.options', given)
  needed = motion.name == 'raft' and (_flow_pairs(config) or window(config))
  return load_raft(motion.path) if needed else (None, None)
