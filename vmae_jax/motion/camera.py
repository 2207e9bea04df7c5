"""The camera's motion, estimated from optical flow."""

import functools

import jax
import jax.numpy as jnp

from vmae_jax.types import Array, Float

NOISE = 0.1  # Typical error of the flow, in pixels of its grid.
PAN_ROUNDS = 8
OUTLIER_SCALES = (16, 8, 4, 2, 1, 1)  # One for each later round, in units of NOISE.
SLOPE_PENALTY = 0.3  # On zoom, roll and shear in the pan rounds; see below.


def camera_motion(flow: Float[Array, '*b h w 2']) -> Float[Array, '*b h w 2']:
  """The affine motion (pan, zoom, roll, shear) that most of each frame follows.

  `flow - camera_motion(flow)` is the motion of objects. Flow and result are in pixels of the flow's
  grid. MME removes the camera's motion with a homography between points matched in the frames;
  fitting an affine motion to the flow, by iteratively reweighted least squares, is our choice. In
  the first rounds, weights are one over the distance from the last fit, which minimises the sum of
  distances instead of squares, and a penalty allows little but a pan: otherwise an object that
  covers a third of the frame at one side would tilt the fit. Later rounds have the weights of Geman
  and McClure, with a scale that falls to NOISE.
  """
  h, w = flow.shape[-3:-1]
  x, y = jnp.meshgrid(jnp.linspace(-1, 1, w), jnp.linspace(-1, 1, h))
  basis = jnp.stack([jnp.ones_like(x), x, y], axis=-1)
  einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

  def fit(weights, slope_penalty):
    weights /= weights.sum(axis=(-2, -1), keepdims=True)
    normal = einsum('...hw,hwi,hwj->...ij', weights, basis, basis)
    right = einsum('...hw,hwi,...hwc->...ic', weights, basis, flow)
    motion = jnp.linalg.solve(
      normal + jnp.diag(jnp.array([0, slope_penalty, slope_penalty])), right
    )
    return einsum('hwi,...ic->...hwc', basis, motion)

  def pan(field, _):
    error = jnp.square(flow - field).sum(axis=-1)
    return fit(1 / jnp.sqrt(error + NOISE**2), SLOPE_PENALTY), None

  def refine(field, scale):
    error = jnp.square(flow - field).sum(axis=-1)
    # The small penalty makes the solution unique if the weighted values do not.
    return fit(jnp.square(scale**2 / (scale**2 + error)), 1e-6), None

  field, _ = jax.lax.scan(pan, jnp.zeros_like(flow), length=PAN_ROUNDS)
  return jax.lax.scan(refine, field, NOISE * jnp.array(OUTLIER_SCALES, jnp.float32))[0]
