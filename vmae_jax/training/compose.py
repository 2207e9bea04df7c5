"""From a config to an `Objective`: every name looked up, every option checked."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name, check_options, lookup
from vmae_jax.masking import DECODER_MASKINGS, FLOW_PAIRS, MASKINGS, Mask
from vmae_jax.models.attention import IMPLEMENTATIONS
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.blocks import REMAT
from vmae_jax.models.patches import token_grid
from vmae_jax.models.regressed_autoencoder import RegressedAutoencoder
from vmae_jax.models.sizes import SIZES
from vmae_jax.motion.flow import ESTIMATORS, Flow, estimate
from vmae_jax.motion.raft import load_raft
from vmae_jax.targets import TARGETS
from vmae_jax.tokenizers import untrained
from vmae_jax.tokenizers.tokenizer import Tokenizer, load_tokenizer
from vmae_jax.training.losses import LOSSES, cross_entropy
from vmae_jax.training.objective import Head, Objective, normalise, prepare

DTYPES = {'bfloat16': jnp.bfloat16, 'float32': jnp.float32}
REGRESSORS = ('none', 'latent')


def build_objective(config) -> Objective:
  """The method that a config describes.

  Raises:
    UserError: a name or option that does not exist, sizes that do not divide, or a target
      whose tokenizer is missing.
  """
  model, data = config.model, config.data
  patch = tuple(model.patch)
  grid = token_grid((data.frames, data.size, data.size), patch)
  tokenizer = None
  if any(head.target == 'codes' for head in config.heads.values()):
    path = config.tokenizer.path
    tokenizer = untrained.untrained_tokenizer() if path == untrained.NAME else load_tokenizer(path)
  heads = {name: _head(name, head, patch, tokenizer) for name, head in config.heads.items()}
  clip = jax.ShapeDtypeStruct((1, data.frames, data.size, data.size, len(data.mean)), jnp.float32)
  frozen = {} if tokenizer is None else {'tokenizer': tokenizer.params}
  widths = {}
  for name, head in heads.items():
    width = jax.eval_shape(head.target, clip, None, frozen).shape[-1]
    if head.loss is cross_entropy:  # f codes a token: logits for each.
      width *= tokenizer.model.codes
    widths[name] = config.heads[name].decoder, width
  hide, mask = _masks(config, grid)
  raft = _load_raft(config)
  regressor = config.regressor
  check_name(regressor.name, REGRESSORS, 'regressor.name')
  if regressor.name != 'none' and config.decoder_masking.name == 'running_cell':
    raise UserError(
      'decoder_masking running_cell also decodes tokens that are visible, which a regressor must '
      'not be shown as targets: take decoder_masking.name random.'
    )
  objective = Objective(
    model=build_model(config, heads=widths),
    flow=_flow(config, raft),
    hide=hide,
    mask=mask,
    heads=heads,
    auxiliary={} if regressor.name == 'none' else {'alignment': regressor.alignment_weight},
    tokenizer=tokenizer,
    raft=None if raft is None else raft[1],
    prepare=prepare,
    normalise=functools.partial(normalise, mean=tuple(data.mean), std=tuple(data.std)),
    grid=grid,
    patch=patch,
    seed=config.seed,
  )
  _check_counts(objective, config)
  return objective


def build_model(
  config, *, heads: dict[str, tuple[str, int]]
) -> MaskedAutoencoder | RegressedAutoencoder:
  """The autoencoder of the config blocks `model` and `regressor`, with the given heads."""
  encoder, decoder, common = model_arguments(config.model)
  regressor = config.regressor
  if regressor.name == 'none':
    return MaskedAutoencoder(encoder, decoder, heads, common)
  decoder['layer_scale'] = regressor.layer_scale
  arguments = dict(
    depth=regressor.depth,
    heads=decoder['heads'],
    mlp=decoder['mlp'],
    layer_scale=regressor.layer_scale,
  )
  return RegressedAutoencoder(encoder, arguments, decoder, heads, common)


def model_arguments(model) -> tuple[dict, dict, dict]:
  """Arguments of encoder, decoder and both, from the config block `model`."""
  size = lookup(SIZES, model.size, 'model.size')
  encoder = {k: v for k, v in size.items() if k != 'decoder'} | {'patch': tuple(model.patch)}
  given = dict(width=model.decoder_width, depth=model.decoder_depth, heads=model.decoder_heads)
  decoder = size['decoder'] | {k: v for k, v in given.items() if v is not None}
  decoder['mlp'] = 4 * decoder['width']
  for name, part in (('encoder', encoder), ('decoder', decoder)):
    if part['width'] % part['heads']:
      raise UserError(
        f'model: the {name} width {part["width"]} is no multiple of its {part["heads"]} heads.'
      )
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
  return encoder, decoder, common


def _head(name: str, head, patch: tuple[int, int, int], tokenizer: Tokenizer | None) -> Head:
  function = lookup(TARGETS, head.target, f'heads.{name}.target')
  loss = lookup(LOSSES, head.loss, f'heads.{name}.loss')
  given = ('clip', 'flow', 'patch', 'encode', 'factor')
  check_options(function, head.options.keys(), f'heads.{name}.options', given)
  if (head.target == 'codes') != (head.loss == 'cross_entropy'):
    raise UserError(
      f'heads.{name}: the target codes goes with the loss cross_entropy, and no other does; '
      f'it has target {head.target} and loss {head.loss}.'
    )
  function = functools.partial(function, patch=patch, **head.options)

  def target(clip, flow, frozen):
    if head.target != 'codes':
      return function(clip, flow)

    def encode(images):
      return tokenizer.model.apply({'params': frozen['tokenizer']}, images, method='encode')

    return function(clip, flow, encode=encode, factor=tokenizer.model.factor)

  return Head(target, loss, head.weight)


def _masks(config, grid: tuple[int, int, int]) -> tuple[Callable[..., Mask], Callable[..., Mask]]:
  """The masking rule over a batch, and the same with the decoder's masking after it."""
  masking, decoding = config.masking, config.decoder_masking
  hide = lookup(MASKINGS, masking.name, 'masking.name')
  given = ('key', 'clip', 'flow', 'grid', 'ratio')
  check_options(hide, masking.options.keys(), 'masking.options', given)
  hide = functools.partial(hide, grid=grid, ratio=masking.ratio, **masking.options)
  rule = hide
  decode = lookup({'none': None} | DECODER_MASKINGS, decoding.name, 'decoder_masking.name')
  if decode is not None:
    decode = functools.partial(decode, grid=grid, ratio=decoding.ratio)

    def rule(key, clip, flow):
      return decode(jax.random.fold_in(key, 1), hide(key, clip, flow))

  return jax.vmap(hide), jax.vmap(rule)


