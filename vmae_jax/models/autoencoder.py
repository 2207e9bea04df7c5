"""Two autoencoders: one of an encoder and decoders, and MAM2's, with a regressor between them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from vmae_jax.models.blocks import layer_norm, xavier
from vmae_jax.models.decoder import Decoder, LatentDecoder, Output
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.patches import token_grid
from vmae_jax.models.positions import sincos_positions
from vmae_jax.models.regressor import Regressor
from vmae_jax.types import Array, Float, Int, Num


class Autoencoder(nn.Module):
  """What both autoencoders have in common."""

  encoder: Mapping[str, Any]  # Keyword arguments of `Encoder`.
  decoder: Mapping[str, Any]  # Keyword arguments of the decoders, without their heads.
  heads: Mapping[str, Output]  # Head -> what it predicts, and by which decoder.
  common: Mapping[str, Any]  # Keyword arguments of all parts, see `Shared`.
  # Decoder -> arguments that replace those in `decoder`.
  own: Mapping[str, Mapping[str, Any]] = FrozenDict()

  def _decoders(
    self, kind: type[nn.Module], predict: Callable[[Any], dict[str, Array]]
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions of all heads in float32; decoders are of class `kind`, `predict` calls each."""
    predictions = {}
    for name in dict.fromkeys(output.decoder for output in self.heads.values()):
      outputs = {head: o for head, o in self.heads.items() if o.decoder == name}
      sizes = {**self.decoder, **self.own.get(name, {})}
      predictions |= predict(kind(**sizes, **self.common, outputs=outputs, name=name))
    return {head: x.astype(jnp.float32) for head, x in predictions.items()}


class MaskedAutoencoder(Autoencoder):
  """Predicts, for each head, something about the masked tokens from the visible ones."""

  @nn.compact
  def __call__(
    self, video: Num[Array, 'b T H W C'], visible: Int[Array, 'b k'], masked: Int[Array, 'b m']
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions at the masked tokens, in the order of `masked`, in float32.

    Args:
      video: Clips as the encoder takes them.
      visible: Tokens that the encoder sees.
      masked: Tokens to predict: all hidden ones or some of them.
    """
    latents = Encoder(**self.encoder, **self.common, name='encoder')(video, visible)
    tokens = math.prod(token_grid(video.shape[1:4], self.encoder['patch']))
    return self._decoders(Decoder, lambda decoder: decoder(latents, visible, masked, tokens=tokens))


class RegressedAutoencoder(Autoencoder, kw_only=True):
  """Regresses the latents of masked tokens, aligns them with targets, and decodes them.

  The encoder sees the visible tokens. From its latents, the regressor predicts the latents of the
  masked tokens. Decoders see only these, so that the encoder, and no decoder, describes the video.
  The target latents come from the same encoder, applied to the masked tokens alone, without
  gradient. If the regressor's width differs from the encoder's, one projection with a norm leads
  from one to the other.

  It sows `alignment` in the collection `losses`: the mean squared difference between regressed
  and target latents, Float 'b m'.

  Source: MAM2 (Song et al., 2022); details from Context Autoencoder, on which it builds.
  """

  regressor: Mapping[str, Any]  # Keyword arguments of `Regressor`.
  align: bool = True  # False: no target latents are computed, and nothing is sown.

  @nn.compact
  def __call__(
    self, video: Num[Array, 'b T H W C'], visible: Int[Array, 'b k'], masked: Int[Array, 'b m']
  ) -> dict[str, Float[Array, 'b m _']]:
    """As in `MaskedAutoencoder`."""
    width, dtype = self.regressor['width'], self.common['dtype']
    encoder = Encoder(**self.encoder, **self.common, name='encoder')
    latents = encoder(video, visible)
    own_width = width == self.encoder['width']
    if not own_width:
      project = nn.Dense(width, kernel_init=xavier, dtype=dtype, name='from_encoder')
      norm = layer_norm(eps=self.common['eps'], dtype=dtype, name='from_encoder_norm')
      latents = norm(project(latents))

    tokens = math.prod(token_grid(video.shape[1:4], self.encoder['patch']))

    def positions_of(width):
      return jnp.asarray(sincos_positions(tokens, width)).astype(dtype)

    positions = positions_of(width)
    regressed = Regressor(**self.regressor, **self.common, name='regressor')(
      latents, positions[visible], positions[masked]
    )
    if self.align:
      # This cuts the gradient at the parameters, so that nothing is kept for a backward pass.
      frozen = jax.lax.stop_gradient(encoder.variables['params'])
      targets = Encoder(**self.encoder, **self.common, parent=None).apply(
        {'params': frozen}, video, masked
      )
      if not own_width:
        targets = jax.lax.stop_gradient(norm(project(targets)))
      difference = regressed.astype(jnp.float32) - targets.astype(jnp.float32)
      self.sow('losses', 'alignment', jnp.square(difference).mean(axis=-1))
    return self._decoders(
      LatentDecoder, lambda decoder: decoder(regressed, positions_of(decoder.width)[masked])
    )
