"""Tables of frames: nothing lost, small frames enlarged."""

import numpy as np

from vmae_jax.visualize.images import MIN_SIDE, labelled_rows, to_uint8


def test_bytes_are_rounded_and_clipped():
  values = np.array([-1.0, 0.0, 0.5, 1.0, 7.0])
  np.testing.assert_array_equal(to_uint8(values), [0, 0, 128, 255, 255])


def test_small_frames_are_enlarged_by_a_whole_factor():
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
  page = labelled_rows({'a\nb': [frame]}, columns=['frame 1'], caption='many words ' * 20)
  big = frame.repeat(10, 0).repeat(10, 1)
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
  assert long.shape[1] > plain.shape[1] and long.shape[0] > plain.shape[0]
  assert (long[:, -5:] == 255).all()  # Text ends before the right margin.
