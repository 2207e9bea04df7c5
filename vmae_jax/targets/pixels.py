"""The pixels themselves, normalised by patch or not."""

import jax.numpy as jnp
import numpy as np

from vmae_jax import sharding
from vmae_jax.errors import lookup
from vmae_jax.models.patches import patchify, unit_range
from vmae_jax.motion.follow import Followed
from vmae_jax.types import Array, Float, Num


def normalise_patches(
  patches: Float[Array, 'b n p'], *, channels: int, eps: float
) -> Float[Array, 'b n p']:
  """Gives each token and channel zero mean and unit (unbiased) standard deviation.

  Args:
    patches: Values ordered (p_t, p_h, p_w, channel).
    channels: C.
    eps: Added to the standard deviation, in units of the patches.
  """
  count = patches.shape[-1] // channels
  if sharding.platform() != 'tpu':
    x = patches.reshape(*patches.shape[:-1], count, channels)
    # Twice: in a flat patch, the rounding error of the first mean would be all that remains.
    for _ in range(2):
      x = x - x.mean(axis=-2, keepdims=True)
    std = jnp.sqrt(jnp.square(x).sum(axis=-2, keepdims=True) / (count - 1))
    return (x / (std + eps)).reshape(patches.shape)
  # No axis for channels: it would fill 3 of a TPU's 128 lanes.
  mine = [np.arange(patches.shape[-1]) % channels == c for c in range(channels)]

  def sums(x):
    return [jnp.where(m, x, 0).sum(-1, keepdims=True) for m in mine]

  def back(each):
    return sum(jnp.where(m, y, 0) for m, y in zip(mine, each, strict=True))

  x = patches - back([s / count for s in sums(patches)])
  rest, squares = sums(x), sums(jnp.square(x))  # The rest of the mean, as above.
  # In a flat patch, rounding could make this negative.
  left = [jnp.maximum(s - r * r / count, 0) for s, r in zip(squares, rest, strict=True)]
  std = [jnp.sqrt(s / (count - 1)) for s in left]
  return (x - back([r / count for r in rest])) * back([1 / (s + eps) for s in std])


# (patches, channels, eps of `patch`, scale of `global`) -> normalised patches.
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
  """Pixels of each token, normalised over the patch for each channel, as in VideoMAE.

  Args:
    clip, followed, patch: See `TARGETS`.
    normalise: `patch`, `global` or `none`.
    eps: With `patch`: added to a patch's standard deviation (1e-6 in VideoMAE). A larger value, in
      units of intensity, amplifies the noise of flat patches less.
    scale: With `global`: pixels are divided by it.

  Source: VideoMAE section 3; papers' released code, `engine_for_pretraining.py`.
  """
  function = lookup(NORMALISATIONS, normalise, 'target pixels, normalise')
  patches = unit_range(patchify(clip, patch=patch))
  return function(patches, channels=clip.shape[-1], eps=eps, scale=scale)
