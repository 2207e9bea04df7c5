"""The convolutional encoder and decoder of VQGAN.

Esser et al., Taming Transformers for High-Resolution Image Synthesis, CVPR 2021, as in the
authors' code. Modules have the names of that code, so that weights are found by name. Attention is
at the last level and in the middle, whatever the frames' size; the original states the same as the
resolution that 256 pixels have there.
"""

from typing import Any

import einops
import jax
from flax import linen as nn

from vmae_jax.types import Array, Float

# PyTorch's default, as in the original; it also compiles much faster than flax's default.
uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def dense(width: int, dtype: Any, name: str | None = None) -> nn.Dense:
  """The same linear layer at every position; the original has a 1 x 1 convolution."""
  return nn.Dense(width, kernel_init=uniform, dtype=dtype, name=name)


class Part(nn.Module):
  """What all modules of this file have in common."""

  groups: int
  dtype: Any

  def conv(self, width: int, name: str, *, strides: int = 1, padding: Any = 1) -> nn.Conv:
    how = dict(strides=strides, padding=padding, kernel_init=uniform, dtype=self.dtype)
    return nn.Conv(width, (3, 3), name=name, **how)

  def norm(self, name: str) -> nn.GroupNorm:
    """GroupNorm with float32 statistics and the two-pass formula for the variance."""
    how = dict(epsilon=1e-6, use_fast_variance=False, dtype=self.dtype)
    return nn.GroupNorm(self.groups, name=name, **how)

  def part(self, kind: type['Part'], name: str, *fields: Any) -> 'Part':
    return kind(self.groups, self.dtype, *fields, name=name)


class ResnetBlock(Part):
  """x + Conv(swish(Norm(Conv(swish(Norm(x)))))); if the width changes, x is projected to it."""

  width: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w _']) -> Float[Array, 'b h w d']:
    y = self.conv(self.width, 'conv1')(nn.swish(self.norm('norm1')(x)))
    y = self.conv(self.width, 'conv2')(nn.swish(self.norm('norm2')(y)))
    if x.shape[-1] != self.width:
      x = dense(self.width, self.dtype, name='nin_shortcut')(x)
    return x + y


class AttentionBlock(Part):
  """x + Attention(Norm(x)): one head over all positions."""

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
    h, d = x.shape[1], x.shape[-1]
    y = self.norm('norm')(x)
    q, k, v = (
      einops.rearrange(dense(d, self.dtype, name=name)(y), 'b h w d -> b (h w) 1 d')
      for name in ('q', 'k', 'v')
    )
    y = einops.rearrange(jax.nn.dot_product_attention(q, k, v), 'b (h w) 1 d -> b h w d', h=h)
    return x + dense(d, self.dtype, name='proj_out')(y)


class Level(Part):
  """Blocks of one resolution, each followed by attention if the level has it, then a resize."""

  width: int
  blocks: int
  attention: bool
  resize: str  # 'downsample', 'upsample' or 'none'.

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w _']) -> Float[Array, 'b h2 w2 d']:
    for i in range(self.blocks):
      x = self.part(ResnetBlock, f'block_{i}', self.width)(x)
      if self.attention:
        x = self.part(AttentionBlock, f'attn_{i}')(x)
    if self.resize == 'downsample':
      # Pads one row below and one column at the right. SAME would pad both sides if a size is odd,
      # torch's padding=1 always does.
      x = self.conv(self.width, 'downsample', strides=2, padding=((0, 1), (0, 1)))(x)
    if self.resize == 'upsample':
      x = einops.repeat(x, 'b h w d -> b (h 2) (w 2) d')
      x = self.conv(self.width, 'upsample')(x)
    return x


class Middle(Part):
  """A block, attention and a block at the lowest resolution."""

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
    x = self.part(ResnetBlock, 'block_1', x.shape[-1])(x)
    x = self.part(AttentionBlock, 'attn_1')(x)
    return self.part(ResnetBlock, 'block_2', x.shape[-1])(x)


class Encoder(Part):
  """From images in [-1, 1] to latents on a grid 2 ** (levels - 1) times smaller."""

  channels: int  # The width of a level is channels times its multiplier.
  multipliers: tuple[int, ...]  # One for each level, from the finest to the coarsest.
  blocks: int  # Residual blocks of each level.
  latent: int

  @nn.compact
  def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
    x = self.conv(self.channels, 'conv_in')(images)
    last = len(self.multipliers) - 1
    for i, multiplier in enumerate(self.multipliers):
      resize = 'none' if i == last else 'downsample'
      width = multiplier * self.channels
      x = self.part(Level, f'down_{i}', width, self.blocks, i == last, resize)(x)
    x = self.part(Middle, 'mid')(x)
    return self.conv(self.latent, 'conv_out')(nn.swish(self.norm('norm_out')(x)))


class Decoder(Part):
  """From latents to images, in [-1, 1] or a little beyond; each level has `blocks` + 1 blocks.

  Attributes are those of the encoder. Level 0 is the finest and comes last.
  """

  channels: int
  multipliers: tuple[int, ...]
  blocks: int

  @nn.compact
  def __call__(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
    last = len(self.multipliers) - 1
    x = self.conv(self.multipliers[last] * self.channels, 'conv_in')(latents)
    x = self.part(Middle, 'mid')(x)
    for i in reversed(range(last + 1)):
      resize = 'upsample' if i else 'none'
      width = self.multipliers[i] * self.channels
      x = self.part(Level, f'up_{i}', width, self.blocks + 1, i == last, resize)(x)
    return self.conv(3, 'conv_out')(nn.swish(self.norm('norm_out')(x)))
