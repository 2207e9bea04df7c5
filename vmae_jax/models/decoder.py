"""The decoder: visible latents and mask tokens become predictions at masked tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vmae_jax.models.blocks import Blocks, layer_norm, xavier
from vmae_jax.models.encoder import torch_uniform
from vmae_jax.models.positions import sincos_positions
from vmae_jax.types import Array, Float, Int


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
    # VideoMAE cuts this normal at one standard deviation, and leaves the projection between
    # encoder and decoder at PyTorch's default.
    mask_init = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)
    mask_token = self.param('mask_token', mask_init, (width,)).astype(dtype)
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
    return {
      name: nn.Dense(dim, kernel_init=xavier, dtype=dtype, name=f'head_{name}')(x)
      for name, dim in self.heads_out
    }
