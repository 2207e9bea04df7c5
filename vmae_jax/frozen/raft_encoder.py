"""RAFT's convolutional encoder: from a frame to a map of an eighth of its size."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vmae_jax.types import Array, Float


def conv(
  width: int, kernel: int | tuple[int, int], *, stride: int = 1, dtype: Any, name: str
) -> nn.Conv:
  """A convolution padded by half its kernel on both sides, as in the trained RAFT.

  With stride 2, 'SAME' would pad frames of even size on one side only.
  """
  kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
  padding = [(k // 2, k // 2) for k in kernel]
  return nn.Conv(width, kernel, strides=stride, padding=padding, dtype=dtype, name=name)


def instance_norm(x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
  """Gives each channel zero mean and unit variance over the map; statistics are float32."""
  y = x.astype(jnp.float32)
  y -= y.mean(axis=(1, 2), keepdims=True)
  y *= jax.lax.rsqrt(jnp.square(y).mean(axis=(1, 2), keepdims=True) + 1e-5)
  return y.astype(x.dtype)


class Affine(nn.Module):
  """A frozen BatchNorm, whose weights and running statistics make one scale and one bias."""

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    return (x * scale + bias).astype(x.dtype)


class ConvNormRelu(nn.Module):
  """A convolution, a norm ('instance', 'batch' or 'none') and a ReLU if `relu`."""

  width: int
  kernel: int
  norm: str
  stride: int = 1
  relu: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b _ _ _']) -> Float[Array, 'b h w d']:
    x = conv(self.width, self.kernel, stride=self.stride, dtype=self.dtype, name='conv')(x)
    if self.norm == 'instance':
      x = instance_norm(x)
    elif self.norm == 'batch':
      x = Affine(name='norm')(x)
    return nn.relu(x) if self.relu else x


class Block(nn.Module):
  """A residual block of two 3x3 convolutions or, with a bottleneck, of 1x1, 3x3 and 1x1."""

  width: int
  norm: str
  bottleneck: bool
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b _ _ _']) -> Float[Array, 'b h w d']:
    def layer(width, kernel, name, stride=1, relu=True):
      return ConvNormRelu(width, kernel, self.norm, stride, relu, self.dtype, name=name)

    if self.bottleneck:
      y = layer(self.width // 4, 1, 'layer1')(x)
      y = layer(self.width // 4, 3, 'layer2', self.stride)(y)
      y = layer(self.width, 1, 'layer3')(y)
    else:
      y = layer(self.width, 3, 'layer1', self.stride)(x)
      y = layer(self.width, 3, 'layer2')(y)
    if self.stride != 1:
      x = layer(self.width, 1, 'skip', self.stride, relu=False)(x)
    # y already is the output of a ReLU, as in the trained RAFT.
    return nn.relu(x + y)


class FrameEncoder(nn.Module):
  """A stem, three stages of two blocks, and a linear map to the output's width."""

  widths: tuple[int, int, int, int]  # Widths of the stem and of the three stages.
  out: int
  norm: str  # 'instance', 'batch' (frozen) or 'none'.
  bottleneck: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
    stem, *stages = self.widths
    x = ConvNormRelu(stem, 7, self.norm, 2, dtype=self.dtype, name='stem')(frames)
    for i, width in enumerate(stages, 1):
      for j in range(2):
        stride = 2 if i > 1 and j == 0 else 1
        name = f'stage{i}_{j}'
        x = Block(width, self.norm, self.bottleneck, stride, self.dtype, name=name)(x)
    return conv(self.out, 1, dtype=self.dtype, name='out')(x)
