"""The latent regressor of CAE and MAM2: from latents of visible tokens to those of masked ones."""

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
  """Attention with separate matrices for q, k and v; biases as in `Attention`."""

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
  """Cross-attention and an MLP. As in CAE, the MLP adds to the output of the second norm, not to
  its input."""

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
    """The queries of the next block.

    Args:
      queries: The masked tokens' latents so far.
      latents: The visible tokens' latents, the same in every block.
      query_positions: Positions of the masked tokens.
      positions: Positions of visible and masked tokens, in this order; j = k + m.
    """

    def norm(name):
      return layer_norm(eps=self.eps, dtype=self.dtype, name=name)

    def scale(x, name):
      return LayerScale(self.layer_scale, name=name)(x) if self.layer_scale else x

    queries = constrain_batch(queries)
    # Masked tokens also attend to each other; positions go into queries and keys, not into values.
    keys = jnp.concatenate([latents, queries], axis=1)
    x = CrossAttention(self.heads, self.dtype, self.implementation, name='attention')(
      norm('norm_q')(queries + query_positions),
      norm('norm_k')(keys + positions),
      norm('norm_v')(keys),
    )
    x = norm('norm2')(queries + scale(x, 'scale1'))
    return constrain_batch(x + scale(Mlp(self.mlp, self.dtype, name='mlp')(x), 'scale2'))


class Regressor(Shared):
  """Predicts the latents of masked tokens from those of visible tokens.

  Every masked token starts from one learnt mask token, so that its content can only come from the
  visible latents: the encoder, and not a decoder, has to describe the video.

  Source: Chen et al., Context Autoencoder (2022), section 3.1 and its released code. Using its
  blocks for MAM2 is our choice: MAM2's paper gives the regressor's purpose, not its layers.
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
    """Latents of the masked tokens, after a last LayerNorm as the encoder has one."""
    mask_token = self.param('mask_token', mask_token_init, (self.width,))
    queries = jnp.broadcast_to(mask_token.astype(self.dtype), masked_positions.shape)
    positions = jnp.concatenate([visible_positions, masked_positions], axis=1)
    block = rematerialised(RegressorBlock, self.remat, scan=self.scan)
    block = block(self.heads, self.mlp, **self.shared, name='block')
    how = dict(depth=self.depth, scan=self.scan, in_axes=nn.broadcast)
    layers = stack(lambda block, x, *rest: (block(x, *rest), None), **how)
    queries, _ = layers(block, queries, latents, masked_positions, positions)
    return layer_norm(eps=self.eps, dtype=self.dtype, name='norm')(queries)
