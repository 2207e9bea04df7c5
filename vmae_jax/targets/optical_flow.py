"""Motion as optical flow: the alternative to frame differences in MAM2 and to tracks in MME."""

import einops
import jax.numpy as jnp

from vmae_jax.errors import UserError, lookup
from vmae_jax.motion.flow import Flow, Pair, needs_flow
from vmae_jax.targets.pixels import NORMALISATIONS
from vmae_jax.types import Array, Float, Num


def flow_pairs(frames: int, *, gap: int = 1, **_) -> tuple[Pair, ...]:
  """Pairs from each frame to the one `gap` later, if the clip has it."""
  return tuple((i, i + gap) for i in range(frames - gap)) if gap > 0 else ()


def flow_of_frames(
  clip: Num[Array, 'b T H W C'], flow: Flow, *, gap: int, rows: int, columns: int, name: str
) -> Float[Array, 'b T h w 2']:
  """The flow of every frame, in pixels of the clip; the last ones repeat the last that is known.

  Raises:
    UserError: the flow's grid does not divide into rows x columns cells; `name` is the target.
  """
  _, frames, height, width, _ = clip.shape
  values = flow.take(flow_pairs(frames, gap=gap))
  h, w = values.shape[2:4]
  if rows < 1 or columns < 1 or h % rows or w % columns:
    raise UserError(
      f'{name}: flow on {h} x {w} points cannot be cut into {rows} x {columns} cells: choose '
      'another data.size, model.patch or motion.name, or (for optical_flow) fewer cells.'
    )
  values = values * jnp.array([width / w, height / h])
  return jnp.pad(values, ((0, 0), (0, gap), (0, 0), (0, 0), (0, 0)), mode='edge')


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
  """The mean flow of each cell of a token, for each frame, in pixels of the clip.

  The flow is from the estimator `motion.name` and is shared with maskings.

  Args:
    clip, followed, patch: See `TARGETS`.
    flow: Flow of the pairs of `flow_pairs`, on any grid that divides into cells.
    gap: Flow is from a frame to the one `gap` later in the clip. The last `gap` frames repeat the
      flow of the last frame that has one.
    cells: Cells in a token's row and column. The default is our choice: an estimate is too coarse
      for the flow of each pixel to be worth predicting.
    normalise: `patch`, each token's deviation from its mean, which is zero if the token moves as a
      whole; `global` or `none`. The default is our choice: neither paper says how flow is scaled.
    eps: With `patch`: added to a token's standard deviation, in pixels.
    scale: With `global`: the flow is divided by it, in pixels.

  Returns:
    Values in the order (frame, row and column of the cell, x and y), x to the right and y
    downwards.

  Raises:
    UserError: an option is unknown, or the flow's grid does not divide into cells.
  """
  function = lookup(NORMALISATIONS, normalise, 'target optical_flow, normalise')
  (height, width), (pt, ph, pw) = clip.shape[2:4], patch
  rows, columns = cells * height // ph, cells * width // pw
  values = flow_of_frames(clip, flow, gap=gap, rows=rows, columns=columns, name='optical_flow')
  values = einops.reduce(values, 'b T (h p) (w q) two -> b T h w two', 'mean', h=rows, w=columns)
  values = einops.rearrange(
    values, 'b (t pt) (h y) (w x) two -> b (t h w) (pt y x two)', pt=pt, y=cells, x=cells
  )
  return function(values, channels=2, eps=eps, scale=scale)
