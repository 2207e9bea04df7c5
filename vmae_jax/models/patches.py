"""From a clip to its patches and back, in the package's one token layout."""

import einops
import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax import sharding
from vmae_jax.errors import UserError
from vmae_jax.types import Array, Float, Num, UInt8


def token_grid(video_shape: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[int, ...]:
  """Tokens (t, h, w) of a clip of (T, H, W); a UserError if the patch does not divide a side."""
  for name, size, step in zip(('frames', 'height', 'width'), video_shape, patch, strict=True):
    if size % step:
      below = size // step * step
      near = f'{below} or {below + step}' if below else f'{step}'
      raise UserError(
        f'{name} {size} is no multiple of the patch, {step}: choose {near}, or another '
        'model.patch (frames, height, width).'
      )
  return tuple(size // step for size, step in zip(video_shape, patch, strict=True))


def patchify(video: Num[Array, 'b T H W C'], *, patch: tuple[int, int, int]) -> Num[Array, 'b n p']:
  """Cuts a clip into patches: token (t * h + y) * w + x, values (p_t, p_h, p_w, C)."""
  pt, ph, pw = patch
  if video.dtype == jnp.uint8 and sharding.platform() == 'tpu':
    return _cut_bytes(video, patch)
  return einops.rearrange(
    video, 'b (t pt) (h ph) (w pw) C -> b (t h w) (pt ph pw C)', pt=pt, ph=ph, pw=pw
  )


def _cut_bytes(video: UInt8[Array, 'b T H W C'], patch: tuple[int, int, int]):
  """`patchify` for a TPU, which stores channels apart and moves single bytes slowly.

  A product with zeros and ones puts the channels of a row side by side and takes less than half of
  the cycles. It is exact, since bfloat16 holds all values of uint8.
  """
  (pt, ph, pw), (w, c) = patch, video.shape[-2:]
  places = jnp.eye(w * c, dtype=jnp.bfloat16).reshape(w, c, -1)
  rows = jnp.einsum('bTHWC,WCl->bTHl', video.astype(jnp.bfloat16), places).astype(jnp.uint8)
  patches = einops.rearrange(
    rows, 'b (t pt) (h ph) (w q) -> b (t h w) (pt ph q)', pt=pt, ph=ph, q=pw * c
  )
  # Otherwise the compiler would convert to float first, four times as many bytes to move, and cut
  # the clip once for each use.
  return jax.lax.optimization_barrier(patches)


def unpatchify(
  patches: Num[Array, 'b n p'], *, patch: tuple[int, int, int], grid: tuple[int, int, int]
) -> Num[Array, 'b T H W C']:
  """Puts patches back together: the inverse of `patchify`."""
  (pt, ph, pw), (t, h, w) = patch, grid
  sizes = dict(pt=pt, ph=ph, pw=pw, t=t, h=h, w=w)
  return einops.rearrange(patches, 'b (t h w) (pt ph pw C) -> b (t pt) (h ph) (w pw) C', **sizes)


def unit_range(video: Num[Array, '*b C']) -> Float[Array, '*b C']:
  """RGB in [0, 1]: uint8 is divided by 255, floats are left as they are."""
  return video.astype(jnp.float32) / 255 if video.dtype == jnp.uint8 else video


def normalise(
  video: Float[Array, '*b C'], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, '*b C']:
  """Frames or patches in [0, 1], normalised by the mean and the deviation of each channel."""
  values = video.shape[-1] // len(mean)  # Of each channel, in a patch.
  return (video - np.tile(mean, values)) / np.tile(std, values)
