"""A tokenizer that no one has trained, for smoke runs and tests."""

import jax
import jax.numpy as jnp

from vmae_jax.frozen.patch_vq import PatchVQ
from vmae_jax.frozen.tokenizer import Tokenizer

NAME = 'untrained'  # In place of a path.


def untrained_tokenizer() -> Tokenizer:
  """Its codes are the nearest of 64 random colours."""
  model = PatchVQ(factor=8, codes=64)
  colours = jax.random.uniform(jax.random.key(0), (model.codes, 1, 3))
  codebook = jnp.tile(colours, (1, model.factor**2, 1)).reshape(model.codes, -1)
  return Tokenizer(model, {'codebook': codebook}, NAME, '')
