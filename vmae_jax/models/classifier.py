"""The encoder with a classifier on the mean of its tokens."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vmae_jax.models.blocks import layer_norm
from vmae_jax.models.encoder import Encoder
from vmae_jax.types import Array, Float


class Classifier(nn.Module):
  """All tokens, their mean, a fresh LayerNorm, one Dense (VideoMAE's fine-tuning model).

  Attributes:
    encoder: Keyword arguments of `Encoder`; the pre-trained last LayerNorm is not used.
    classes: Number of classes.
    head_scale: Factor on the initial kernel of the last layer.
  """

  encoder: Mapping[str, Any]
  classes: int
  head_scale: float = 0.001

  @nn.compact
  def __call__(self, video: Float[Array, 'b T H W C']) -> Float[Array, 'b c']:
    """Logits in float32 of a normalised clip."""
    x = Encoder(**self.encoder, final_norm=False, name='encoder')(video)
    x = x.astype(jnp.float32).mean(axis=1)
    eps = self.encoder.get('eps', 1e-6)
    x = layer_norm(eps=eps, dtype=jnp.float32, name='fc_norm')(x)
    init = nn.initializers.truncated_normal(0.02 * self.head_scale, lower=-100.0, upper=100.0)
    return nn.Dense(self.classes, kernel_init=init, name='classifier')(x)
