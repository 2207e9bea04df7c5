"""The built-in tokenizer: each code is a typical patch, found by k-means on the user's videos.

It has VQGAN's interface, needs no weights, and is trained in under a minute on a CPU. Its codes
describe colours and edges of a patch; VQGAN's also describe textures.
"""

from typing import Any

import einops
import jax.numpy as jnp
from flax import linen as nn

from vmae_jax.frozen.vqgan import check_sides, nearest_code
from vmae_jax.types import Array, Float, Int, Int32


class PatchVQ(nn.Module):
  """Call its methods as `model.apply({'params': params}, images, method='encode')`."""

  factor: int = 8  # Pixels from one code to the next.
  codes: int = 256  # Number of codes.

  def setup(self):
    shape = (self.codes, self.factor * self.factor * 3)
    self.codebook = self.param('codebook', nn.initializers.uniform(1.0), shape)

  def config(self) -> dict[str, Any]:
    """The fields that the parameters depend on; `save_tokenizer` writes them."""
    return {'factor': self.factor, 'codes': self.codes}

  def patches(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w p']:
    """The patches of images in [0, 1]; a UserError if sides are no multiples of the factor."""
    check_sides(images, self.factor)
    return einops.rearrange(
      images, 'b (h p) (w q) C -> b h w (p q C)', p=self.factor, q=self.factor
    )

  def encode(self, images: Float[Array, 'b H W 3']) -> Int32[Array, 'b h w']:
    """The code of the nearest typical patch, for images in [0, 1]."""
    return nearest_code(self.patches(images), self.codebook)

  def decode(self, codes: Int[Array, 'b h w']) -> Float[Array, 'b H W 3']:
    """The typical patches side by side, RGB in [0, 1]."""
    images = einops.rearrange(
      self.codebook[codes], 'b h w (p q C) -> b (h p) (w q) C', p=self.factor, q=self.factor
    )
    return jnp.clip(images, 0, 1)

  def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b H W 3']:
    """Encodes and decodes images, RGB in [0, 1]."""
    return self.decode(self.encode(images))
