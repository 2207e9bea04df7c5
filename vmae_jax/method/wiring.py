"""The model that a config describes: an encoder, decoders and, for MAM2, a regressor."""

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name, lookup
from vmae_jax.models.attention import IMPLEMENTATIONS
from vmae_jax.models.autoencoder import MaskedAutoencoder, RegressedAutoencoder
from vmae_jax.models.blocks import REMAT
from vmae_jax.models.decoder import Output
from vmae_jax.models.sizes import SIZES

DTYPES = {'bfloat16': jnp.bfloat16, 'float32': jnp.float32}
REGRESSORS = ('none', 'latent')
_SIZES = ('width', 'depth', 'heads', 'mlp')


def build_model(config, *, heads: dict[str, Output]) -> MaskedAutoencoder | RegressedAutoencoder:
  """The autoencoder of the config blocks `model` and `regressor`, with the given heads."""
  encoder, decoder, common = model_arguments(config.model)
  encoder |= pixel_statistics(config.data)
  regressor = config.regressor
  check_name(regressor.name, REGRESSORS, 'regressor.name')
  own = _own_decoders(config, decoder, used={output.decoder for output in heads.values()})
  if regressor.name == 'none':
    return MaskedAutoencoder(encoder, decoder, heads, common, own)
  given = {key: regressor.get(key) for key in _SIZES}  # Older runs only have the depth.
  given = {key: value for key, value in given.items() if value is not None}
  sizes = decoder | _own_sizes('regressor', given, decoder)
  sizes['layer_scale'] = decoder['layer_scale'] = regressor.layer_scale
  return RegressedAutoencoder(
    encoder, decoder, heads, common, own, regressor=sizes, align=aligned(config)
  )


def aligned(config) -> bool:
  """Whether the regressor's latents are aligned with the encoder's."""
  return config.regressor.name != 'none' and config.regressor.alignment_weight > 0


def _own_decoders(config, decoder: dict, *, used: set[str]) -> dict[str, dict[str, int]]:
  """Decoder -> sizes that replace those in `decoder`.

  Raises:
    UserError: no head uses a decoder, a size does not exist, or heads do not divide the width.
  """
  found = {}
  for name, sizes in config.get('decoders', {}).items():  # Older runs have none.
    check_name(name, used, 'decoders')
    for key in sizes:
      check_name(key, _SIZES, f'decoders.{name}')
    found[name] = _own_sizes(f'decoders.{name}', dict(sizes), decoder)
  return found


def _own_sizes(key: str, own: dict[str, int], decoder: dict) -> dict[str, int]:
  if 'width' in own:
    own = {'mlp': 4 * own['width']} | own
  width, heads = (own.get(name, decoder[name]) for name in ('width', 'heads'))
  if width % heads:
    raise UserError(f'{key}: the width {width} is no multiple of its {heads} heads: change one.')
  return own


def pixel_statistics(data) -> dict[str, tuple[float, ...]]:
  """Arguments of an `Encoder` for clips that are not normalised."""
  return {'mean': tuple(data.mean), 'std': tuple(data.std)}


def model_arguments(model) -> tuple[dict, dict, dict]:
  """Arguments of the encoder, of the decoder and of both, from the config block `model`."""
  encoder, common = encoder_arguments(model)
  given = dict(width=model.decoder_width, depth=model.decoder_depth, heads=model.decoder_heads)
  decoder = SIZES[model.size]['decoder'] | {k: v for k, v in given.items() if v is not None}
  if model.decoder_width is not None:
    decoder['mlp'] = 4 * decoder['width']
  decoder['mlp'] = model.get('decoder_mlp') or decoder['mlp']  # Older runs have no such key.
  if decoder['width'] % decoder['heads']:
    raise UserError(
      f'model: the decoder width {decoder["width"]} is no multiple of its {decoder["heads"]} '
      'heads: change one.'
    )
  return encoder, decoder, common


def encoder_arguments(model) -> tuple[dict, dict]:
  """Arguments of the encoder alone, and those shared with decoders, from the block `model`."""
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
