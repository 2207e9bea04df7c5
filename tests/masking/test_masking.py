"""Masks: exact counts, order, and dependence on the key alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.masking import DECODER_MASKINGS, MASKINGS

GRID = (8, 14, 14)
RANDOM = ('tube', 'per_slot', 'random', 'frame')  # That look at nothing but their key.


def draw(name, *, ratio=0.9, grid=GRID, seeds=4):
  keys = jax.random.split(jax.random.key(0), seeds)
  rule = functools.partial(MASKINGS[name], grid=grid, ratio=ratio)
  return jax.jit(jax.vmap(lambda key: rule(key, None, None)))(keys)


def hidden_map(mask, grid=GRID):
  hidden = np.ones((len(mask.visible), np.prod(grid)), bool)
  np.put_along_axis(hidden, np.asarray(mask.visible), False, 1)
  return hidden.reshape(-1, *grid)


@pytest.mark.parametrize('name', RANDOM)
def test_visible_and_masked_tokens_are_all_tokens_each_in_raster_order(name):
  mask = draw(name, ratio=0.75)
  both = np.concatenate([mask.visible, mask.masked], axis=1)
  np.testing.assert_array_equal(np.sort(both, 1), np.tile(np.arange(1568), (4, 1)))
  assert (np.diff(mask.visible) > 0).all() and (np.diff(mask.masked) > 0).all()
  assert (np.asarray(mask.weight) == 1).all()


@pytest.mark.parametrize('name', RANDOM)
def test_samples_differ_and_keys_decide(name):
  one, other = draw(name, ratio=0.5), draw(name, ratio=0.5)
  np.testing.assert_array_equal(one.visible, other.visible)
  assert not np.array_equal(one.visible[0], one.visible[1])


@pytest.mark.parametrize('ratio, visible', [(0.9, 20), (0.75, 49), (0.7, 59)])
def test_counts_for_each_slot(ratio, visible):
  for name in ('tube', 'per_slot'):
    slots = (~hidden_map(draw(name, ratio=ratio))).sum((2, 3))
    assert (slots == visible).all()


def test_tubes_are_the_same_in_every_slot_and_slots_are_not():
  tube, slot = hidden_map(draw('tube')), hidden_map(draw('per_slot'))
  assert (tube == tube[:, :1]).all()
  assert not (slot == slot[:, :1]).all()


def test_random_counts_over_the_clip_only():
  mask = draw('random')
  assert mask.visible.shape == (4, 1568 - int(0.9 * 1568))
  slots = (~hidden_map(mask)).sum((2, 3))
  assert len(np.unique(slots)) > 1


def test_frames_are_hidden_whole():
  hidden = hidden_map(draw('frame', ratio=0.875))
  assert (hidden.all((2, 3)).sum(1) == 7).all() and ((~hidden).all((2, 3)).sum(1) == 1).all()


def test_every_place_is_hidden_equally_often():
  mask = draw('per_slot', ratio=0.75, grid=(2, 4, 4), seeds=4000)
  share = hidden_map(mask, (2, 4, 4)).mean(0)
  assert np.abs(share - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 4000)


def test_running_cell_decodes_half_of_each_slot_and_counts_hidden_tokens_alone():
  rule = functools.partial(DECODER_MASKINGS['running_cell'], grid=GRID, ratio=0.5)
  before = draw('tube')
  after = jax.jit(jax.vmap(rule))(jax.random.split(jax.random.key(1), 4), before)
  np.testing.assert_array_equal(before.visible, after.visible)
  decoded = np.zeros((4, 1568), bool)
  np.put_along_axis(decoded, np.asarray(after.masked), True, 1)
  cells = decoded.reshape(4, 8, 7, 2, 7, 2).sum((3, 5))
  assert (cells == 2).all()
  # The pattern moves: over four slots each place of a cell is decoded twice.
  assert (decoded.reshape(4, 2, 4, 196).sum(2) == 2).all()
  assert len({clip.tobytes() for clip in decoded}) > 1  # It starts anywhere.
  seen = ~hidden_map(before).reshape(4, -1)
  weight = np.asarray(after.weight)
  np.testing.assert_array_equal(weight, ~np.take_along_axis(seen, np.asarray(after.masked), 1))
  assert 0 < (weight == 0).sum()


def test_a_random_share_of_the_hidden_tokens_is_decoded():
  before = draw('tube')
  rule = functools.partial(DECODER_MASKINGS['random'], grid=GRID, ratio=0.8)
  after = jax.jit(jax.vmap(rule))(jax.random.split(jax.random.key(1), 4), before)
  np.testing.assert_array_equal(before.visible, after.visible)
  assert after.masked.shape == (4, 1408 - int(0.8 * 1408)) == after.weight.shape
  for some, hidden in zip(np.asarray(after.masked), np.asarray(before.masked), strict=True):
    assert np.isin(some, hidden).all() and (np.diff(some) > 0).all()
  assert not np.array_equal(after.masked[0], after.masked[1])


def test_every_hidden_token_is_decoded_equally_often():
  mask = jax.tree.map(lambda x: x[0], draw('tube', grid=(2, 4, 4), ratio=0.75))
  rule = functools.partial(DECODER_MASKINGS['random'], grid=(2, 4, 4), ratio=0.5)
  keys = jax.random.split(jax.random.key(0), 2000)
  after = jax.jit(jax.vmap(rule, in_axes=(0, None)))(keys, mask)
  times = np.bincount(np.asarray(after.masked).ravel(), minlength=32)[np.asarray(mask.masked)]
  assert np.abs(times / 2000 - 0.5).max() < 5 * np.sqrt(0.25 / 2000)


def test_running_cell_needs_an_even_grid_and_whole_places():
  mask = jax.tree.map(lambda x: x[0], draw('tube', grid=(2, 3, 4), ratio=0.5))
  with pytest.raises(UserError, match='even token grid, not 3 x 4'):
    DECODER_MASKINGS['running_cell'](jax.random.key(0), mask, grid=(2, 3, 4), ratio=0.5)
  with pytest.raises(UserError, match='0.25, 0.5 or 0.75'):
    DECODER_MASKINGS['running_cell'](jax.random.key(0), mask, grid=(2, 4, 4), ratio=0.6)


def test_masks_are_equal_on_one_device_and_in_one_batch():
  """A clip's mask does not depend on the others in its batch."""
  keys = jax.random.split(jax.random.key(3), 4)
  rule = jax.jit(jax.vmap(lambda key: MASKINGS['tube'](key, None, None, grid=GRID, ratio=0.9)))
  np.testing.assert_array_equal(rule(keys).visible[2:3], rule(keys[2:3]).visible)
  assert jnp.issubdtype(rule(keys).visible.dtype, jnp.integer)
