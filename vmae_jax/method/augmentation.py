"""Augmentation of the look of clips, on the devices: colours, grey, blur, solarising.

All changes are drawn from a clip's own key, so that they do not depend on devices, batches and
restarts. All frames of a clip are changed alike: a place that does not move keeps one colour.
Order, functions and strengths are BYOL's (appendix B), as dm-pix has them: brightness is added,
contrast is relative to each channel's mean (here over all frames together), saturation and hue are
those of HSV. BYOL draws the order of these four for each image; here it is fixed, since a batch
would have to compute each of them four times.
"""

import functools
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vmae_jax.models.patches import unit_range
from vmae_jax.types import Array, Float, Key, Num

# Chances in the config's block `augment`; if all are 0, nothing is computed.
CHANCES = ('jitter', 'grey', 'blur', 'solarise')
STRENGTHS = ('brightness', 'contrast', 'saturation', 'hue')  # Strengths of the jitter.
THRESHOLD = 0.5  # Solarising inverts values from this one on.
BLUR_SHARE = 0.1  # Width of the blur's kernel, as a share of the picture's shorter side.

Images = dict[str, Num[Array, 'b ...']]


def build_augmentation(
  block: ml_collections.ConfigDict | None,
) -> Callable[[Key[Array, ' b'], Images], Images]:
  """(keys, images) -> images, with the options of a config's block `augment`.

  The block is None in the config of a run that is older than it.
  """
  if block is None or not any(block[name] for name in CHANCES):
    return lambda keys, images: images
  return functools.partial(augment, **block)


def augment(
  keys: Key[Array, ' b'],
  images: Images,
  *,
  jitter: float,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
  grey: float,
  blur: float,
  sigma: tuple[float, float],
  solarise: float,
) -> Images:
  """Changes the look of each clip, the same for all its frames.

  Args:
    keys: The keys of the clips for this purpose.
    images: Name -> 'b ... H W 3', uint8 or in [0, 1]: a clip and, if there is one, its window.
    jitter, grey, blur, solarise: The chance of each change; `jitter` is that of the colours.
    brightness: The largest amount that is added or subtracted.
    contrast, saturation: The largest distance of the factor from 1.
    hue: The largest rotation, as a share of the whole circle.
    sigma: Bounds of the blur's standard deviation in pixels.

  Returns:
    The same names and shapes, in [0, 1].
  """

  def one(key: Key[Array, ''], frames: Float[Array, 'F H W 3']) -> Float[Array, 'F H W 3']:
    chosen, amount = jnp.split(jax.random.uniform(key, (9,)), [4])
    chosen = dict(zip(CHANCES, chosen, strict=True))
    signed = 2 * amount - 1
    if jitter:
      changed = frames
      if brightness:
        changed = _clip(dm_pix.adjust_brightness(changed, brightness * signed[0]))
      if contrast:  # All frames as one tall picture, so that a still place does not flicker.
        tall = changed.reshape(-1, *changed.shape[2:])
        tall = dm_pix.adjust_contrast(tall, 1 + contrast * signed[1])
        changed = _clip(tall.reshape(changed.shape))
      if saturation:
        changed = dm_pix.adjust_saturation(changed, 1 + saturation * signed[2])
      if hue:
        changed = dm_pix.adjust_hue(changed, hue * signed[3])
      frames = jnp.where(chosen['jitter'] < jitter, changed, frames)
    if grey:
      with jax.default_matmul_precision('highest'):  # TPUs would round to bfloat16.
        changed = dm_pix.rgb_to_grayscale(frames, keep_dims=True)
      frames = jnp.where(chosen['grey'] < grey, changed, frames)
    if blur:
      width = sigma[0] + amount[4] * (sigma[1] - sigma[0])
      frames = jnp.where(chosen['blur'] < blur, gaussian_blur(frames, width), frames)
    if solarise:
      changed = dm_pix.solarize(frames, THRESHOLD)
      frames = jnp.where(chosen['solarise'] < solarise, changed, frames)
    return _clip(frames)

  images = jax.tree.map(unit_range, images)
  # All images together, so that a clip and its window have the same mean for contrast.
  rows = [x.reshape(len(x), -1, *x.shape[-3:]) for x in images.values()]
  ends = np.cumsum([x.shape[1] for x in rows])[:-1]
  changed = jnp.split(jax.vmap(one)(keys, jnp.concatenate(rows, axis=1)), ends, axis=1)
  return {name: x.reshape(images[name].shape) for name, x in zip(images, changed, strict=True)}


def gaussian_blur(
  frames: Float[Array, 'F H W C'], sigma: Float[Array, '']
) -> Float[Array, 'F H W C']:
  """Blurs each frame by a Gaussian of `sigma` pixels; beyond its edges a frame is mirrored.

  The kernel's size depends only on the picture's. Results are those of dm-pix, but its convolution
  is not used: with a kernel for each clip it has a group for each clip and channel and is many
  times slower (150 times on 8 emulated devices).
  """
  radius = blur_radius(frames.shape[1:3])
  kernel = jnp.exp(-(jnp.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
  kernel /= kernel.sum()
  for axis in (1, 2):
    size, margins = frames.shape[axis], [(0, 0)] * 4
    margins[axis] = (radius, radius)
    wide = jnp.pad(frames, margins, mode='reflect')
    shifted = (jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(2 * radius + 1))
    frames = sum(weight * x for weight, x in zip(kernel, shifted, strict=True))
  return frames


def blur_radius(size: tuple[int, ...]) -> int:
  """Pixels on each side of the kernel's middle, for pictures of (H, W): 11 for 224 x 224."""
  return max(1, round(BLUR_SHARE * min(size) / 2))


def _clip(frames: Float[Array, '*shape']) -> Float[Array, '*shape']:
  return jnp.clip(frames, 0.0, 1.0)
