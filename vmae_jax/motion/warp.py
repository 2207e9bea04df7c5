"""Warping of maps along optical flow: exact in pixel coordinates, zeros outside.

`x + flow` may be anywhere: between pixels values are interpolated, and beyond the edge they fade
to zero within one pixel.
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
    released_scale: Shortens the flow by (W - 1) / W and (H - 1) / H, as MGMAE's released code
      does: it divides by W / 2 where its grid spans W - 1 pixels.
  """
  height, width = image.shape
  if released_scale:
    flow = flow * jnp.array([(width - 1) / width, (height - 1) / height])
  if sharding.platform() == 'tpu':  # It gathers value by value; most weights are 0.
    target = _targets(flow)
    rows = jnp.einsum('yx,HWy->HWx', image, hat(target[..., 1], height), precision='high')
    return (rows * hat(target[..., 0], width)).sum(-1)
  corners, weights = _corners(flow)
  # All look-ups outside the image take the one pixel of zeros around it.
  padded = jnp.pad(image, 1).reshape(-1)
  index = (corners[..., 1] + 1) * (width + 2) + corners[..., 0] + 1
  return (padded[index] * weights).sum(0)


def splat_forward(
  image: Float[Array, 'H W'], flow: Float[Array, 'H W 2'], *, released_scale: bool = False
) -> Float[Array, 'H W']:
  """Sends each pixel to where the flow points to, and takes the mean of what arrives.

  Papers call it average splatting: bilinear weights, zero where nothing arrives.

  Args:
    image: The map of frame i.
    flow: Flow from frame i to frame j; the result belongs to frame j.
    released_scale: An error: only the backward warp has it.

  Raises:
    UserError: released_scale was asked for.
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
  """Where the flow of each pixel points to."""
  height, width, _ = flow.shape
  return jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), -1) + flow


def _corners(
  flow: Float[Array, 'H W 2'],
) -> tuple[Int[Array, '4 H W 2'], Float[Array, '4 H W']]:
  """The four pixels (x, y) around each target of the flow, and their bilinear weights.

  Pixels further outside than one are moved to one pixel outside of the image.
  """
  height, width, _ = flow.shape
  target = _targets(flow)
  low = jnp.floor(target)
  part = target - low
  steps = jnp.array([[0, 0], [1, 0], [0, 1], [1, 1]])[:, None, None]
  corners = jnp.clip(low + steps, -1, jnp.array([width, height])).astype(jnp.int32)
  weights = jnp.where(steps == 1, part, 1 - part).prod(-1)
  return corners, weights


# Name -> what fills the pixels that a warp left at exactly zero: (base map, map before).
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
  """Warps a map from frame to frame, outwards from the base frame; returns all of them.

  Args:
    base: The map of the base frame.
    flows: One for each step, as `warp` takes it.
    started: Steps that are taken; the map stays the base map until the first of them.
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
