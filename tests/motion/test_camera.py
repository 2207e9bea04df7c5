"""The camera's motion, with objects that move by themselves."""

import jax
import numpy as np
import pytest

from vmae_jax.motion.camera import camera_motion

fit = jax.jit(camera_motion)
H, W = 40, 56


def affine(matrix, shift):
  x, y = np.meshgrid(np.arange(W) - W / 2, np.arange(H) - H / 2)
  at = np.stack([x, y], -1)
  return (at @ (np.array(matrix).T - np.eye(2)) + shift).astype(np.float32)


CAMERAS = {
  'still': affine(np.eye(2), (0, 0)),
  'pan': affine(np.eye(2), (-2.5, 1)),
  'zoom': affine(np.eye(2) * 1.04, (0.5, 0)),
  'roll': affine([[0.998, -0.06], [0.06, 0.998]], (0, 3)),
}


@pytest.mark.parametrize('name', CAMERAS)
def test_a_moving_foreground_does_not_change_the_cameras_motion(name):
  camera = CAMERAS[name]
  flow = camera.copy()
  flow[8:36, 4:30] += (6, 2.5)  # A third of the frame, at one side.
  flow[2:10, 40:54] -= (3, 4)
  off = np.abs(np.asarray(fit(flow)) - camera).max()
  assert off < 0.02
  left = flow - np.asarray(fit(flow))
  np.testing.assert_allclose(left[20, 20], (6, 2.5), atol=0.02)
  np.testing.assert_allclose(left[38, 50], 0, atol=0.02)


@pytest.mark.parametrize('name', ['still', 'pan', 'zoom'])
def test_a_third_of_the_frame_along_one_side_does_not_tilt_the_rest(name):
  flow = CAMERAS[name].copy()
  flow[26:] += (3, 0)
  assert np.abs(np.asarray(fit(flow)) - CAMERAS[name]).max() < 0.02


def test_noise_is_averaged():
  rng = np.random.default_rng(0)
  camera = np.stack(list(CAMERAS.values()))
  flow = camera + rng.normal(0, 0.1, camera.shape).astype(np.float32)
  flow[:, 8:30, 10:30] += (4, -4)
  assert np.abs(np.asarray(fit(flow)) - camera).max() < 0.05


def test_frames_are_fitted_one_by_one():
  camera = np.stack(list(CAMERAS.values()))
  together = np.asarray(fit(camera.reshape(2, 2, H, W, 2)))
  for i in range(4):
    np.testing.assert_allclose(together.reshape(4, H, W, 2)[i], fit(camera[i]), atol=1e-4)
