"""The encoder of a finished run, frozen, as a function from clips to features."""

import functools
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
import ml_collections

from vmae_jax.errors import lookup
from vmae_jax.models.encoder import Encoder
from vmae_jax.training.checkpoint import load_config, load_params
from vmae_jax.training.compose import model_arguments
from vmae_jax.training.objective import normalise, prepare
from vmae_jax.types import Array, Float, UInt8


def pool_slots(x: Float[Array, 'b t h w d']) -> Float[Array, 'b f']:
  """Mean over the places of each time slot, the slots one after another: keeps the order."""
  return einops.reduce(x, 'b t h w d -> b (t d)', 'mean')


def pool_mean(x: Float[Array, 'b t h w d']) -> Float[Array, 'b f']:
  """Mean over all tokens."""
  return einops.reduce(x, 'b t h w d -> b d', 'mean')


POOLS = {'slots': pool_slots, 'mean': pool_mean}


def load_encoder(
  path: str, *, pool: str
) -> tuple[ml_collections.ConfigDict, Any, Callable[[Any, UInt8[Array, 'b T H W 3']], Array]]:
  """Reads the encoder of a checkpoint.

  Args:
    path: A run's workdir or one of its checkpoints.
    pool: A key of POOLS.

  Returns:
    The run's config, the encoder's parameters, and (parameters, uint8 clips) -> features.

  Raises:
    UserError: there is no checkpoint, or it is of another model.
  """
  config = ml_collections.ConfigDict(load_config(path))
  encoder, apply = build_encoder(config, pool=pool)
  like = jax.eval_shape(lambda: init_encoder(config, encoder))
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
  params = load_params(path, {'encoder': like})['encoder']
  return config, params, apply


def build_encoder(config, *, pool: str) -> tuple[Encoder, Callable[..., Array]]:
  """The encoder of a config, and (parameters, uint8 clips) -> pooled features, jitted."""
  arguments, _, common = model_arguments(config.model)
  encoder = Encoder(**arguments, **common)
  patch, data = tuple(config.model.patch), config.data
  reduce = lookup(POOLS, pool, '--pool')
  scale = functools.partial(normalise, mean=tuple(data.mean), std=tuple(data.std))

  @jax.jit
  def apply(params: Any, video: UInt8[Array, 'b T H W 3']) -> Float[Array, 'b f']:
    latents = encoder.apply({'params': params}, scale(prepare(video))).astype(jnp.float32)
    t, h, w = (size // step for size, step in zip(video.shape[1:4], patch, strict=True))
    return reduce(einops.rearrange(latents, 'b (t h w) d -> b t h w d', t=t, h=h, w=w))

  return encoder, apply


def init_encoder(config, encoder: Encoder) -> Any:
  """Fresh parameters, for comparison with trained ones."""
  data = config.data
  clip = jnp.zeros((1, data.frames, data.size, data.size, len(data.mean)))
  return encoder.init(jax.random.key(config.seed), clip)['params']
