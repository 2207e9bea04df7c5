"""The pixels themselves, each patch normalised or raw."""

import functools

import jax.numpy as jnp

from vmae_jax import sharding
from vmae_jax.errors import lookup
from vmae_jax.models.patches import patchify, unit_range
from vmae_jax.motion.follow import Followed
from vmae_jax.types import Array, Float, Num


def normalise_patches(
  patches: Float[Array, 'b n p'], *, channels: int, eps: float
) -> Float[Array, 'b n p']:
  """Zero mean and unit (unbiased) standard deviation for each token and channel.

  Args:
    patches: Values ordered (p_t, p_h, p_w, channel).
    channels: C.
    eps: Added to the standard deviation, in units of the patches.
  """
  count = patches.shape[-1] // channels
  if sharding.platform() != 'tpu':
    x = patches.reshape(*patches.shape[:-1], count, channels)
    for _ in range(2):  # What rounding leaves of the mean would be all there is in a flat patch.
      x = x - x.mean(axis=-2, keepdims=True)
    std = jnp.sqrt(jnp.square(x).sum(axis=-2, keepdims=True) / (count - 1))
    return (x / (std + eps)).reshape(patches.shape)
  # Sums over a channel's values, and back to all of them, as products with zeros and ones: an axis
  # of three channels would fill 3 of a TPU's 128 lanes.
  mine = jnp.tile(jnp.eye(channels), (count, 1))
  dot = functools.partial(jnp.matmul, precision='highest')
  x = patches
  for _ in range(2):  # As above.
    x = x - dot(dot(x, mine) / count, mine.T)
  std = jnp.sqrt(dot(jnp.square(x), mine) / (count - 1))
  return x / (dot(std, mine.T) + eps)


# (patches, channels, eps of a patch's deviation, scale of all) -> patches.
NORMALISATIONS = {
  'patch': lambda patches, *, channels, eps, scale: normalise_patches(
    patches, channels=channels, eps=eps
  ),
  'global': lambda patches, *, channels, eps, scale: patches / scale,
  'none': lambda patches, *, channels, eps, scale: patches,
}


def pixels(
  clip: Num[Array, 'b T H W C'],
  followed: Followed | None,
  *,
  patch: tuple[int, int, int],
  normalise: str = 'patch',
  eps: float = 1e-6,
  scale: float = 0.225,
) -> Float[Array, 'b n p']:
  """Pixels of each token, per channel normalised over the patch as VideoMAE does.

  Args:
    clip: uint8, or floats in [0, 1].
    followed: Not used.
    patch: Size of a patch in frames, rows and columns.
    normalise: `patch`, `global` or `none`.
    eps: Added to a patch's standard deviation (1e-6 in VideoMAE). A larger one, in units of
      intensity, keeps noise in flat patches from being blown up.
    scale: With `global`: what all pixels are divided by.

  Source: VideoMAE section 3; papers' released code, `engine_for_pretraining.py`.
  """
  function = lookup(NORMALISATIONS, normalise, 'target pixels, normalise')
  patches = unit_range(patchify(clip, patch=patch))
  return function(patches, channels=clip.shape[-1], eps=eps, scale=scale)
