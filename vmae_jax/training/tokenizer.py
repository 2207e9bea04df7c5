"""Training of `PatchVQ`: k-means over a stream of batches, by moving averages.

Source: the codebook updates of VQ-VAE (van den Oord et al., NeurIPS 2017, appendix A.1), here on
the pixels of patches. To restart unused codes, as done here, is common practice.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.frozen.patch_vq import PatchVQ
from vmae_jax.frozen.vqgan import nearest_code
from vmae_jax.runs.progress import Progress
from vmae_jax.types import Array, Float, Int32, Key, Num, UInt8
from vmae_jax.visualize.images import to_uint8

FRAMES = 4  # Frames that are taken from a video at a time, as opening it is the larger cost.
_EVALUATED = 512  # Frames on which the result is measured.
_DRAWN = 8  # Frames in the picture.

Frames = UInt8[np.ndarray, 'b H W 3']


class LearnState(NamedTuple):
  """The state of the training."""

  hits: Float[Array, ' c']  # Moving average of the number of patches of a batch with each code.
  sums: Float[Array, 'c p']  # Moving average of the sum of these patches.

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
    key: Chooses the patches that replace unused codes.
    decay: Decay of the moving averages.
    dead: A code is replaced by a random patch if it has less than this share of the patches that
      each code would have if all were equally frequent.
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
  """The number of equally frequent codes with the same entropy; 1 means that one code is used."""
  shares = counts / jnp.maximum(counts.sum(), 1)
  return jnp.exp(-jax.scipy.special.xlogy(shares, shares).sum())


def measure(
  model: PatchVQ, codebook: Float[Array, 'c p'], frames: UInt8[Array, 'b H W 3']
) -> tuple[Int32[Array, ' c'], Float[Array, ' b'], Float[Array, 'b H W 3']]:
  """How often each code occurs in frames, the frames' mean absolute errors, reconstructions."""
  images, params = frames.astype(jnp.float32) / 255, {'params': {'codebook': codebook}}
  codes = model.apply(params, images, method='encode')
  decoded = model.apply(params, codes, method='decode')
  counts = jnp.bincount(codes.reshape(-1), length=model.codes)
  return counts, jnp.abs(decoded - images).mean((1, 2, 3)), decoded


def learn_tokenizer(
  source: Source, model: PatchVQ, *, size: int, steps: int, batch: int, stride: int, seed: int
) -> tuple[dict[str, Any], dict[str, int | float], Frames, Frames]:
  """Trains a tokenizer and measures it on the frames that follow in the stream of training data.

  Args:
    source: Videos, see `vmae_jax.data.sources`.
    size: Height and width of frames.
    batch: Frames in a batch, a multiple of FRAMES.
    stride: Distance between frames of one video in a batch, in video frames.

  Returns:
    Parameters; figures; some frames and their reconstructions.

  Raises:
    UserError: `batch` is not a multiple of FRAMES.
  """
  if batch % FRAMES:
    raise UserError(f'--batch={batch}: it must be a multiple of {FRAMES}, the frames of a video.')
  evaluations = -(-_EVALUATED // batch)
  sampler = ClipSampler(frames=FRAMES, size=size, stride=stride, seed=seed)
  order = dict(seed=seed, shuffle=True, num_steps=steps + evaluations)
  loader = Loader(source, sampler, batch_size=batch // FRAMES, **order)
  frames = (item['video'].reshape(-1, size, size, 3) for item in loader)
  key = jax.random.key(seed)
  step_fn = jax.jit(functools.partial(learn_step, model), donate_argnums=0)
  measured = jax.jit(functools.partial(measure, model))
  progress = Progress(steps, log_every=max(1, steps // 10))
  try:
    pixels = next(frames)
    state = init_state(model, key, pixels)
    for step in range(1, steps + 1):
      state, scalars = step_fn(state, jax.random.fold_in(key, step), pixels)
      shown = {'loss': float(scalars['error'])} if step % 10 == 0 or step == steps else {}
      progress.update(step, shown)
      pixels = next(frames)
    counts, errors, squares = np.zeros(model.codes, np.int64), [], []
    for index in range(evaluations):
      pixels = next(frames) if index else pixels
      found, error, decoded = jax.device_get(measured(state.codebook, pixels))
      counts += found
      errors.append(error)
      squares.append(np.square(decoded - np.asarray(pixels) / 255).mean())
  finally:
    loader.close()
    progress.close()
  used = int((counts > 0).sum())
  figures = {
    'mean_absolute_error': round(float(np.mean(errors)), 5),
    'psnr': round(float(-10 * np.log10(np.mean(squares))), 2),
    'codes': model.codes,
    'codes_used': used,
    'share_used': round(used / model.codes, 4),
    'perplexity': round(float(perplexity(jnp.asarray(counts))), 2),
    'frames_evaluated': evaluations * batch,
  }
  shown = slice(0, None, max(1, batch // _DRAWN))  # From different videos.
  return {'codebook': state.codebook}, figures, np.asarray(pixels)[shown], to_uint8(decoded[shown])
