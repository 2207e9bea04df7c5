"""The encoder with a classifier on the mean of its tokens, or on the first token."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmae_jax.models.blocks import drop_path, layer_norm
from vmae_jax.models.encoder import Encoder
from vmae_jax.types import Array, Float, Key


class Classifier(nn.Module):
  """Encodes all tokens, takes their mean, a new LayerNorm and one Dense (VideoMAE's fine-tuning).

  Source: VideoMAE's modeling_finetune.py, where `pool` is `use_mean_pooling`.
  """

  encoder: Mapping[str, Any]  # Keyword arguments of `Encoder`.
  classes: int  # Number of classes.
  head_scale: float = 0.001  # Factor on the initial kernel of the last layer.
  drop_path: float = 0.0  # Chance that training drops a branch of the last block, see `drop_path`.
  dropout: float = 0.0  # Chance that training drops a value before the last layer.
  # `mean` is as above, without the encoder's last LayerNorm; `first` takes the first token after
  # that LayerNorm, and there is no new one.
  pool: str = 'mean'

  @nn.compact
  def __call__(
    self, video: Float[Array, 'b T H W C'], keys: Key[Array, ' b'] | None = None
  ) -> Float[Array, 'b c']:
    """Logits in float32 of normalised clips.

    In training, `keys` choose what is dropped for each clip; None drops nothing.
    """

    def draw(number):
      return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

    keep = None
    if keys is not None and self.drop_path:
      keep = drop_path(draw(0), rate=self.drop_path, depth=self.encoder['depth'])
    mean = self.pool == 'mean'
    x = Encoder(**self.encoder, final_norm=not mean, name='encoder')(video, keep=keep)
    x = x.astype(jnp.float32)
    if mean:
      eps = self.encoder.get('eps', 1e-6)
      x = layer_norm(eps=eps, dtype=jnp.float32, name='fc_norm')(x.mean(axis=1))
    else:
      x = x[:, 0]
    if keys is not None and self.dropout:
      kept = 1 - self.dropout
      x *= jax.vmap(lambda key: jax.random.bernoulli(key, kept, x.shape[1:]))(draw(1)) / kept
    init = nn.initializers.normal(0.02 * self.head_scale)
    return nn.Dense(self.classes, kernel_init=init, name='classifier')(x)