def _check_counts(objective: Objective, config) -> None:
  """Raises a UserError where nothing is visible or nothing is to be predicted."""
  mask, (t, h, w) = objective.mask_shape(), objective.grid
  if not mask.visible.size or not mask.masked.size:
    raise UserError(
      f'masking {config.masking.name} with ratio {config.masking.ratio} leaves '
      f'{mask.visible.size} of {t}x{h}x{w} tokens visible and {mask.masked.size} to predict: '
      'change masking.ratio or decoder_masking.ratio.'
    )


def _flow(config, raft: tuple[str, Any] | None) -> Callable[..., Flow | None]:
  """(clip, frozen) -> the flow of all pairs of frames that masking and targets ask for."""
  motion, pairs = config.motion, _flow_pairs(config)

  def flow(clip, frozen):
    if not pairs:
      return None
    estimator = functools.partial(ESTIMATORS[motion.name], **motion.options)
    if raft is not None:
      estimator = functools.partial(estimator, frozen['raft'], size=raft[0])
    return estimate(clip, pairs=pairs, estimator=estimator)

  return flow


def _flow_pairs(config) -> list[tuple[int, int]]:
  masking = config.masking
  if masking.name not in FLOW_PAIRS:
    return []
  return sorted(FLOW_PAIRS[masking.name](config.data.frames, **masking.options))


def _load_raft(config) -> tuple[str, Any] | None:
  """Size and parameters of RAFT, if it is named and anything asks for flow."""
  motion = config.motion
  estimator = lookup(ESTIMATORS, motion.name, 'motion.name')
  given = ('params', 'clip', 'pairs', 'size')
  check_options(estimator, motion.options.keys(), 'motion.options', given)
  return load_raft(motion.path) if motion.name == 'raft' and _flow_pairs(config) else None
