"""A method, composed from a config: masking x targets x wiring -> one loss function."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name, check_options, lookup
from vmae_jax.masking import DECODER_MASKINGS, MASKINGS, Mask
from vmae_jax.models.attention import IMPLEMENTATIONS
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.blocks import REMAT
from vmae_jax.models.encoder import gather
from vmae_jax.models.flops import autoencoder_flops
from vmae_jax.models.patches import token_grid
from vmae_jax.models.sizes import SIZES
from vmae_jax.targets import TARGETS
from vmae_jax.training.losses import LOSSES
from vmae_jax.types import Array, Float, Int32, Key, UInt8

DTYPES = {'bfloat16': jnp.bfloat16, 'float32': jnp.float32}


class Head(NamedTuple):
  """One thing to predict: (clip, flow) -> target, its loss and weight."""

  target: Callable[..., Array]
  loss: Callable[[Array, Array], Array]
  weight: float


class Objective(NamedTuple):
  """A method ready to train.

  Attributes:
    model: The autoencoder.
    mask: (keys 'b', clip, flow) -> Mask with a batch axis.
    heads: What the model predicts.
    prepare: uint8 video -> clip in [0, 1].
    normalise: clip in [0, 1] -> the model's input.
    grid: Tokens (t, h, w).
    patch: Size of a patch.
    seed: Of all randomness on the device.
  """

  model: MaskedAutoencoder
  mask: Callable[..., Mask]
  heads: dict[str, Head]
  prepare: Callable[[Array], Array]
  normalise: Callable[[Array], Array]
  grid: tuple[int, int, int]
  patch: tuple[int, int, int]
  seed: int

  def init(self, key: Key[Array, '']) -> Any:
    """Fresh float32 parameters."""
    (t, h, w), (pt, ph, pw) = self.grid, self.patch
    clip = jnp.zeros((1, t * pt, h * ph, w * pw, 3))
    # Which tokens are masked makes no difference to the parameters.
    index = jnp.arange(2)[None]
    return self.model.init(key, clip, index[:, :1], index[:, 1:])['params']

  def flops(self) -> int:
    """Floating-point operations of the forward pass of one clip."""
    mask = jax.eval_shape(self.mask, jax.random.split(jax.random.key(0), 1), None, None)
    return autoencoder_flops(
      encoder=self.model.encoder,
      decoder=self.model.decoder,
      heads=self.model.heads,
      visible=mask.visible.shape[1],
      masked=mask.masked.shape[1],
      patch_values=math.prod(self.patch) * 3,
    )

  def outputs(self, params: Any, batch: dict[str, Array]):
    """Clip, mask, predictions and targets of a batch, as the loss and the pictures see them."""
    clip = self.prepare(batch['video'])
    flow = None
    mask = self.mask(batch_keys(self.seed, batch), clip, flow)
    predictions = self.model.apply(
      {'params': params}, self.normalise(clip), mask.visible, mask.masked
    )
    targets = {
      name: gather(jax.lax.stop_gradient(head.target(clip, flow)), mask.masked)
      for name, head in self.heads.items()
    }
    return clip, mask, predictions, targets

  def loss(
    self, params: Any, batch: dict[str, Array]
  ) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """The weighted sum over heads of their mean loss at masked tokens, and its parts."""
    _, mask, predictions, targets = self.outputs(params, batch)
    total, parts = jnp.zeros(()), {}
    for name, head in self.heads.items():
      tokens = head.loss(predictions[name], targets[name])
      parts[f'loss_{name}'] = (tokens * mask.weight).sum() / mask.weight.sum()
      total += head.weight * parts[f'loss_{name}']
    return total, parts


def batch_keys(seed: int, batch: dict[str, Array]) -> Key[Array, ' b']:
  """One key a clip: a function of (seed, epoch, sample, repeat) alone."""

  def fold(epoch: Int32[Array, ''], sample: Int32[Array, ''], repeat: Int32[Array, '']):
    key = jax.random.key(seed)
    for number in (epoch, sample, repeat):
      key = jax.random.fold_in(key, number)
    return key

  return jax.vmap(fold)(batch['epoch'], batch['sample'], batch['repeat'])


def prepare(video: UInt8[Array, 'b T H W C']) -> Float[Array, 'b T H W C']:
  """RGB in [0, 255] to [0, 1]."""
  return video.astype(jnp.float32) / 255


def normalise(
  clip: Float[Array, 'b T H W C'], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, 'b T H W C']:
  """A clip in [0, 1] with the given mean and deviation of each channel taken out."""
  return (clip - jnp.asarray(mean)) / jnp.asarray(std)


def build_objective(config) -> Objective:
  """The method that a config describes.

  Raises:
    UserError: a name or option that does not exist, or sizes that do not divide.
  """
  model, data = config.model, config.data
  for block in ('regressor', 'motion'):  # Methods to come add to these.
    check_name(config[block].name, ('none',), f'{block}.name')
  patch = tuple(model.patch)
  grid = token_grid((data.frames, data.size, data.size), patch)
  heads = {name: _head(name, head, patch) for name, head in config.heads.items()}
  clip = jax.ShapeDtypeStruct((1, data.frames, data.size, data.size, len(data.mean)), jnp.float32)
  widths = {
    name: (config.heads[name].decoder, jax.eval_shape(head.target, clip, None).shape[-1])
    for name, head in heads.items()
  }
  return Objective(
    model=build_model(model, heads=widths),
    mask=_mask(config, grid),
    heads=heads,
    prepare=prepare,
    normalise=functools.partial(normalise, mean=tuple(data.mean), std=tuple(data.std)),
    grid=grid,
    patch=patch,
    seed=config.seed,
  )


def build_model(model, *, heads: dict[str, tuple[str, int]]) -> MaskedAutoencoder:
  """The autoencoder of the config block `model`, with the given heads."""
  encoder, decoder, common = model_arguments(model)
  return MaskedAutoencoder(encoder, decoder, heads, common)


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


def _head(name: str, head, patch: tuple[int, int, int]) -> Head:
  target = lookup(TARGETS, head.target, f'heads.{name}.target')
  check_options(target, head.options.keys(), f'heads.{name}.options', ('clip', 'flow', 'patch'))
  return Head(
    target=functools.partial(target, patch=patch, **head.options),
    loss=lookup(LOSSES, head.loss, f'heads.{name}.loss'),
    weight=head.weight,
  )


def _mask(config, grid: tuple[int, int, int]) -> Callable[..., Mask]:
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

  mask = jax.eval_shape(rule, jax.random.key(0), None, None)
  if not mask.visible.size or not mask.masked.size:
    raise UserError(
      f'masking {masking.name} with ratio {masking.ratio} leaves {mask.visible.size} of '
      f'{grid[0]}x{grid[1]}x{grid[2]} tokens visible and {mask.masked.size} to predict: '
      'change masking.ratio.'
    )
  return jax.vmap(rule)
