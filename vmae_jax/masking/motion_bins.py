"""TrackMAE's masking: half of the visible tokens move much, half of them little."""

import math

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError
from vmae_jax.masking.mask import Grid, Mask, count, split
from vmae_jax.motion.flow import Flow, Pair, needs_flow
from vmae_jax.motion.tracking import track
from vmae_jax.types import Array, Float, Key


def flow_pairs(frames: int, *, gap: int = 2, **_) -> tuple[Pair, ...]:
  """Pairs from a frame to the one `gap` later, each starting where the last one ends."""
  return tuple((i, i + gap) for i in range(0, frames - gap, gap)) if gap > 0 else ()


@needs_flow(flow_pairs)
def motion_bins(
  key: Key[Array, ''],
  clip: Float[Array, 'T H W C'],
  flow: Flow,
  *,
  grid: Grid,
  ratio: float,
  moving: float = 0.5,
  gap: int = 2,
) -> Mask:
  """Hides int(ratio * h * w) places, the same in every time slot, chosen by how far they move.

  From the middle of each place of the first frame, a point is followed through the clip. Of k
  visible places, int(moving * k) are drawn at random from the half of all places whose points have
  the longest mean steps, and the rest from the other half.

  Args:
    key, clip, flow, grid, ratio: See `MASKINGS`.
    moving: Share of the visible places that are drawn from the half that moves more.
    gap: Frames of a step; those of a time slot in the released code.

  Raises:
    UserError: patches are not square, or a half has fewer places than are to be visible.

  Source: TrackMAE (Vandeghen et al., 2026), its released `create_mask_cotracker_motion_bins`, whose
  points are CoTracker3's.
  """
  t, h, w = grid
  pitch, n = clip.shape[1] // h, h * w
  if clip.shape[2] // w != pitch:
    raise UserError('masking motion_bins: patches must be square: choose another model.patch.')
  visible = n - count(ratio, n)
  fast, half = int(moving * visible), math.ceil(n / 2)
  if not 0 <= moving <= 1 or fast > half or visible - fast > n - half:
    raise UserError(
      f'masking motion_bins: {fast} moving and {visible - fast} other places cannot be visible, of '
      f'{half} and {n - half}: choose another moving or masking.ratio.'
    )
  tracks = track(flow.take(flow_pairs(len(clip), gap=gap))[None], size=clip.shape[1:3], pitch=pitch)
  lengths = jnp.linalg.norm(tracks.displacements[0], axis=-1).mean(axis=0).reshape(-1)
  still = jnp.argsort(jnp.argsort(-lengths, stable=True)) >= half
  # The places of the half that moves more, then those of the other, each half shuffled.
  order = jnp.argsort(jax.random.uniform(key, (n,)) + still)
  chosen = jnp.concatenate([order[:fast], order[half : half + visible - fast]])
  slot = jnp.ones(n, bool).at[chosen].set(False)
  return split(jnp.tile(slot, t), visible=t * visible)
