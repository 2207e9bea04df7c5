"""Encoder and decoders wired into a masked autoencoder."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax.core import FrozenDict

from vmae_jax.models.decoder import Decoder, Output, each_decoder
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.patches import token_grid
from vmae_jax.types import Array, Float, Int, Num


class MaskedAutoencoder(nn.Module):
  """Predicts, for each head, something about the masked tokens from the visible ones.

  Attributes:
    encoder: Keyword arguments of `Encoder`.
    decoder: Keyword arguments of `Decoder` but for its heads.
    heads: Head -> what it predicts, and by which decoder.
    common: Keyword arguments of both, see `Shared`.
    own: Decoder -> arguments that it has in place of those in `decoder`.
  """

  encoder: Mapping[str, Any]
  decoder: Mapping[str, Any]
  heads: Mapping[str, Output]
  common: Mapping[str, Any]
  own: Mapping[str, Mapping[str, Any]] = FrozenDict()

  @nn.compact
  def __call__(
    self,
    video: Num[Array, 'b T H W C'],
    visible: Int[Array, 'b k'],
    masked: Int[Array, 'b m'],
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions at the masked tokens, in the order of `masked`, in float32.

    Args:
      video: A clip as the encoder takes it.
      visible: Tokens that the encoder sees.
      masked: Tokens to predict.
    """
    latents = Encoder(**self.encoder, **self.common, name='encoder')(video, visible)
    tokens = math.prod(token_grid(video.shape[1:4], self.encoder['patch']))

    def decode(name, outputs):
      sizes = {**self.decoder, **self.own.get(name, {})}
      decoder = Decoder(**sizes, **self.common, outputs=outputs, name=name)
      return decoder(latents, visible, masked, tokens=tokens)

    return each_decoder(self.heads, decode)
