"""Decoders: from latents to predictions at the masked tokens."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmae_jax.models.blocks import Blocks, Shared, gelu, layer_norm, xavier
from vmae_jax.models.encoder import torch_uniform
from vmae_jax.models.positions import sincos_positions
from vmae_jax.types import Array, Float, Int

# VideoMAE and CAE truncate this normal distribution at one standard deviation.
mask_token_init = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'none': lambda x: x,
  'sigmoid': jax.nn.sigmoid,
  'tanh': jnp.tanh,
}


class Output(NamedTuple):
  """The output layers of a head."""

  decoder: str  # The decoder's name; heads that name the same decoder share all but these layers.
  width: int  # Values predicted for each token.
  hidden: int = 0  # Units of a hidden layer with GELU before the last one; 0: no such layer.
  activation: str = 'none'  # After the last layer, a key of ACTIVATIONS.
  # Whether the last layer's sums stay in float32, as logits over codes must: bfloat16 has steps of
  # 0.06 near 10.
  logits: bool = False


class _Sized(Shared):
  """Attributes that both decoders have."""

  width: int
  depth: int
  heads: int
  mlp: int
  outputs: Mapping[str, Output]  # Head -> what it predicts.


class Decoder(_Sized):
  """VideoMAE's decoder with one output layer for each head."""

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, 'b k d'],
    visible: Int[Array, 'b k'],
    masked: Int[Array, 'b m'],
    *,
    tokens: int,
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions of each head at the masked tokens.

    Tokens are not put back in order: visible tokens come first, then mask tokens, each with its
    own position.

    Args:
      latents: The encoder's output.
      visible: The latents' tokens.
      masked: The tokens to predict.
      tokens: n, the number of tokens of the clip.
    """
    width, dtype = self.width, self.dtype
    mask_token = self.param('mask_token', mask_token_init, (width,)).astype(dtype)
    # VideoMAE leaves the projection between encoder and decoder at PyTorch's default.
    how = dict(use_bias=False, kernel_init=torch_uniform(latents.shape[-1]), dtype=dtype)
    x = nn.Dense(width, **how, name='from_encoder')(latents)
    positions = jnp.asarray(sincos_positions(tokens, width)).astype(dtype)
    x = jnp.concatenate([x + positions[visible], mask_token + positions[masked]], axis=1)
    x = Blocks(self.depth, self.heads, self.mlp, **self.shared, name='blocks')(x)
    x = layer_norm(eps=self.eps, dtype=dtype, name='norm')(x[:, visible.shape[1] :])
    return _predict(x, self.outputs, dtype)


class LatentDecoder(_Sized):
  """CAE's and MAM2's decoder, which sees only the regressed latents of the masked tokens.

  Source: Chen et al., Context Autoencoder (2022); MAM2's own sizes are not known.
  """

  @nn.compact
  def __call__(
    self, latents: Float[Array, 'b m _'], positions: Float[Array, 'b m d']
  ) -> dict[str, Float[Array, 'b m _']]:
    """Predictions of each head at the masked tokens, from the regressor's output there."""
    x = latents
    if x.shape[-1] != self.width:
      x = nn.Dense(self.width, kernel_init=xavier, dtype=self.dtype, name='from_regressor')(x)
    x = Blocks(self.depth, self.heads, self.mlp, **self.shared, name='blocks')(x + positions)
    x = layer_norm(eps=self.eps, dtype=self.dtype, name='norm')(x)
    return _predict(x, self.outputs, self.dtype)


def _predict(
  x: Float[Array, 'b m d'], outputs: Mapping[str, Output], dtype: Any
) -> dict[str, Float[Array, 'b m _']]:
  """Applies the output layers; their parameters belong to the module that calls this."""
  predictions = {}
  for name, output in outputs.items():
    y = x
    if output.hidden:
      y = gelu(nn.Dense(output.hidden, kernel_init=xavier, dtype=dtype, name=f'hidden_{name}')(y))
    product = jax.lax.dot_general
    if output.logits:
      product = functools.partial(product, preferred_element_type=jnp.float32)
    how = dict(kernel_init=xavier, dtype=dtype, dot_general=product, name=f'head_{name}')
    predictions[name] = ACTIVATIONS[output.activation](nn.Dense(output.width, **how)(y))
  return predictions
