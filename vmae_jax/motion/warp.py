"""Warping of maps along optical flow, in pixel coordinates.

Between pixels values are interpolated; beyond the edge they fall to zero within one pixel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vmae_jax import sharding
from vmae_jax.errors import UserError
from vmae_jax.frozen.raft_correlation import hat
from vmae_jax.types import Array, Bool, Float, Int


def warp_backward(
  image: Float[Array, 'H W'], flow: Float[Array, 'H W 2'], *, released_scale: bool = False
) -> Float[Array, 'H W']:
  """Takes each pixel from where the flow points to: out(p) = image(p + flow(p)), bilinearly.

  Args:
    image: The map of frame j.
    flow: Flow from frame i to frame j; the result belongs to frame i.
    released_scale: Whether to multiply the flow by (W - 1) / W and (H - 1) / H, as MGMAE's released
      code does: it divides by W / 2, but its grid spans W - 1 pixels.
  """
  height, width = image.shape
  if released_scale:
    flow = flow * jnp.array([(width - 1) / width, (height - 1) / height])
  if sharding.platform() == 'tpu':  # A gather would be slow there: it goes value by value.
    target = _targets(flow)
    rows = jnp.einsum('yx,HWy->HWx', image, hat(target[..., 1], height), precision='high')
    return (rows * hat(target[..., 0], width)).sum(-1)
  corners, weights = _corners(flow)
  # Corners outside the image lie on a border of zeros, one pixel wide.
  padded = jnp.pad(image, 1).reshape(-1)
  index = (corners[..., 1] + 1) * (width + 2) + corners[..., 0] + 1
  return (padded[index] * weights).sum(0)


def splat_forward(
  image: Float[Array, 'H W'], flow: Float[Array, 'H W 2'], *, released_scale: bool = False
) -> Float[Array, 'H W']:
  """Average splatting: sends each pixel to where the flow points; arriving values are averaged.

  Weights are bilinear; the result is zero where nothing arrives.

  Args:
    image: The map of frame i.
    flow: Flow from frame i to frame j; the result belongs to frame j.
    released_scale: Must be False: only the backward warp has this option.

  Raises:
    UserError: released_scale is set.
  """
  if released_scale:
    raise UserError('released_scale belongs to the backward warp: leave one of the two out.')
  height, width = image.shape
  corners, weights = _corners(flow)
  index = ((corners[..., 1] + 1) * (width + 2) + corners[..., 0] + 1).reshape(-1)
  arriving = jnp.stack([weights * image, weights], -1).reshape(-1, 2)
  sums = jnp.zeros(((height + 2) * (width + 2), 2)).at[index].add(arriving)
  total, weight = jnp.moveaxis(sums.reshape(height + 2, width + 2, 2)[1:-1, 1:-1], -1, 0)
  return total / jnp.where(weight == 0, 1, weight)


def _targets(flow: Float[Array, 'H W 2']) -> Float[Array, 'H W 2']:
  """The position (x, y) that each pixel's flow points to."""
  height, width, _ = flow.shape
  return jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), -1) + flow


def _corners(flow: Float[Array, 'H W 2']) -> tuple[Int[Array, '4 H W 2'], Float[Array, '4 H W']]:
  """The four pixels (x, y) around each target of the flow, and their bilinear weights.

  Pixels more than one pixel outside the image are moved to one pixel outside.
  """
  height, width, _ = flow.shape
  target = _targets(flow)
  low = jnp.floor(target)
  part = target - low
  steps = jnp.array([[0, 0], [1, 0], [0, 1], [1, 1]])[:, None, None]
  corners = jnp.clip(low + steps, -1, jnp.array([width, height])).astype(jnp.int32)
  weights = jnp.where(steps == 1, part, 1 - part).prod(-1)
  return corners, weights


# Name -> values for pixels that a warp leaves at exactly zero: (base map, map before the warp).
HOLE_FILLINGS = {
  'consistent': lambda base, before: base,
  'previous': lambda base, before: before,
  'none': lambda base, before: jnp.zeros_like(base),
}


def chain(
  base: Float[Array, 'H W'],
  flows: Float[Array, 'e H W 2'],
  started: Bool[Array, ' e'],
  *,
  warp: Callable[..., Array],
  fill: Callable[..., Array],
) -> Float[Array, 'e H W']:
  """Warps a map from frame to frame, outwards from the base frame; returns the map of each step.

  Args:
    base: The map of the base frame.
    flows: The flow of each step, as `warp` takes it.
    started: Whether each step is taken; until the first of them the map is the base map.
    warp: `warp_backward` or `splat_forward`.
    fill: An entry of HOLE_FILLINGS.
  """

  def step(before, inputs):
    flow, take = inputs
    warped = warp(before, flow)
    filled = jnp.where(warped == 0, fill(base, before), warped)
    after = jnp.where(take, filled, before)
    return after, after

  return jax.lax.scan(step, base, (flows, started))[1]
