"""Block masks."""

import functools

import jax
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.masking.blocks import blocks

GRID = (4, 14, 14)


@functools.cache
def drawn(kinds, ratio=0.9, clips=300):
  """Maps of hidden places and of places that count, for the first slot, and the masks."""
  one = functools.partial(blocks, clip=None, flow=None, grid=GRID, ratio=ratio, kinds=kinds)
  mask = jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), clips)))
  hidden, counted = np.zeros((2, clips, np.prod(GRID)))
  np.put_along_axis(hidden, mask.masked, 1, axis=1)
  np.put_along_axis(counted, mask.masked, mask.weight, axis=1)
  return hidden.reshape(-1, *GRID), counted.reshape(-1, *GRID), mask


def test_all_slots_are_alike_and_tokens_are_in_raster_order():
  hidden, counted, mask = drawn(((8, 0.15), (2, 0.7)))
  assert mask.visible.shape == (300, 4 * 20) and mask.masked.shape == (300, 4 * 176)
  for maps in hidden, counted:
    assert (maps == maps[:, :1]).all()
  assert (np.diff(mask.visible) > 0).all() and (np.diff(mask.masked) > 0).all()
  assert (np.sort(np.concatenate([mask.visible, mask.masked], 1)) == np.arange(784)).all()


def test_one_block_is_a_rectangle_of_its_share_and_shape():
  _, counted, _ = drawn(((1, 0.15),))
  for part in counted[:, 0]:
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    box = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.all() and part.sum() == box.size
    # sqrt(29 x 0.75) to sqrt(29 x 1.5), rounded, of 14 x 14 x 15 % = 29 places.
    assert 5 <= len(rows) <= 7 and 4 <= len(columns) <= 6


@pytest.mark.parametrize('kind, share', [((8, 0.15), 0.628), ((2, 0.7), 0.813)])
def test_blocks_cover_as_much_as_the_released_masks(kind, share):
  """Means over 7,200 masks of the released procedure, drawn one by one with NumPy: before tokens
  are dropped; of two blocks, the rows that are shown all the same are missing here."""
  _, counted, _ = drawn((kind,), ratio=0.99)
  assert counted.mean() == pytest.approx(share, abs=0.015)


def test_visible_places_are_outside_of_blocks_if_these_leave_enough():
  hidden, counted, _ = drawn(((8, 0.15),))
  assert ((hidden == 1) | (counted == 0)).all()
  assert 0.55 < counted.mean() < 0.7 and hidden.mean() == pytest.approx(176 / 196)


def test_wrong_kinds_are_errors():
  with pytest.raises(UserError, match='pairs such as'):
    blocks(jax.random.key(0), None, None, grid=GRID, ratio=0.9, kinds=((8, 15.0),))
