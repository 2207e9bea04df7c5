"""Decoders: from latents to predictions at masked tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vmae_jax.models.blocks import Blocks, layer_norm, xavier
from vmae_jax.models.encoder import torch_uniform
from vmae_jax.models.positions import sincos_positions
from vmae_jax.types import Array, Float, Int

# VideoMAE and CAE cut this normal at one standard deviation.
mask_token_init = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)


class Decoder(nn.Module):
  """VideoMAE's decoder with one output layer for each head.

  Attributes:
    heads_out: Pairs of a head's name and the width of its prediction.
  """

  width: int
  depth: int
  heads: int
  mlp: int
  heads_out: tuple[tuple[str, int], ...]
  eps: float = 1e-6
  dtype: Any = jnp.float32
  implementation: str = 'auto'
  scan: bool = False
  remat: str = 'none'

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, 'b k d'],
    visible: Int[Array, 'b k'],
    masked: Int[Array, 'b m'],
    *,
    tokens: int,
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions of each head at the masked tokens.

    Positions are gathered and tokens never put back in order: visible tokens come first, mask
    tokens after them.

    Args:
      latents: The encoder's output.
      visible: Where the latents belong.
      masked: Which tokens to predict.
      tokens: n, all tokens of the clip.
    """
    width, dtype = self.width, self.dtype
    mask_token = self.param('mask_token', mask_token_init, (width,)).astype(dtype)
    # VideoMAE leaves the projection between encoder and decoder at PyTorch's default.
    x = nn.Dense(
      width,
      use_bias=False,
      kernel_init=torch_uniform(latents.shape[-1]),
      dtype=dtype,
      name='from_encoder',
    )(latents)
    positions = jnp.asarray(sincos_positions(tokens, width)).astype(dtype)
    x = jnp.concatenate([x + positions[visible], mask_token + positions[masked]], axis=1)
    x = Blocks(
      self.depth,
      self.heads,
      self.mlp,
      self.eps,
      dtype,
      self.implementation,
      self.scan,
      self.remat,
      name='blocks',
    )(x)
    x = layer_norm(eps=self.eps, dtype=dtype, name='norm')(x[:, visible.shape[1] :])
    return _predict(x, self.heads_out, dtype)


class LatentDecoder(nn.Module):
  """CAE's and MAM2's decoder: sees the regressed latents of masked tokens and nothing else.

  Attributes:
    heads_out: Pairs of a head's name and the width of its prediction.

  Source: Chen et al., Context Autoencoder (2022); MAM2's own sizes are not known.
  """

  width: int
  depth: int
  heads: int
  mlp: int
  heads_out: tuple[tuple[str, int], ...]
  eps: float = 1e-6
  dtype: Any = jnp.float32
  implementation: str = 'auto'
  scan: bool = False
  remat: str = 'none'
  layer_scale: float = 0.0

  @nn.compact
  def __call__(
    self, latents: Float[Array, 'b m d'], positions: Float[Array, 'b m d']
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions of each head at the masked tokens.

    Args:
      latents: The regressor's output.
      positions: Of the same tokens.
    """
    x = Blocks(
      self.depth,
      self.heads,
      self.mlp,
      self.eps,
      self.dtype,
      self.implementation,
      self.scan,
      self.remat,
      self.layer_scale,
      name='blocks',
    )(latents + positions)
    x = layer_norm(eps=self.eps, dtype=self.dtype, name='norm')(x)
    return _predict(x, self.heads_out, self.dtype)


def _predict(
  x: Float[Array, 'b m d'], heads_out: tuple[tuple[str, int], ...], dtype: Any
) -> dict[str, Float[Array, 'b m _']]:
  """The last layers, parameters of the module that calls it."""
  return {
    name: nn.Dense(dim, kernel_init=xavier, dtype=dtype, name=f'head_{name}')(x)
    for name, dim in heads_out
  }
