"""Films of what methods see, hide and predict, on clips of which that is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.frozen.tokenizer import untrained_tokenizer
from vmae_jax.masking import MASKINGS
from vmae_jax.motion.flow import Flow
from vmae_jax.visualize import films
from vmae_jax.visualize.flow import wheel
from vmae_jax.visualize.trajectories import TRUE

PATCH = (2, 8, 8)


def moving(frames=8, side=32, step=2):
  """A light box on a dark ground that moves to the right."""
  video = np.full((frames, side, side, 3), 0.2, np.float32)
  for t in range(frames):
    video[t, 8:16, 4 + step * t : 12 + step * t] = 0.9
  return video


def constant_flow(x, y, frames=8, side=32):
  pairs = tuple((i, i + 1) for i in range(frames - 1))
  values = jnp.broadcast_to(jnp.array([x, y], jnp.float32), (1, len(pairs), side, side, 2))
  return Flow(values, pairs)


def test_signed_colours():
  colours = films.signed_colours(np.array([-1.0, 0.0, 1.0, 3.0]))
  assert colours.tolist() == [[0, 114, 178], [255, 255, 255], [213, 94, 0], [213, 94, 0]]


def test_difference_shows_what_became_lighter_and_darker():
  film = films.difference_film(moving())
  assert film.shape == (8, 32, 32, 3)
  # The box's front, at x = 12 and 13 in frame 1, became lighter, its back darker.
  assert film[1, 10, 12].tolist() == [213, 94, 0] and film[1, 10, 4].tolist() == [0, 114, 178]
  assert (film[1, 10, 8] == 255).all() and (film[3, 25] == 255).all()
  np.testing.assert_array_equal(film[0], film[1])


def test_pixels_have_no_mean_and_full_contrast():
  video = moving()
  video[:, 16:24, :8] += np.linspace(0, 0.02, 8, dtype=np.float32)[:, None]
  film = films.pixels_film(video, patch=PATCH)
  flat, faint = film[:, 24:, 24:], film[:, 16:24, :8]
  assert (np.abs(flat.astype(int) - 128) <= 1).all()
  assert faint.std() > 40 and abs(faint.mean() - 128) < 2


def test_flow_and_its_wheel():
  video = moving()
  film = films.flow_film(video, constant_flow(3.0, 0.0))
  assert film.shape == video.shape
  assert (film == [255, 0, 0]).all()  # To the right, also in the last frame.
  coarse = films.flow_film(video, constant_flow(3.0, 0.0, side=16))
  assert coarse.shape == video.shape and (coarse == [255, 0, 0]).all()
  round_ = wheel(101)
  assert (round_[50, 50] > 250).all() and (round_[0, 0] == 255).all()
  right, left = round_[50, 99].astype(int), round_[50, 1].astype(int)
  assert right[0] > 240 and right[1] < 30 and left[2] > 200 and left[0] < 30


def test_one_wild_vector_does_not_pale_the_flow():
  flow = constant_flow(3.0, 0.0)
  wild = Flow(flow.values.at[0, 2, 0, 0].set(jnp.array([90.0, 0.0])), flow.pairs)
  film = films.flow_film(moving(), wild)
  assert film[0, 5, 5].tolist() == [255, 0, 0]


def test_trajectories_start_in_their_slot_and_follow_the_flow():
  film = films.trajectory_film(moving(), constant_flow(2.0, 0.0), patch=PATCH, steps=3)
  assert film.shape == (8, 320, 320, 3)
  orange = np.abs(film.astype(int) - TRUE).sum(-1) < 60
  # Points start at 2, 6, ... and move 6 pixels in 3 steps; those at the right leave.
  row = np.flatnonzero(orange[0, 20])
  assert row.min() in range(18, 23) and row.max() <= 319
  rows = np.flatnonzero(orange[0].any(1))
  assert all(min(abs(rows_at - 20) % 40, 40 - abs(rows_at - 20) % 40) <= 4 for rows_at in rows)
  # From the last slot, frames 6 and 7, three steps lead out of the clip.
  assert not orange[6:].any() and orange[4].any()


def test_hog_is_bright_along_edges():
  film = films.hog_film(moving(step=0), patch=PATCH)
  assert film.shape == (8, 8 * 4 * 4, 8 * 4 * 4, 3)  # Cells of 4 pixels as glyphs of 16.
  cells = film[0, ..., 0].reshape(8, 16, 8, 16).max((1, 3))
  assert cells[2, 2] > 120 and cells[6:].max() == 0
  np.testing.assert_array_equal(film[0], film[1])


def test_hog_cells_lie_where_their_pixels_do():
  video = np.zeros((2, 32, 32, 3), np.float32)
  video[:, 18:] = 1.0  # One edge, in the fifth of eight rows of cells.
  film = films.hog_film(video, patch=PATCH)
  cells = film[0, ..., 0].reshape(8, 16, 8, 16).max((1, 3))
  assert (cells[4] > 200).all() and np.delete(cells, 4, 0).max() == 0
  row = film[0, 4 * 16 : 5 * 16, :, 0].mean(1)
  assert row[6:10].mean() > 4 * row[[0, 1, 2, 13, 14, 15]].mean()  # Strokes lie along the edge.


def test_codes_are_decoded():
  tokenizer = untrained_tokenizer()
  film = films.codes_film(moving(), tokenizer, patch=PATCH)
  side = 4 * tokenizer.model.factor
  assert film.shape == (8, side, side, 3)
  np.testing.assert_array_equal(film[0], film[1])  # A slot has one code.
  book = np.asarray(tokenizer.params['codebook'])
  p = tokenizer.model.factor
  patches = film[0].reshape(4, p, 4, p, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1) / 255
  near = np.abs(patches[:, None] - book.clip(0, 1)).max(-1).min(-1)
  assert near.max() < 0.01  # All are patches of the codebook.
  assert (film[0] != film[6]).any()


@pytest.mark.parametrize('name', ['tube', 'per_slot'])
def test_hidden_patches_are_dark(name):
  video, grid = moving(), (4, 4, 4)
  rule = jax.jit(functools.partial(MASKINGS[name], grid=grid, ratio=0.75))
  mask = rule(jax.random.key(0), None, None)
  hidden = films.hidden_map(mask, grid=grid)
  assert hidden.shape == grid and hidden.mean() == 0.75
  assert not hidden.reshape(-1)[np.asarray(mask.visible)].any()
  assert (hidden == hidden[:1]).all() == (name == 'tube')
  film = films.masked_film(video, hidden)
  for t, y, x in np.ndindex(grid):
    part = (slice(2 * t, 2 * t + 2), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
    shade = films.SHADE if hidden[t, y, x] else 1
    assert (film[part] == films.to_uint8(shade * video[part])).all()


def plain(value, frames=3, height=16, width=32):
  return np.full((frames, height, width, 3), (value, 0, 250), np.uint8)


def test_side_by_side():
  page = films.side_by_side(
    {'a': plain(10), 'b': plain(60, height=32, width=64), 'c': plain(110)},
    side=128,
    columns=2,
    title='title',
    caption='caption',
  )
  assert page.shape[0] == 3 and page.shape[2] > 2 * 128
  counts = {v: (page[0] == (v, 0, 250)).all(-1).sum() for v in (10, 60, 110)}
  # Each gets 128 x 64 pixels, enlarged to at least 128 rows: twice as large.
  assert counts == {10: 256 * 128, 60: 256 * 128, 110: 256 * 128}
  ys = {v: np.flatnonzero((page[0] == (v, 0, 250)).all(-1).any(1)).min() for v in (10, 60, 110)}
  assert ys[10] == ys[60] < ys[110]


def test_frames_are_kept_in_step():
  film = np.concatenate([plain(0, 1), plain(200, 1)])
  page = films.side_by_side({'x': film, 'y': film[::-1]}, side=128)
  left, right = page[:, page.shape[1] // 2, 60], page[:, page.shape[1] // 2, -60]
  assert left[:, 0].tolist() == [0, 200] and right[:, 0].tolist() == [200, 0]


def test_films_of_different_lengths_are_refused():
  with pytest.raises(UserError, match='these have: long 3, short 2'):
    films.side_by_side({'long': plain(0), 'short': plain(0, frames=2)})
  with pytest.raises(UserError, match='these have: none'):
    films.side_by_side({})
