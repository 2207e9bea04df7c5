"""Predicted pixels as pictures, which say what they borrow from the clip.

A model that predicts patch-normalised pixels does not predict a patch's mean and contrast.
Pictures usually take both from the ground truth, and so look good for any model, since the means
alone show the scene. Here, mean and contrast of a hidden patch come from the visible patches around
it. The usual way exists for comparison, and its caption says so.
"""

import math

import jax.numpy as jnp
import numpy as np

from vmae_jax.errors import lookup
from vmae_jax.models.patches import patchify, token_grid, unpatchify
from vmae_jax.types import Float, UInt8
from vmae_jax.visualize.images import HIDDEN, Hidden, Patch, Shown, Video, to_uint8, token_pixels

# Where the mean and std of hidden patches come from -> what the caption says about it.
CAPTIONS = {
  'none': 'The model predicts the pixels themselves: nothing is borrowed from the hidden patches.',
  'visible': 'Honest: the model predicts normalised patches; the mean and std of each hidden patch '
  'are interpolated from the visible patches near it, not taken from the hidden ones.',
  'ground truth': 'CHEATS: the model predicts normalised patches; the true mean and std of each '
  'hidden patch are borrowed from the ground truth, which alone shows most of the scene.',
}
NEIGHBOURS = 16  # Visible patches whose statistics are averaged.
TIME_STEP = 0.5  # Distance between two time slots, in widths of a patch.


def reconstruction_grid(shown: Shown, *, statistics: str) -> UInt8[np.ndarray, '...']:
  """Draws the input, the masked input, interpolation alone, and the prediction.

  `shown.values` are the result of `predicted_video`; `statistics` is what it was called with.
  """
  caption = lookup(CAPTIONS, statistics, 'statistics of the reconstruction')
  video, predicted, patch = shown.clip, shown.values, shown.patch
  hidden = token_pixels(shown.hidden.reshape(shown.grid), video.shape)
  frames = np.arange(len(video)) if shown.most is None else shown.slots() * patch[0]
  flat = interpolated_video(video, shown.hidden, patch=patch)
  rows = {
    'input': video,
    f'masked\n{shown.share}': np.where(hidden, HIDDEN, video),
    'interpolation\nalone': flat,
    'predicted\n+ visible': np.where(hidden, predicted, video),
  }
  error, without = (hidden_error(video, shown.hidden, x, patch=patch) for x in (predicted, flat))
  return shown.page(
    {label: list(to_uint8(row[frames])) for label, row in rows.items()},
    frames,
    f'{caption} Off by {error:.1f} of 255 in hidden patches, interpolation alone by {without:.1f}.',
  )


def hidden_error(video: Video, masked_tokens: Hidden, predicted: Video, *, patch: Patch) -> float:
  """The mean absolute difference of hidden pixels, in levels of 255."""
  hidden = token_pixels(masked_tokens.reshape(token_grid(video.shape[:3], patch)), video.shape)
  return float(255 * np.abs(predicted - video)[hidden[..., 0]].mean())


def predicted_video(
  predicted: Float[np.ndarray, 'm p'],
  video: Video,
  masked_tokens: Hidden,
  *,
  patch: Patch,
  statistics: str,
  eps: float = 1e-6,
) -> Video:
  """The clip with predicted patches in place of the hidden ones.

  Args:
    predicted: Patches, in the order of the hidden tokens' indices.
    statistics: A key of CAPTIONS; 'none' for a model that predicts pixels without normalisation.
    eps: See `denormalise`.
  """
  grid = token_grid(video.shape[:3], patch)
  patches = np.array(patchify(jnp.asarray(video)[None], patch=patch)[0])
  if statistics != 'none':
    predicted = denormalise(
      predicted, patches, masked_tokens, grid=grid, statistics=statistics, eps=eps
    )
  patches[masked_tokens] = predicted
  return np.asarray(unpatchify(jnp.asarray(patches)[None], patch=patch, grid=grid)[0])


def interpolated_video(video: Video, masked_tokens: Hidden, *, patch: Patch) -> Video:
  """The clip with hidden patches in one colour each, interpolated from the visible patches."""
  flat = np.zeros((int(masked_tokens.sum()), math.prod(patch) * 3), np.float32)
  return predicted_video(flat, video, masked_tokens, patch=patch, statistics='visible')


def denormalise(
  predicted: Float[np.ndarray, 'm p'],
  patches: Float[np.ndarray, 'n p'],
  masked_tokens: Hidden,
  *,
  grid: tuple[int, ...],
  statistics: str,
  eps: float = 1e-6,
) -> Float[np.ndarray, 'm p']:
  """Gives patch-normalised predictions a mean and a std for each channel.

  Args:
    predicted: Normalised patches, in the order of the hidden tokens' indices.
    patches: All patches of the clip, in [0, 1].
    statistics: 'visible' or 'ground truth', see CAPTIONS.
    eps: What the target's normalisation added to the std.
  """
  colours = patches.reshape(len(patches), -1, 3)
  # The unbiased std, as in VideoMAE's target.
  means, stds = colours.mean(axis=1), colours.std(axis=1, ddof=1)
  choices = {
    'visible': lambda values: interpolate_visible(values, masked_tokens, grid=grid),
    'ground truth': lambda values: values[masked_tokens],
  }
  choose = lookup(choices, statistics, 'statistics of normalised predictions')
  colours = predicted.reshape(len(predicted), -1, 3)
  colours = colours * (choose(stds) + eps)[:, None] + choose(means)[:, None]
  return colours.reshape(predicted.shape)


def interpolate_visible(
  values: Float[np.ndarray, 'n c'], masked_tokens: Hidden, *, grid: tuple[int, ...]
) -> Float[np.ndarray, 'm c']:
  """Values at hidden tokens, interpolated from those at visible tokens alone.

  A hidden token gets the mean over its NEIGHBOURS nearest visible tokens in space and time,
  weighted by one over the squared distance.
  """
  t, y, x = np.unravel_index(np.arange(len(values)), grid)
  places = np.stack([t * TIME_STEP, y, x], axis=1).astype(np.float32)
  offsets = places[masked_tokens][:, None] - places[~masked_tokens][None]
  distances = np.square(offsets).sum(axis=-1)
  nearest = np.argsort(distances, axis=1, kind='stable')[:, :NEIGHBOURS]
  weights = 1 / np.take_along_axis(distances, nearest, axis=1)
  weights /= weights.sum(axis=1, keepdims=True)
  return np.einsum('mq,mqc->mc', weights, values[~masked_tokens][nearest])
