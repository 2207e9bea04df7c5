"""Augmentation of fine-tuning on the devices: erased boxes, mixed clips, smoothed labels.

All random numbers are drawn from the keys of single clips, so that they do not depend on devices
and parts of a batch. The papers' scripts draw one ratio and one kind of mixing for a whole batch;
here each clip has its own (timm's mode `elem`).
"""

import jax
import jax.numpy as jnp

from vmae_jax.sharding import constrain_batch
from vmae_jax.types import Array, Bool, Float, Int, Key

Size = tuple[int, int]  # Rows and columns.
Side = Float[Array, ''] | Int[Array, '']


def pair(batch: dict[str, Array]) -> dict:
  """Adds `other`, the clips that those of the batch may be mixed with: the same in reverse order.

  Clips are paired before a batch is split into parts, so that pairs do not depend on the parts.
  """
  names = ('video', 'label', 'epoch', 'sample', 'repeat')
  return batch | {'other': {name: constrain_batch(batch[name][::-1]) for name in names}}


def _box(top: Side, left: Side, height: Side, width: Side, size: Size) -> Bool[Array, 'H W']:
  """True inside the box."""
  y, x = jnp.arange(size[0])[:, None], jnp.arange(size[1])
  return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def erase(
  keys: Key[Array, ' b'], clip: Float[Array, 'b T H W C'], *, chance: float
) -> Float[Array, 'b T H W C']:
  """Random erasing, mode `pixel`: fills a box, the same in all frames, with noise for each pixel.

  The box covers 2 % to a third of the picture, with an aspect of 0.3 to 1 / 0.3; the first of ten
  tries that fits is taken.

  Args:
    keys: The keys of the clips.
    clip: Normalised clips.
    chance: Probability that a clip has a box.
  """
  if not chance:
    return clip
  size = clip.shape[2:4]

  def one(key, clip):
    shape, place, noise = jax.random.split(key, 3)
    area, aspect = jax.random.uniform(shape, (2, 10))
    area = (0.02 + area * (1 / 3 - 0.02)) * size[0] * size[1]
    aspect = jnp.exp(jnp.log(0.3) * (1 - 2 * aspect))
    height, width = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (height < size[0]) & (width < size[1])
    first = jnp.argmax(fits)
    height, width = height[first], width[first]
    y, x, wanted = jax.random.uniform(place, (3,))
    top = jnp.floor(y * (size[0] - height + 1))
    left = jnp.floor(x * (size[1] - width + 1))
    box = _box(top, left, height, width, size) & fits[first] & (wanted < chance)
    return jnp.where(box[..., None], jax.random.normal(noise, clip.shape), clip)

  return jax.vmap(one)(keys, clip)


def own_share(
  keys: Key[Array, ' b'], size: Size, *, chance: float, mixup: float, cutmix: float, switch: float
) -> Float[Array, 'b H W']:
  """The clip's own share in each pixel: one number (mixup), or 0 in a box and 1 outside (cutmix).

  Args:
    keys: The keys of the clips.
    size: Size of the picture.
    chance: Probability that a clip is mixed.
    mixup: alpha of the Beta distribution of the share; 0: no mixup.
    cutmix: The same for the share outside the box, whose centre is drawn uniformly.
    switch: Probability of cutmix if both are on.
  """
  switch = switch if mixup and cutmix else float(cutmix > 0)

  def one(key):
    choice, share = jax.random.split(key)
    y, x, cut, mixed = jax.random.uniform(choice, (4,))
    cut = cut < switch
    alpha = jnp.where(cut, cutmix or 1.0, mixup or 1.0)
    share = jax.random.beta(share, alpha, alpha)
    height, width = (jnp.floor(n * jnp.sqrt(1 - share)) for n in size)
    y, x = jnp.floor(y * size[0]), jnp.floor(x * size[1])
    # The picture's edges may cut off a part of the box, so that its share is smaller.
    box = _box(y - height // 2, x - width // 2, height // 2 * 2, width // 2 * 2, size)
    own = jnp.where(cut, 1.0 - box, share)
    return jnp.where(mixed < chance, own, 1.0)

  return jax.vmap(one)(keys)


def smoothed(labels: Int[Array, ' b'], *, classes: int, smoothing: float) -> Float[Array, 'b c']:
  """Targets: 1 - smoothing for the label's class, plus smoothing / classes for every class."""
  return jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
