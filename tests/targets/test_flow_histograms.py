"""Histograms of flow and of motion boundaries, with values computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.motion.flow import Flow
from vmae_jax.targets.flow_histograms import hof, mbh
from vmae_jax.targets.optical_flow import flow_pairs

PATCH, CLIP = (2, 8, 8), jnp.zeros((1, 4, 16, 16, 3))


def ask(target, vectors, **options):
  """Values (slot, row, column, bins, 2, 2) of a clip with the same flow, in pixels, throughout."""
  values = np.broadcast_to(np.asarray(vectors, np.float32) / 2, (1, 3, 8, 8, 2))  # Half as fine.
  flow = Flow(jnp.asarray(values), flow_pairs(4))
  found = np.asarray(target(CLIP, None, flow=flow, patch=PATCH, **options))
  return found.reshape(2, 2, 2, -1, 2, 2)


@pytest.mark.parametrize(
  'vector, bins',
  [
    ((2, 0), {0: 1}),
    ((0, 3), {2: 1}),
    ((-1, 0), {4: 1}),
    ((0, -1), {6: 1}),
    ((0.1, 0.1), {8: 1}),
    ((np.cos(np.pi / 8), np.sin(np.pi / 8)), {0: 0.5, 1: 0.5}),
    ((np.cos(np.pi / 16), -np.sin(np.pi / 16)), {0: 0.75, 7: 0.25}),
  ],
)
def test_flow_counts_by_its_direction(vector, bins):
  found = ask(hof, vector)
  expected = np.zeros(9)
  expected[list(bins)] = list(bins.values())
  expected /= np.linalg.norm(expected) * 2  # Four cells are alike.
  np.testing.assert_allclose(
    found, np.broadcast_to(expected[:, None, None], found.shape), atol=1e-3
  )


def test_cells_keep_their_places():
  vectors = np.zeros((8, 8, 2))
  vectors[:2, 2:4] = (4, 0)  # The upper right cell of the first token.
  found = ask(hof, vectors)[0]
  assert found[0, 0, 0, 0, 1] > 0.8 and found[0, 0, 0].sum() == found[0, 0, 0, 0, 1]
  np.testing.assert_allclose(found[1, 1, 8], 0.5, atol=1e-3)


def test_a_slot_has_its_own_frames_and_the_last_one_repeats():
  vectors = np.reshape([(2, 0), (2, 0), (0, 2)], (3, 1, 1, 2))
  found = ask(hof, vectors)
  np.testing.assert_allclose(found[0, ..., 0, :, :], 0.5, atol=1e-3)
  np.testing.assert_allclose(found[1, ..., 2, :, :], 0.5, atol=1e-3)


def test_a_pan_has_no_boundaries_and_a_zoom_one_direction():
  assert not ask(mbh, (5, -3)).any()
  x = np.arange(8) * 2.0
  zoom = np.stack(np.meshgrid(0.1 * x, 0.2 * x), axis=-1)  # u grows to the right, v downwards.
  found = ask(mbh, zoom)
  right, down = found[..., :8, :, :], found[..., 8:, :, :]
  np.testing.assert_allclose(right[..., 0, :, :], 0.5, atol=1e-3)
  np.testing.assert_allclose(down[..., 2, :, :], 0.5, atol=1e-3)
  assert abs(found).sum() == pytest.approx(2 * 8 * 4 * 0.5, rel=1e-2)


def test_a_grid_that_does_not_divide_is_an_error():
  flow = Flow(jnp.zeros((1, 3, 6, 6, 2)), flow_pairs(4))
  with pytest.raises(UserError, match='6 x 6 points cannot be cut into 4 x 4'):
    hof(CLIP, None, flow=flow, patch=PATCH)
