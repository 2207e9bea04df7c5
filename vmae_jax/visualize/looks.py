"""One clip under each of the augmentations of the config's block `augment`."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vmae_jax.method.augmentation import CHANCES, STRENGTHS, augment
from vmae_jax.types import UInt8
from vmae_jax.visualize.images import labelled_rows, to_uint8


def look_grid(
  video: UInt8[np.ndarray, 'T H W 3'],
  block: ml_collections.ConfigDict,
  *,
  seed: int = 0,
  max_frames: int = 4,
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """Draws a clip as it is, with each augmentation for certain, and twice as a run draws it.

  Args:
    video: The clip.
    block: The config's block `augment`: strengths for all rows, chances for the last two.
    seed: Of what is drawn.
    max_frames: At most so many columns.
  """
  never = block.to_dict() | dict.fromkeys(CHANCES, 0.0)
  rows = {name: never | {name: 1.0} for name in CHANCES}
  still = never | dict.fromkeys(STRENGTHS, 0.0) | {'jitter': 1.0}
  rows = {name: still | {name: block[name]} for name in STRENGTHS} | rows
  rows |= {f'as drawn {i}': block.to_dict() for i in (1, 2)}
  keys = jax.random.split(jax.random.key(seed), len(rows))
  shown = np.linspace(0, len(video) - 1, min(max_frames, len(video))).round().astype(int)
  clip = jnp.asarray(video, jnp.float32)[None] / 255
  pictures = {'input': list(video[shown])}
  for i, (name, options) in enumerate(rows.items()):
    look = jax.jit(functools.partial(augment, **options))(keys[i : i + 1], {'video': clip})
    pictures[name] = list(to_uint8(np.asarray(look['video'][0]))[shown])
  return labelled_rows(
    pictures,
    columns=[f'frame {i + 1}' for i in shown],
    title='Augmentations on the devices',
    caption='All frames of a clip, and all that targets look at, get the same.',
  )
