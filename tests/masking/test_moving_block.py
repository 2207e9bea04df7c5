"""MGM's masks: one block that moves with the flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.masking.motion_bins import flow_pairs
from vmae_jax.masking.moving_block import moving_block
from vmae_jax.motion.flow import Flow

GRID = (8, 14, 14)
CLIP = jnp.zeros((16, 224, 224, 3))


def draw(values, clips=64, ratio=0.25, **options):
  """Hidden places for a flow from slot to slot in the clip's pixels."""
  values = np.broadcast_to(np.asarray(values, np.float32) / 8, (7, 28, 28, 2))
  flow = Flow(jnp.asarray(values), flow_pairs(16))

  def one(key, flow):
    return moving_block(key, CLIP, flow, grid=GRID, ratio=ratio, **options)

  masks = jax.jit(jax.vmap(one, (0, None)))(jax.random.split(jax.random.key(0), clips), flow)
  hidden = np.zeros((clips, 8 * 196), bool)
  np.put_along_axis(hidden, np.asarray(masks.masked), True, axis=1)
  assert (hidden.reshape(clips, 8, -1).sum(-1) == int(ratio * 196)).all()
  assert (np.diff(masks.visible) > 0).all() and (np.diff(masks.masked) > 0).all()
  return hidden.reshape(clips, *GRID)


def test_the_block_moves_with_what_is_under_it():
  """With a pan of one place to the right in each slot, the block is one place further each time."""
  hidden = draw([16.0, 0.0])
  moved = 0
  for block in hidden:
    columns = block.any(axis=1)  # Of each slot.
    inside = ~columns[0, -1] and columns[0].argmax() > 0
    for slot in range(1, 8):
      if inside and not columns[slot, -1]:
        np.testing.assert_array_equal(block[slot], np.roll(block[0], slot, axis=1))
        moved += 1
  assert moved > 40
  assert (hidden[:, -1].any(1).argmax(1) >= hidden[:, 0].any(1).argmax(1)).all()


def test_a_block_whose_content_leaves_in_the_last_step_stays_on_the_edge():
  values = np.zeros((7, 28, 28, 2))
  values[6, ..., 0] = 200.0
  last = draw(values)[:, -1]
  assert last[..., -1].any(1).all()
  # Half of a block of at most 1.5 times its width, or a strip from top to bottom.
  assert (last.any(2).sum(1) < 14).all()


def test_a_block_is_one_rectangle_but_for_its_last_row():
  for block in draw([0.0, 0.0])[:, 0]:
    rows, columns = np.flatnonzero(block.any(1)), np.flatnonzero(block.any(0))
    assert (np.diff(rows) == 1).all() and (np.diff(columns) == 1).all()
    assert len(rows) * len(columns) - block.sum() <= max(2 * len(rows), 2 * len(columns))


def test_a_blocks_aspect_is_its_height_over_its_width():
  """Of 49 places twice as high as wide: sqrt(98) = 9.9 rows and sqrt(24.5) = 4.9 columns."""
  inside = 0
  for block in draw([0.0, 0.0], aspect=(2.0, 2.0))[:, 0]:
    rows, columns = block.any(1), block.any(0)
    if not (rows[[0, -1]].any() or columns[[0, -1]].any()):
      assert 9 <= rows.sum() <= 11 and 4 <= columns.sum() <= 6
      inside += 1
  assert inside > 5


def test_the_block_starts_where_content_moves():
  """A corner of 3 x 3 places goes to and fro by 2 pixels a slot, the rest stands still: with 0.1
  added to all, the corner has 9 * 2.1 of 9 * 2.1 + 187 * 0.1 = 50 % of the starts."""
  values = np.zeros((7, 28, 28, 2))
  values[:, :6, :6, 0] = 2.0
  values[1::2] *= -1
  hidden = draw(values, clips=400, ratio=0.02)  # Three places, the first of which is the start.
  still = draw(0 * values, clips=400, ratio=0.02)
  corner = [x[:, 0, :3, :3].any(axis=(1, 2)).mean() for x in (hidden, still)]
  assert 0.42 < corner[0] < 0.62 and corner[1] < 0.15


def test_patches_and_steps_must_fit():
  flow = Flow(jnp.zeros((4, 28, 28, 2)), flow_pairs(16, gap=3))
  with pytest.raises(UserError, match='gap, which is 3'):
    moving_block(jax.random.key(0), CLIP, flow, grid=GRID, ratio=0.5, gap=3)
  with pytest.raises(UserError, match='patches must be square'):
    moving_block(jax.random.key(0), CLIP, flow, grid=(8, 14, 7), ratio=0.5)
