"""The confusion matrix."""

import numpy as np
import pytest
from PIL import Image

from vmae_jax.visualize.confusion import confusion_matrix


@pytest.mark.parametrize('classes', [2, 12, 40, 174])
def test_it_is_drawn_for_any_number_of_classes(classes, tmp_path):
  rng = np.random.default_rng(0)
  counts = rng.integers(0, 5, (classes, classes)) + 20 * np.eye(classes, dtype=int)
  counts[-1] = 0  # A class without videos.
  names = [f'class {i}' for i in range(classes)]
  confusion_matrix(counts, names if classes < 100 else (), tmp_path / 'a.png', title='title')
  with Image.open(tmp_path / 'a.png') as picture:
    width, height = picture.size
    assert 600 < height <= width < 3000
    colours = picture.convert('RGB').getcolors(1 << 24)
  assert len(colours) > 20
