"""Points that follow optical flow: the trajectories of MME's motion target.

Points start in the middle of the cells of a grid and are moved from frame to frame by the flow at
their place. Positions are (x, y) in pixels of the clip, x to the right and y downwards, from the
frame's corner: pixel i covers [i, i + 1], and its middle is i + 0.5. With these coordinates a
mirrored clip has mirrored positions, and grids of all sizes cover the same frame.

Axes beside those of `vmae_jax.types`: L steps; Hc and Wc rows and columns of cells, one point each.

Source: MME (Sun et al., 2023), section 3.3, after dense trajectories (Wang et al., 2013).
"""

import flax.struct
import jax
import jax.numpy as jnp

from vmae_jax import sharding
from vmae_jax.frozen.raft_correlation import hat
from vmae_jax.types import Array, Bool, Float

LONGEST = 20  # In pixels; the released code clips each component of a step to +- this.


@flax.struct.dataclass
class Tracks:
  """Where points went; a pytree.

  Attributes:
    displacements: The recorded displacement of each step, in pixels of the clip.
    positions: Positions before each step and after the last one. A point that has left the frame
      is put back on its edge before the next step.
    inside: Whether the point was in the frame at the start of this and of all earlier steps.
  """

  displacements: Float[Array, 'b L Hc Wc 2']
  positions: Float[Array, 'b L+1 Hc Wc 2']
  inside: Bool[Array, 'b L Hc Wc']

  @property
  def valid(self) -> Bool[Array, 'b Hc Wc']:
    """Whether the point was in the frame at the start of every step."""
    return self.inside[:, -1]


def track(
  flow: Float[Array, 'b L h w 2'],
  *,
  size: tuple[int, int],
  pitch: int = 8,
  described: Float[Array, 'b L h w 2'] | None = None,
  integer: bool = False,
) -> Tracks:
  """Follows one point of each cell over L steps.

  Args:
    flow: Flow from frame j to frame j + 1, in pixels of its own grid, which may be coarser than
      the clip.
    size: Height and width of the clip.
    pitch: Height and width of a cell, in pixels of the clip.
    described: Flow that is recorded as displacements in place of `flow`, on the same grid, such as
      flow without the camera's motion; points still follow `flow`. (In the released code points
      follow the recorded flow.)
    integer: Follows the released code: flow is taken from the pixel that the point is in and
      truncated to whole pixels, and recorded steps are clipped to LONGEST. Motion of less than a
      pixel is lost.
  """
  height, width = size
  both = flow if described is None else jnp.concatenate([flow, described], axis=-1)
  look_up = _truncated if integer else _bilinear
  end = jnp.array([width, height], jnp.float32) - integer
  middle = pitch // 2 if integer else pitch / 2
  x, y = (middle + pitch * jnp.arange(side // pitch) for side in (width, height))
  seeds = jnp.stack(jnp.meshgrid(x, y), axis=-1).astype(jnp.float32)
  start = jnp.broadcast_to(seeds, (len(flow), *seeds.shape))

  def step(state, values):
    position, valid = state
    valid &= ((position >= 0) & (position <= end)).all(axis=-1)
    position = jnp.clip(position, 0, end)
    found = jax.vmap(lambda v, p: look_up(v, p, size))(values, position)
    return (position + found[..., :2], valid), (position, found[..., -2:], valid)

  state = start, jnp.ones(start.shape[:-1], bool)
  (last, _), found = jax.lax.scan(step, state, jnp.moveaxis(both, 1, 0))
  positions, displacements, inside = found
  if integer:
    displacements = jnp.clip(displacements, -LONGEST, LONGEST)
  positions = jnp.concatenate([positions, last[None]])
  return Tracks(*(jnp.moveaxis(x, 0, 1) for x in (displacements, positions, inside)))


def _bilinear(
  flow: Float[Array, 'h w f'], position: Float[Array, 'Hc Wc 2'], size: tuple[int, int]
) -> Float[Array, 'Hc Wc f']:
  """The flow at the points, bilinear, in pixels of the clip; constant beyond outermost values."""
  rows, columns, _ = flow.shape
  last = jnp.array([columns - 1, rows - 1], jnp.float32)
  place = jnp.clip(position / _scale(flow, size)[:2] - 0.5, 0, last)
  if sharding.platform() == 'tpu':  # It gathers value by value; most weights are 0.
    weights = hat(place[..., 0], columns), hat(place[..., 1], rows)
    found = jnp.einsum('yxf,HWy->HWfx', flow, weights[1], precision='highest')
    return (found * weights[0][..., None, :]).sum(-1) * _scale(flow, size)
  low = jnp.floor(place)
  part = place - low
  (x, y), (x2, y2) = (jnp.moveaxis(i.astype(int), -1, 0) for i in (low, jnp.minimum(low + 1, last)))
  right, down = part[..., :1], part[..., 1:]
  upper = flow[y, x] * (1 - right) + flow[y, x2] * right
  lower = flow[y2, x] * (1 - right) + flow[y2, x2] * right
  return (upper * (1 - down) + lower * down) * _scale(flow, size)


def _truncated(
  flow: Float[Array, 'h w f'], position: Float[Array, 'Hc Wc 2'], size: tuple[int, int]
) -> Float[Array, 'Hc Wc f']:
  """The flow of the pixel that a point is in, truncated to whole pixels of the clip."""
  x, y = jnp.moveaxis((position / _scale(flow, size)[:2]).astype(int), -1, 0)
  return jnp.trunc(flow[y, x] * _scale(flow, size))


def _scale(flow: Float[Array, 'h w f'], size: tuple[int, int]) -> Float[Array, ' f']:
  """Pixels of the clip per pixel of the flow's grid: (x, y), twice if two flows are stacked."""
  h, w, f = flow.shape
  return jnp.array([size[1] / w, size[0] / h] * (f // 2), jnp.float32)


def median(flow: Float[Array, '*b h w 2']) -> Float[Array, '*b h w 2']:
  """The median of each component over each 3 x 3 window, with edges repeated.

  It removes single wrong values and keeps the edges of moving objects sharp. The paper applies it
  before each look-up; the released code has the filter but does not use it.
  """

  def three(x, axis):  # The lowest, middle and highest of three neighbours along an axis.
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded, n = jnp.pad(x, pad, mode='edge'), x.shape[axis]
    a, b, c = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(3))
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    return jnp.minimum(low, c), jnp.maximum(low, jnp.minimum(high, c)), jnp.maximum(high, c)

  # With each column of a window sorted, the median of all nine values is the median of three: the
  # highest of the columns' lowest, the median of their middle ones, the lowest of their highest.
  low, middle, high = three(flow, -3)
  a, b, c = three(low, -2)[2], three(middle, -2)[1], three(high, -2)[0]
  return jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
