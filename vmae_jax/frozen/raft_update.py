"""RAFT's recurrent update of the flow, and its two ways of upsampling the flow."""

from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vmae_jax.frozen.raft_correlation import hat
from vmae_jax.frozen.raft_encoder import conv
from vmae_jax.types import Array, Float


class Gru(nn.Module):
  """A convolutional gated recurrent unit."""

  kernel: tuple[int, int]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, hidden: Float[Array, 'b h w d'], x: Float[Array, 'b h w _']
  ) -> Float[Array, 'b h w d']:
    def layer(state, name):
      layer = conv(hidden.shape[-1], self.kernel, dtype=self.dtype, name=name)
      return layer(jnp.concatenate([state, x], axis=-1))

    update, reset = nn.sigmoid(layer(hidden, 'z')), nn.sigmoid(layer(hidden, 'r'))
    return (1 - update) * hidden + update * nn.tanh(layer(reset * hidden, 'q'))


class Update(nn.Module):
  """One iteration: from correlations, flow and context to hidden state and change of the flow."""

  corr: tuple[int, ...]  # Widths of the layers on the correlations: 1x1, then 3x3.
  flow: tuple[int, int]  # Widths of the layers on the flow: 7x7 and 3x3.
  motion: int  # Width of the layer on both together.
  kernels: tuple[tuple[int, int], ...]  # Kernels of the recurrent units.
  head: int  # Width of the layer before the change of the flow.
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    hidden: Float[Array, 'b h w d'],
    context: Float[Array, 'b h w _'],
    correlations: Float[Array, 'b h w l'],
    flow: Float[Array, 'b h w 2'],
  ) -> tuple[Float[Array, 'b h w d'], Float[Array, 'b h w 2']]:
    def layer(width, kernel, name, x):
      return conv(width, kernel, dtype=self.dtype, name=name)(x)

    similar, moved = correlations.astype(self.dtype), flow.astype(self.dtype)
    for i, (width, kernel) in enumerate(zip(self.corr, (1, 3), strict=False), 1):
      similar = nn.relu(layer(width, kernel, f'corr{i}', similar))
    for i, (width, kernel) in enumerate(zip(self.flow, (7, 3), strict=True), 1):
      moved = nn.relu(layer(width, kernel, f'flow{i}', moved))
    motion = nn.relu(layer(self.motion, 3, 'motion', jnp.concatenate([similar, moved], axis=-1)))
    x = jnp.concatenate([context, motion, flow.astype(self.dtype)], axis=-1)
    for i, kernel in enumerate(self.kernels, 1):
      hidden = Gru(kernel, self.dtype, name=f'gru{i}')(hidden, x)
    y = nn.relu(layer(self.head, 3, 'head1', hidden))
    return hidden, layer(2, 3, 'head2', y).astype(jnp.float32)


class ConvexMask(nn.Module):
  """For each pixel at full size, the scores of its nine coarse neighbours."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, hidden: Float[Array, 'b h w d']) -> Float[Array, 'b h w 576']:
    y = nn.relu(conv(256, 3, dtype=self.dtype, name='layer1')(hidden))
    # The trained weights expect this factor, which balances gradients in training.
    return 0.25 * conv(576, 1, dtype=self.dtype, name='layer2')(y).astype(jnp.float32)


def upsample_convex(
  flow: Float[Array, 'b h w 2'], scores: Float[Array, 'b h w 576']
) -> Float[Array, 'b H W 2']:
  """Flow at eight times the size: each pixel is a convex combination of 3 x 3 coarse flows."""
  h, w = flow.shape[1:3]
  padded = jnp.pad(8 * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
  around = [padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)]
  scores = einops.rearrange(scores, 'b h w (k y x) -> b h w k y x', k=9, y=8)
  weights = jax.nn.softmax(scores, axis=3)
  fine = jnp.einsum('kbhwc,bhwkyx->bhywxc', jnp.stack(around), weights, precision='highest')
  return einops.rearrange(fine, 'b h y w x c -> b (h y) (w x) c')


def upsample_bilinear(flow: Float[Array, 'b h w 2']) -> Float[Array, 'b H W 2']:
  """Flow at eight times the size, bilinear; corner samples of both grids coincide."""
  h, w = flow.shape[1:3]
  y, x = (hat(jnp.linspace(0.0, n - 1, 8 * n), n) for n in (h, w))
  return 8 * jnp.einsum('bhwc,Hh,Ww->bHWc', flow, y, x, precision='highest')
