"""Tables of frames: nothing lost, small frames enlarged."""

import numpy as np

from vmae_jax.visualize.images import (
  MIN_SIDE,
  Shown,
  font,
  labelled_rows,
  swatch,
  text_size,
  to_uint8,
)


def test_bytes_are_rounded_and_clipped():
  values = np.array([-1.0, 0.0, 0.5, 1.0, 7.0])
  np.testing.assert_array_equal(to_uint8(values), [0, 0, 128, 255, 255])


def test_small_frames_are_enlarged_by_a_whole_factor():
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
  page = labelled_rows({'a\nb': [frame]}, columns=['frame 1'], caption='many words ' * 20)
  big = frame.repeat(12, 0).repeat(12, 1)
  assert min(big.shape[:2]) >= MIN_SIDE
  height, width, _ = big.shape
  assert any(
    np.array_equal(page[y : y + height, x : x + width], big)
    for y in range(page.shape[0] - height + 1)
    for x in range(page.shape[1] - width + 1)
  )


def test_title_and_caption_fit():
  frame = np.zeros((100, 100, 3), np.uint8)
  plain = labelled_rows({'a': [frame]}, columns=['1'])
  long = labelled_rows({'a': [frame]}, columns=['1'], title='word ' * 40, caption='word ' * 80)
  assert long.shape[1] == plain.shape[1] and long.shape[0] > plain.shape[0] + 200
  assert (long[:, -5:] == 255).all()  # Text ends before the right margin.


def test_text_is_legible_at_half_a_page_and_titles_of_columns_fit():
  for count in (4, 8):
    assert 0.02 < text_size(['frame 13'] * count, 200) / (200 * count) < 0.04
  title = 'a title of 24 characters'
  size = text_size([title] * 4, 200)
  assert 9 < size < text_size(['frame 13'] * 4, 200) and font(size).getlength(title) <= 200


def test_a_legend_has_its_colours_and_stays_on_the_page():
  frame = np.zeros((128, 128, 3), np.uint8)
  entries = {f'{value} and more words': swatch((value, 0, 0)) for value in (200, 210)}
  page = labelled_rows({'a': [frame]}, columns=['1'], legend=entries)
  places = [np.argwhere((page == (value, 0, 0)).all(-1)) for value in (200, 210)]
  assert all(len(at) > 100 for at in places)
  assert places[0][:, 0].max() < places[1][:, 0].min()  # There is no room beside it.
  assert (page[:, -5:] == 255).all()


def test_rows_show_what_they_say():
  """Values of 4 tokens, two slots of two, as brightness; the second of each is hidden."""
  hidden = np.array([False, True] * 2)
  true, predicted = np.float32([[0.1], [0.2], [0.3], [0.4]]), np.float32([[0.25], [0.5]])
  clip = np.random.default_rng(0).random((4, 4, 8, 3), np.float32)
  shown = Shown(clip, hidden, (true, predicted), (2, 4, 4))

  def draw(values):
    wide = values.reshape(2, 1, 2, 1).repeat(4, 1).repeat(4, 2)
    return to_uint8(np.broadcast_to(wide, (2, 4, 8, 3)))

  rows = shown.rows(draw, shown.slots() * 2, name='truth', gain=2.0)
  found = {label: (np.stack(row)[:, 0, ::4, 0] / 255).round(2) for label, row in rows.items()}
  np.testing.assert_array_equal(np.stack(rows['input']), to_uint8(clip[::2]))
  del found['input']
  assert {label: row.tolist() for label, row in found.items()} == {
    'truth': [[0.1, 0.2], [0.3, 0.4]],
    'visible\n50% hidden': [[0.1, 0.6], [0.3, 0.6]],
    'predicted\n× 2.0': [[0.6, 0.5], [0.6, 1.0]],
    'predicted\n+ visible': [[0.1, 0.25], [0.3, 0.5]],
  }
