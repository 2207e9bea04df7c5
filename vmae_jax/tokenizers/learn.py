"""How `PatchVQ` learns: k-means over a stream of batches, by moving averages.

Source: the codebook updates of VQ-VAE (van den Oord et al., NeurIPS 2017, appendix A.1), here on
patches themselves; that codes which stand for nothing start again is common practice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax.tokenizers.patch_vq import PatchVQ
from vmae_jax.tokenizers.vqgan import nearest_code
from vmae_jax.types import Array, Float, Int32, Key, Num, UInt8


class LearnState(NamedTuple):
  """What a step changes.

  Attributes:
    hits: Moving average of how many patches of a batch each code stands for.
    sums: Moving average of the sum of these patches.
  """

  hits: Float[Array, ' c']
  sums: Float[Array, 'c p']

  @property
  def codebook(self) -> Float[Array, 'c p']:
    """The mean patch of each code."""
    return self.sums / self.hits[:, None]


def _patches(model: PatchVQ, frames: UInt8[Array, 'b H W 3']) -> Float[Array, 'q p']:
  images = frames.astype(jnp.float32) / 255
  return model.patches(images).reshape(-1, 3 * model.factor**2)


def init_state(model: PatchVQ, key: Key[Array, ''], frames: UInt8[Array, 'b H W 3']) -> LearnState:
  """Codes start as random patches."""
  patches = _patches(model, frames)
  codebook = jax.random.choice(key, patches, (model.codes,))
  hits = jnp.full(model.codes, len(patches) / model.codes)
  return LearnState(hits, codebook * hits[:, None])


def learn_step(
  model: PatchVQ,
  state: LearnState,
  key: Key[Array, ''],
  frames: UInt8[Array, 'b H W 3'],
  *,
  decay: float = 0.97,
  dead: float = 0.03,
) -> tuple[LearnState, dict[str, Num[Array, '']]]:
  """The next state, and the batch's mean absolute error and perplexity.

  Args:
    model: The tokenizer.
    state: Before the step.
    key: Of the patches that codes start again from.
    frames: A batch.
    decay: Of the moving averages.
    dead: A code that stands for less than this share of its equal part becomes a random patch.
  """
  patches, codebook = _patches(model, frames), state.codebook
  codes = nearest_code(patches, codebook)
  chosen = jax.nn.one_hot(codes, model.codes)
  hits = decay * state.hits + (1 - decay) * chosen.sum(0)
  sums = decay * state.sums + (1 - decay) * chosen.T @ patches
  equal = len(patches) / model.codes
  lost = hits < dead * equal
  fresh = jax.random.choice(key, patches, (model.codes,)) * equal
  state = LearnState(jnp.where(lost, equal, hits), jnp.where(lost[:, None], fresh, sums))
  error = jnp.abs(patches - codebook[codes]).mean()
  return state, {'error': error, 'perplexity': perplexity(chosen.sum(0)), 'restarted': lost.sum()}


def perplexity(counts: Num[Array, ' c']) -> Float[Array, '']:
  """How many codes would carry as much as these do, were all used alike; 1 is a collapse."""
  shares = counts / jnp.maximum(counts.sum(), 1)
  return jnp.exp(-jax.scipy.special.xlogy(shares, shares).sum())


def measure(
  model: PatchVQ, codebook: Float[Array, 'c p'], frames: UInt8[Array, 'b H W 3']
) -> tuple[Int32[Array, ' c'], Float[Array, ' b'], Float[Array, 'b H W 3']]:
  """How often each code occurs in frames, their mean absolute errors, and reconstructions."""
  images, params = frames.astype(jnp.float32) / 255, {'params': {'codebook': codebook}}
  codes = model.apply(params, images, method='encode')
  decoded = model.apply(params, codes, method='decode')
  counts = jnp.bincount(codes.reshape(-1), length=model.codes)
  return counts, jnp.abs(decoded - images).mean((1, 2, 3)), decoded
