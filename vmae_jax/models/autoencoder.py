"""Encoder and decoders wired into a masked autoencoder."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vmae_jax.models.decoder import Decoder, Output
from vmae_jax.models.encoder import Encoder
from vmae_jax.types import Array, Float, Int


class MaskedAutoencoder(nn.Module):
  """Predicts, for each head, something about the masked tokens from the visible ones.

  Attributes:
    encoder: Keyword arguments of `Encoder`.
    decoder: Keyword arguments of `Decoder` but for its heads.
    heads: Head -> what it predicts, and by which decoder.
    common: Keyword arguments of both: eps, dtype, implementation, scan, remat.
  """

  encoder: Mapping[str, Any]
  decoder: Mapping[str, Any]
  heads: Mapping[str, Output]
  common: Mapping[str, Any]

  @nn.compact
  def __call__(
    self,
    video: Float[Array, 'b T H W C'],
    visible: Int[Array, 'b k'],
    masked: Int[Array, 'b m'],
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions at the masked tokens, in the order of `masked`, in float32.

    Args:
      video: A normalised clip.
      visible: Tokens that the encoder sees.
      masked: Tokens to predict.
    """
    latents = Encoder(**self.encoder, **self.common, name='encoder')(video, visible)
    pt, ph, pw = self.encoder['patch']
    _, T, H, W, _ = video.shape
    tokens = (T // pt) * (H // ph) * (W // pw)
    predictions = {}
    for name in dict.fromkeys(output.decoder for output in self.heads.values()):
      outputs = {head: output for head, output in self.heads.items() if output.decoder == name}
      decoder = Decoder(**self.decoder, **self.common, outputs=outputs, name=name)
      predictions |= decoder(latents, visible, masked, tokens=tokens)
    return {name: x.astype(jnp.float32) for name, x in predictions.items()}
