"""The picture of a clip under each augmentation."""

import numpy as np

from vmae_jax import config as config_lib
from vmae_jax.visualize.images import MIN_SIDE
from vmae_jax.visualize.looks import look_grid


def test_every_augmentation_is_shown():
  rng = np.random.default_rng(0)
  video = np.broadcast_to(rng.integers(60, 200, (1, 6, 6, 3), np.uint8), (3, 6, 6, 3)).copy()
  block = config_lib.default().augment
  block.sigma = (2.0, 2.0)
  page = look_grid(video, block, max_frames=2)
  # The right column's squares, from top to bottom: input, eight augmentations, twice nothing.
  ink = (page < 250).any(axis=-1)[:, -MIN_SIDE - 10 : -10].all(axis=1)
  tops = np.flatnonzero(ink & ~np.roll(ink, 1))
  squares = [page[y : y + MIN_SIDE, -MIN_SIDE - 10 : -10].astype(int) for y in tops]
  assert len(squares) == 11
  changed = [np.abs(square - squares[0]).max() > 3 for square in squares[1:]]
  assert changed == [True] * 8 + [False] * 2
