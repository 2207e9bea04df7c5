"""VQGAN: from frames to a grid of codes and back.

Esser et al., Taming Transformers for High-Resolution Image Synthesis, CVPR 2021. The defaults
are those of the authors' ImageNet model with 1024 codes and a factor of 16.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from vmae_jax.errors import UserError, check_name
from vmae_jax.frozen.coder import Decoder, Encoder, dense
from vmae_jax.types import Array, Float, Int, Int32

QUANTIZERS = ('nearest', 'gumbel')


def nearest_code(
  vectors: Float[Array, '*s e'], codebook: Float[Array, 'c e']
) -> Int32[Array, '*s']:
  """The index of the nearest code, by Euclidean distance in float32."""
  vectors, codebook = vectors.astype(jnp.float32), codebook.astype(jnp.float32)
  # By default accelerators multiply with 8 bits of mantissa, too few to tell similar codes apart.
  products = jnp.matmul(vectors, codebook.T, precision=lax.Precision.HIGHEST)
  # |vector|^2 is left out, as it is the same for all codes.
  return jnp.argmin(jnp.square(codebook).sum(-1) - 2 * products, axis=-1).astype(jnp.int32)


def check_sides(images: Float[Array, 'b H W 3'], factor: int) -> None:
  """Raises a UserError unless the images' sides are multiples of `factor` pixels."""
  height, width = images.shape[1:3]
  if height % factor or width % factor:
    raise UserError(
      f'the tokenizer makes a code of {factor} x {factor} pixels, which do not fill frames of '
      f'{height} x {width}: choose multiples of {factor}.'
    )


class VQGAN(nn.Module):
  """Call its methods as `model.apply({'params': params}, images, method='encode')`."""

  # The width of a level is channels times its multiplier; channels is a multiple of `groups`.
  channels: int = 128
  # One for each level, from the finest to the coarsest; each level but the last halves the sides.
  multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
  res_blocks: int = 2  # Residual blocks of each level (one more in the decoder).
  latent: int = 256  # Width of the encoder's output and the decoder's input.
  embed: int = 256  # Width of a code's vector.
  codes: int = 1024
  # 'nearest' (the original's VQModel) or 'gumbel' (GumbelVQ), in which a layer scores codes.
  quantizer: str = 'nearest'
  groups: int = 32  # Groups of each GroupNorm; 32 in the original.
  dtype: Any = jnp.float32  # Of convolutions and matrix products; scores of codes are float32.

  def setup(self):
    check_name(self.quantizer, QUANTIZERS, 'quantizer')
    shared = (self.groups, self.dtype, self.channels, self.multipliers, self.res_blocks)
    self.encoder = Encoder(*shared, self.latent)
    self.quant_conv = dense(self.embed, self.dtype)
    init = nn.initializers.normal(1.0)
    self.codebook = self.param('codebook', init, (self.codes, self.embed))
    if self.quantizer == 'gumbel':
      self.code_logits = nn.Dense(self.codes, precision=lax.Precision.HIGHEST)
    self.post_quant_conv = dense(self.latent, self.dtype)
    self.decoder = Decoder(*shared)

  @property
  def factor(self) -> int:
    """Pixels from one code to the next."""
    return 2 ** (len(self.multipliers) - 1)

  def config(self) -> dict[str, Any]:
    """The fields that the parameters depend on; `save_tokenizer` writes them."""
    names = {field.name for field in dataclasses.fields(self)} - {'parent', 'name', 'dtype'}
    return {name: getattr(self, name) for name in sorted(names)}

  def pre_quant(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w e']:
    """The vectors to quantise, of images in [0, 1]; raises as `check_sides` does."""
    check_sides(images, self.factor)
    return self.quant_conv(self.encoder(2 * images - 1))

  def encode(self, images: Float[Array, 'b H W 3']) -> Int32[Array, 'b h w']:
    """The codes of images, RGB in [0, 1].

    Gumbel models take the code with the highest score. The original samples codes, in evaluation
    too, so that the same image would have another target each time.
    """
    vectors = self.pre_quant(images).astype(jnp.float32)
    if self.quantizer == 'nearest':
      return nearest_code(vectors, self.codebook)
    return jnp.argmax(self.code_logits(vectors), axis=-1).astype(jnp.int32)

  def decode_vectors(self, vectors: Float[Array, 'b h w e']) -> Float[Array, 'b H W 3']:
    """Images from vectors of codes, in [0, 1] or a little beyond."""
    return (self.decoder(self.post_quant_conv(vectors)).astype(jnp.float32) + 1) / 2

  def decode(self, codes: Int[Array, 'b h w']) -> Float[Array, 'b H W 3']:
    """The images of codes, RGB in [0, 1]."""
    return jnp.clip(self.decode_vectors(self.codebook[codes]), 0, 1)

  def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b H W 3']:
    """Encodes and decodes images, RGB in [0, 1]."""
    return self.decode(self.encode(images))
