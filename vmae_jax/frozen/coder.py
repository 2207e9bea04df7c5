"""The convolutional encoder and decoder of VQGAN.

Esser et al., Taming Transformers for High-Resolution Image Synthesis, CVPR 2021, as in the
authors' code. Modules bear the names of that code, so that weights are found by their names.
Attention stands at the last level and in the middle whatever the size of the frames; the
original says the same by the resolution that 256 pixels have there.
"""

from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vmae_jax.types import Array, Float

# PyTorch's, in which the original is written; it compiles much faster than flax's default, too.
uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class ResnetBlock(nn.Module):
  """x + Conv(swish(Norm(Conv(swish(Norm(x)))))), x through a matrix if the width changes."""

  width: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w _']) -> Float[Array, 'b h w d']:
    y = nn.swish(_norm(self.groups, self.dtype, name='norm1')(x))
    y = _conv(self.width, self.dtype, name='conv1')(y)
    y = nn.swish(_norm(self.groups, self.dtype, name='norm2')(y))
    y = _conv(self.width, self.dtype, name='conv2')(y)
    if x.shape[-1] != self.width:
      x = dense(self.width, self.dtype, name='nin_shortcut')(x)
    return x + y


class AttentionBlock(nn.Module):
  """x + Attention(Norm(x)): one head over all positions."""

  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
    h, d = x.shape[1], x.shape[-1]
    y = _norm(self.groups, self.dtype, name='norm')(x)
    q, k, v = (
      einops.rearrange(dense(d, self.dtype, name=name)(y), 'b h w d -> b (h w) 1 d')
      for name in ('q', 'k', 'v')
    )
    y = einops.rearrange(jax.nn.dot_product_attention(q, k, v), 'b (h w) 1 d -> b h w d', h=h)
    return x + dense(d, self.dtype, name='proj_out')(y)


class Level(nn.Module):
  """Blocks of one resolution, each followed by attention if the level has it, then a resize."""

  width: int
  blocks: int
  groups: int
  attention: bool
  resize: str  # 'downsample', 'upsample' or 'none'.
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w _']) -> Float[Array, 'b h2 w2 d']:
    for i in range(self.blocks):
      x = ResnetBlock(self.width, self.groups, self.dtype, name=f'block_{i}')(x)
      if self.attention:
        x = AttentionBlock(self.groups, self.dtype, name=f'attn_{i}')(x)
    if self.resize == 'downsample':
      # One row below and one column at the right, where SAME would pad on both sides of
      # frames of odd size only, and torch's padding=1 on both sides always.
      padding = ((0, 1), (0, 1))
      x = _conv(self.width, self.dtype, 'downsample', strides=2, padding=padding)(x)
    if self.resize == 'upsample':
      x = einops.repeat(x, 'b h w d -> b (h 2) (w 2) d')
      x = _conv(self.width, self.dtype, name='upsample')(x)
    return x


class Middle(nn.Module):
  """Block, attention, block at the lowest resolution."""

  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
    x = ResnetBlock(x.shape[-1], self.groups, self.dtype, name='block_1')(x)
    x = AttentionBlock(self.groups, self.dtype, name='attn_1')(x)
    return ResnetBlock(x.shape[-1], self.groups, self.dtype, name='block_2')(x)


class Encoder(nn.Module):
  """Images in [-1, 1] to latents, 2 ** (levels - 1) times smaller.

  Attributes:
    channels: Width of a level is channels times its multiplier.
    multipliers: One a level, from the finest to the coarsest.
    blocks: Residual blocks a level.
    latent: Width of the latents.
    groups: Of each GroupNorm.
    dtype: Of convolutions and matrix work.
  """

  channels: int
  multipliers: tuple[int, ...]
  blocks: int
  latent: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
    x = _conv(self.channels, self.dtype, name='conv_in')(images)
    last = len(self.multipliers) - 1
    for i, multiplier in enumerate(self.multipliers):
      x = Level(
        multiplier * self.channels,
        self.blocks,
        self.groups,
        attention=i == last,
        resize='none' if i == last else 'downsample',
        dtype=self.dtype,
        name=f'down_{i}',
      )(x)
    x = Middle(self.groups, self.dtype, name='mid')(x)
    x = nn.swish(_norm(self.groups, self.dtype, name='norm_out')(x))
    return _conv(self.latent, self.dtype, name='conv_out')(x)


class Decoder(nn.Module):
  """Latents to images, in [-1, 1] up to overshoot; levels have one block more than given.

  Attributes: as the encoder's. Level 0 is the finest, hence the last.
  """

  channels: int
  multipliers: tuple[int, ...]
  blocks: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
    last = len(self.multipliers) - 1
    x = _conv(self.multipliers[last] * self.channels, self.dtype, name='conv_in')(latents)
    x = Middle(self.groups, self.dtype, name='mid')(x)
    for i in reversed(range(last + 1)):
      x = Level(
        self.multipliers[i] * self.channels,
        self.blocks + 1,
        self.groups,
        attention=i == last,
        resize='upsample' if i else 'none',
        dtype=self.dtype,
        name=f'up_{i}',
      )(x)
    x = nn.swish(_norm(self.groups, self.dtype, name='norm_out')(x))
    return _conv(3, self.dtype, name='conv_out')(x)


def dense(width: int, dtype: Any, name: str | None = None) -> nn.Dense:
  """A matrix at every position, which the original writes as a convolution of 1 x 1."""
  return nn.Dense(width, kernel_init=uniform, dtype=dtype, name=name)


def _norm(groups: int, dtype: Any, name: str) -> nn.GroupNorm:
  """GroupNorm with statistics in float32, variance by the two-pass formula."""
  return nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


def _conv(width: int, dtype: Any, name: str, *, strides: int = 1, padding: Any = 1) -> nn.Conv:
  return nn.Conv(
    width,
    (3, 3),
    strides=strides,
    padding=padding,
    kernel_init=uniform,
    dtype=dtype,
    name=name,
  )
