"""The latent regressor of CAE and MAM2: from visible latents to latents of masked tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vmae_jax.models.attention import attention
from vmae_jax.models.blocks import (
  LayerScale,
  Mlp,
  Shared,
  layer_norm,
  rematerialised,
  stack,
  xavier,
)
from vmae_jax.models.decoder import mask_token_init
from vmae_jax.sharding import constrain_batch
from vmae_jax.types import Array, Float


class CrossAttention(nn.Module):
  """Attention with a matrix of its own for each of q, k and v; biases as in `Attention`."""

  heads: int
  dtype: Any = jnp.float32
  implementation: str = 'auto'

  @nn.compact
  def __call__(
    self, q: Float[Array, 'b m d'], k: Float[Array, 'b j d'], v: Float[Array, 'b j d']
  ) -> Float[Array, 'b m d']:
    d = q.shape[-1]

    def project(x, name, bias):
      x = nn.Dense(d, use_bias=False, kernel_init=xavier, dtype=self.dtype, name=name)(x)
      if bias:
        x += self.param(f'{name}_bias', nn.initializers.zeros, (d,)).astype(self.dtype)
      return x.reshape(*x.shape[:2], self.heads, -1)

    given = project(q, 'q', True), project(k, 'k', False), project(v, 'v', True)
    x = attention(*given, implementation=self.implementation)
    return nn.Dense(d, kernel_init=xavier, dtype=self.dtype, name='proj')(
      x.reshape(*x.shape[:2], d)
    )


class RegressorBlock(Shared):
  """One block. Its norms are CAE's: the second one replaces the stream that the MLP adds to."""

  heads: int
  mlp: int

  @nn.compact
  def __call__(
    self,
    queries: Float[Array, 'b m d'],
    latents: Float[Array, 'b k d'],
    query_positions: Float[Array, 'b m d'],
    positions: Float[Array, 'b j d'],
  ) -> Float[Array, 'b m d']:
    """The next queries.

    Args:
      queries: What is known of the masked tokens so far.
      latents: Of the visible tokens: the same in every block.
      query_positions: Of the masked tokens.
      positions: Of visible and masked tokens, in this order; j = k + m.
    """

    def norm(name):
      return layer_norm(eps=self.eps, dtype=self.dtype, name=name)

    def scale(x, name):
      return LayerScale(self.layer_scale, name=name)(x) if self.layer_scale else x

    queries = constrain_batch(queries)
    # Masked tokens see each other; positions go into queries and keys, never into values.
    keys = jnp.concatenate([latents, queries], axis=1)
    x = CrossAttention(self.heads, self.dtype, self.implementation, name='attention')(
      norm('norm_q')(queries + query_positions),
      norm('norm_k')(keys + positions),
      norm('norm_v')(keys),
    )
    x = norm('norm2')(queries + scale(x, 'scale1'))
    return constrain_batch(x + scale(Mlp(self.mlp, self.dtype, name='mlp')(x), 'scale2'))


class Regressor(Shared):
  """Predicts the latents of masked tokens from those of visible ones.

  Every masked token starts from one learnt mask token. What it learns of a token's content has
  to come from the visible latents, so that the encoder, and not a decoder, does the encoding.

  Source: Chen et al., Context Autoencoder (2022), section 3.1 and its released code. That MAM2's
  regressor has these blocks is our choice: the paper says what it is for, not what it is.
  """

  width: int
  depth: int
  heads: int
  mlp: int

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, 'b k d'],
    visible_positions: Float[Array, 'b k d'],
    masked_positions: Float[Array, 'b m d'],
  ) -> Float[Array, 'b m d']:
    """Latents of the masked tokens, normalised like the encoder's of the visible tokens."""
    mask_token = self.param('mask_token', mask_token_init, (self.width,))
    queries = jnp.broadcast_to(mask_token.astype(self.dtype), masked_positions.shape)
    positions = jnp.concatenate([visible_positions, masked_positions], axis=1)
    block = rematerialised(RegressorBlock, self.remat, scan=self.scan)
    block = block(self.heads, self.mlp, **self.shared, name='block')
    once = dict(depth=self.depth, scan=self.scan, in_axes=nn.broadcast)
    layers = stack(lambda block, x, *rest: (block(x, *rest), None), **once)
    queries, _ = layers(block, queries, latents, masked_positions, positions)
    return layer_norm(eps=self.eps, dtype=self.dtype, name='norm')(queries)
