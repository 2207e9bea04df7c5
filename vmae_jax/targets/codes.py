"""Codes of a frozen tokenizer: the appearance target of MAM2."""

from collections.abc import Callable

import einops
import jax

from vmae_jax.errors import lookup
from vmae_jax.models.patches import unit_range
from vmae_jax.motion.follow import Followed
from vmae_jax.targets.target import needs
from vmae_jax.types import Array, Int, Num

# Name -> the frames of a time slot that are tokenised.
FRAMES = {'first': slice(0, 1), 'last': slice(-1, None), 'both': slice(None)}


@needs('tokenizer')
def codes(
  clip: Num[Array, 'b T H W C'],
  followed: Followed | None,
  *,
  patch: tuple[int, int, int],
  encode: Callable[[Array], Array],
  factor: int,
  frames: str = 'first',
) -> Int[Array, 'b n f']:
  """The code of each patch in one frame of its time slot, or in all of them.

  Frames are resized so that the tokenizer gives one code for each patch: from 224 x 224 to 112 x
  112 for patches of 16 and a tokenizer that halves three times (as in CAE). They are not resized if
  the tokenizer's factor is the patch's side.

  Args:
    clip, followed, patch: See `TARGETS`.
    encode: The tokenizer: frames 'q H W C' in [0, 1] -> codes Int 'q h w'.
    factor: Rows (and columns) of its frames for each row (and column) of its codes.
    frames: `first`, `last` or `both` frames of a slot (`both` means all if it has more than two).
      The default is our choice: first frame and frame differences determine the whole slot.

  Source: MAM2 predicts the codes of a VQGAN; of which frames and at which size is not known.
  """
  pt, ph, pw = patch
  place = lookup(FRAMES, frames, 'target codes, frames')
  slots = einops.rearrange(unit_range(clip), 'b (t pt) H W C -> b t pt H W C', pt=pt)[:, :, place]
  b, t, f, H, W, C = slots.shape
  size = H // ph * factor, W // pw * factor
  images = slots.reshape(b * t * f, H, W, C)
  if size != (H, W):
    images = jax.image.resize(images, (b * t * f, *size, C), 'lanczos3').clip(0, 1)
  return einops.rearrange(encode(images), '(b t f) h w -> b (t h w) f', b=b, t=t)
