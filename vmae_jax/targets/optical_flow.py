"""Motion as optical flow: the alternative to frame differences in MAM2 and to tracks in MME."""

import einops
import jax.numpy as jnp

from vmae_jax.errors import UserError, lookup
from vmae_jax.motion.flow import Flow, Pair, needs_flow
from vmae_jax.targets.pixels import NORMALISATIONS
from vmae_jax.types import Array, Float, Num


def flow_pairs(frames: int, *, gap: int = 1, **_) -> tuple[Pair, ...]:
  """From each frame to the one `gap` later, as far as the clip goes."""
  return tuple((i, i + gap) for i in range(frames - gap)) if gap > 0 else ()


@needs_flow(flow_pairs)
def optical_flow(
  clip: Num[Array, 'b T H W C'],
  followed: None,
  *,
  flow: Flow,
  patch: tuple[int, int, int],
  gap: int = 1,
  cells: int = 4,
  normalise: str = 'global',
  eps: float = 0.1,
  scale: float = 2.0,
) -> Float[Array, 'b n f']:
  """Where the content of each cell of a token goes, frame by frame: mean flow in pixels.

  The flow is that of the step, from the estimator that `motion.name` names, which maskings share.

  Args:
    clip, followed, patch: See `TARGETS`.
    flow: Of the pairs that `flow_pairs` names, on any grid that the cells divide.
    gap: From a frame to the one in which its content is looked for, in sampled frames. The last
      frames, which have none, repeat the flow of the last one that has.
    cells: In a token's row and column; the mean over each cell is predicted. Ours: whole pixels
      would be more values than an estimate is worth.
    normalise: `patch`, each token's deviation from its mean, which says nothing of a token that
      moves as one; `global` or `none`. Ours, as neither paper tells how flow is scaled.
    eps: With `patch`: added to a token's standard deviation, in pixels.
    scale: With `global`: what the flow is divided by, in pixels.

  Returns:
    In the order (frame, row and column of the cell, x and y), x to the right and y downwards.

  Raises:
    UserError: an unknown option, or sides that do not divide.
  """
  function = lookup(NORMALISATIONS, normalise, 'target optical_flow, normalise')
  _, frames, height, width, _ = clip.shape
  pt, ph, pw = patch
  values = flow.take(flow_pairs(frames, gap=gap))
  rows, columns = cells * height // ph, cells * width // pw
  if cells < 1 or values.shape[2] % rows or values.shape[3] % columns:
    raise UserError(
      f'optical_flow: flow on {values.shape[2]} x {values.shape[3]} points cannot be cut into '
      f'{rows} x {columns} cells: choose fewer cells in a token.'
    )
  values = values * jnp.array([width / values.shape[3], height / values.shape[2]])
  values = jnp.pad(values, ((0, 0), (0, gap), (0, 0), (0, 0), (0, 0)), mode='edge')
  values = einops.reduce(values, 'b T (h p) (w q) two -> b T h w two', 'mean', h=rows, w=columns)
  values = einops.rearrange(
    values,
    'b (t pt) (h y) (w x) two -> b (t h w) (pt y x two)',
    pt=pt,
    y=cells,
    x=cells,
  )
  return function(values, channels=2, eps=eps, scale=scale)
