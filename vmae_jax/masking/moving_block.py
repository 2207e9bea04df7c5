"""MGM's masking: one hidden block, which moves with the content under it."""

import math

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError
from vmae_jax.masking.mask import Grid, Mask, count, split
from vmae_jax.masking.motion_bins import flow_pairs
from vmae_jax.motion.flow import Flow, needs_flow
from vmae_jax.motion.tracking import median, track
from vmae_jax.types import Array, Float, Key

STILL = 0.1  # Added to all lengths of steps, in pixels: in a still clip places are equally likely.


@needs_flow(flow_pairs)
def moving_block(
  key: Key[Array, ''],
  clip: Float[Array, 'T H W C'],
  flow: Flow,
  *,
  grid: Grid,
  ratio: float,
  gap: int = 2,
  aspect: tuple[float, float] = (0.75, 1.5),
) -> Mask:
  """Hides in each time slot the int(ratio * h * w) places nearest to a point that follows the flow.

  The distance is the larger of those along x and y, so that hidden places are a rectangle. If it
  reaches beyond the frame's edge, more places are hidden on the other side. The point starts in the
  middle of a place of the first frame, drawn in proportion to the mean length of the place's steps,
  follows the median of 3 x 3 flow values, and stays on the edge if its content leaves the frame.

  Args:
    key, clip, flow, grid, ratio: See `MASKINGS`.
    gap: Frames of a step, which must be those of a time slot.
    aspect: Bounds of the block's height over width, in places, drawn for each clip.

  Raises:
    UserError: patches are not square, or `gap` is not the number of frames of a time slot.

  Source: MGM (Fan et al., 2023), whose masks follow the codec's motion vectors over time; no code
  is public. The block's shape, its start and how it follows the flow are our choices.
  """
  t, h, w = grid
  pitch = clip.shape[1] // h
  if clip.shape[2] // w != pitch or gap * t != len(clip):
    raise UserError(
      f'masking moving_block: patches must be square, and gap, which is {gap}, must be the frames '
      'of a patch: choose another model.patch or gap.'
    )
  values = median(flow.take(flow_pairs(len(clip), gap=gap)))
  tracks = track(values[None], size=clip.shape[1:3], pitch=pitch)
  steps = jnp.linalg.norm(tracks.displacements[0], axis=-1).mean(axis=0).reshape(-1)
  place_key, aspect_key = jax.random.split(key)
  place = jax.random.categorical(place_key, jnp.log(steps + STILL))
  low, high = map(math.log, aspect)
  tall = jnp.exp(jax.random.uniform(aspect_key, minval=low, maxval=high) / 2)
  centre = tracks.positions[0].reshape(t, h * w, 2)[:, place] / pitch
  # The position after the last step may be outside the frame.
  x, y = (jnp.clip(centre[:, i], 0, side) - 0.5 for i, side in enumerate((w, h)))
  rows, columns = (jnp.abs(jnp.arange(n) - at[:, None]) for n, at in ((h, y), (w, x)))
  distance = jnp.maximum(rows[:, :, None] / tall, columns[:, None] * tall).reshape(t, -1)
  hidden = count(ratio, h * w)
  rank = jnp.argsort(jnp.argsort(distance, axis=1, stable=True), axis=1)
  return split((rank < hidden).reshape(-1), visible=t * (h * w - hidden))
