"""The encoder: from visible patches to latents."""

import flax.linen as nn
import jax.numpy as jnp

from vmae_jax.models.blocks import Blocks, Shared, layer_norm
from vmae_jax.models.patches import normalise, patchify, token_grid, unit_range
from vmae_jax.models.positions import interpolated_positions, sincos_positions
from vmae_jax.types import Array, Float, Int, Num


def gather(x: Num[Array, 'b n d'], index: Int[Array, 'b k']) -> Num[Array, 'b k d']:
  """The tokens of each clip at `index`; devices need not communicate for it."""
  return jnp.take_along_axis(x, index[..., None], axis=1)


def torch_uniform(fan_in: int):
  """PyTorch's default for linear and convolution layers: U(-1, 1) / sqrt(fan_in)."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return nn.initializers.uniform(2 * bound)(key, shape, dtype) - bound

  return init


class Encoder(Shared):
  """Tubelet embedding, fixed positions, blocks and a last LayerNorm.

  The embedding is a Dense on flattened patches, which equals VideoMAE's strided convolution but is
  computed for visible tokens alone.
  """

  width: int
  depth: int
  heads: int
  mlp: int
  patch: tuple[int, int, int] = (2, 16, 16)  # Size of a patch in frames, rows and columns.
  # Whether there is a last LayerNorm; a classifier has one after pooling instead.
  final_norm: bool = True
  # Mean and deviation of each channel, by which clips are normalised; None: they already are.
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  # None computes the table of positions for the clip's own tokens; (t, h, w) interpolates the table
  # of a clip of that many tokens.
  position_grid: tuple[int, int, int] | None = None

  @nn.compact
  def __call__(
    self,
    video: Num[Array, 'b T H W C'],
    visible: Int[Array, 'b k'] | None = None,
    keep: Float[Array, 'depth 2 b'] | None = None,
  ) -> Float[Array, 'b k d']:
    """Latents of the visible tokens, in the order of `visible`; of all tokens without it.

    Args:
      video: Clips in uint8 or floats in [0, 1]; already normalised clips if `mean` is None.
      visible: Token indices, or None for all.
      keep: Factors of the blocks' branches, see `drop_path`.
    """
    x = patchify(video, patch=self.patch)
    if self.position_grid is None:
      positions = jnp.asarray(sincos_positions(x.shape[1], self.width))
    else:
      grid = token_grid(video.shape[1:4], self.patch)
      table = interpolated_positions(grid, trained=self.position_grid, d=self.width)
      positions = jnp.asarray(table)
    if visible is not None:
      x, positions = gather(x, visible), positions[visible]
    x = unit_range(x)
    if self.mean is not None:
      x = normalise(x, mean=self.mean, std=self.std)
    init = torch_uniform(x.shape[-1])
    x = nn.Dense(self.width, kernel_init=init, bias_init=init, dtype=self.dtype, name='embed')(x)
    x = x + positions.astype(self.dtype)
    x = Blocks(self.depth, self.heads, self.mlp, **self.shared, name='blocks')(x, keep)
    if self.final_norm:
      x = layer_norm(eps=self.eps, dtype=self.dtype, name='norm')(x)
    return x
