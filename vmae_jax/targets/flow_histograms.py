"""Motion as histograms of flow and of motion boundaries, which MME compares trajectories with."""

import einops
import jax.numpy as jnp
import numpy as np

from vmae_jax.motion.flow import Flow, needs_flow
from vmae_jax.targets.optical_flow import flow_of_frames, flow_pairs
from vmae_jax.types import Array, Float, Num

BINS = 8  # Bins of 45 degrees.


def _histograms(
  vectors: Float[Array, 'b T h w 2'], *, t: int, rows: int, columns: int, still: float = 0.0
) -> Float[Array, 'b t _ _ bins']:
  """Histograms of direction for each cell: a vector's length is shared by the two nearest bins.

  Args:
    vectors: (x, y), y downwards.
    t, rows, columns: The numbers of cells in time, from top to bottom and from left to right.
    still: Each vector shorter than this counts as 1 in an extra last bin instead; 0: no such bin.
  """
  length = jnp.sqrt(jnp.square(vectors).sum(axis=-1))
  place = jnp.arctan2(vectors[..., 1], vectors[..., 0]) * (BINS / (2 * np.pi))
  away = jnp.abs((place[..., None] - jnp.arange(BINS) + BINS / 2) % BINS - BINS / 2)
  values = jnp.maximum(1 - away, 0) * length[..., None]
  if still:
    rests = (length < still)[..., None]
    values = jnp.concatenate([jnp.where(rests, 0, values), rests], axis=-1)
  cells = dict(t=t, y=rows, x=columns)
  return einops.reduce(values, 'b (t p) (y q) (x r) k -> b t y x k', 'sum', **cells)


def _cells(
  clip: Num[Array, 'b T H W C'], flow: Flow, patch: tuple[int, int, int], gap: int, name: str
) -> tuple[Float[Array, 'b T h w 2'], dict[str, int]]:
  """Flow of every frame in pixels of the clip, and the numbers of cells: 2 x 2 for each token."""
  _, frames, height, width, _ = clip.shape
  cells = dict(rows=2 * height // patch[1], columns=2 * width // patch[2])
  values = flow_of_frames(clip, flow, gap=gap, **cells, name=name)
  return values, dict(t=frames // patch[0], **cells)


def _of_tokens(cells: Float[Array, 'b t y x k'], *, eps: float = 1e-3) -> Float[Array, 'b n f']:
  """Each token's values, divided by their norm, in the order (bin, row and column of the cell)."""
  values = einops.rearrange(cells, 'b t (h y) (w x) k -> b (t h w) (k y x)', y=2, x=2)
  return values / jnp.sqrt(jnp.square(values).sum(axis=-1, keepdims=True) + eps**2)


@needs_flow(flow_pairs)
def hof(
  clip: Num[Array, 'b T H W C'],
  followed: None,
  *,
  flow: Flow,
  patch: tuple[int, int, int],
  gap: int = 1,
  still: float = 0.4,
) -> Float[Array, 'b n f']:
  """Histograms of optical flow (HOF) in 2 x 2 cells of a token.

  Args:
    clip, followed, patch, flow, gap: See `optical_flow`.
    still: Flow shorter than this, in pixels, counts in a ninth bin.

  Returns:
    36 values for each token, with norm 1, in the order (bin, row and column of the cell); bin 0 is
    motion to the right, bin 2 downwards.

  Raises:
    UserError: the flow's grid does not divide into cells.

  Source: dense trajectories (Wang et al., 2013), section 3.2: 8 directions and a bin for no motion,
  L2 norm. Computing it for a token's time slot is our choice.
  """
  values, cells = _cells(clip, flow, patch, gap, 'hof')
  return _of_tokens(_histograms(values, **cells, still=still))


@needs_flow(flow_pairs)
def mbh(
  clip: Num[Array, 'b T H W C'],
  followed: None,
  *,
  flow: Flow,
  patch: tuple[int, int, int],
  gap: int = 1,
) -> Float[Array, 'b n f']:
  """Motion boundary histograms (MBH): of the flow's gradients, which a camera pan does not change.

  Args:
    clip, followed, patch, flow, gap: See `optical_flow`.

  Returns:
    64 values for each token: 32 of the flow to the right, then 32 of that downwards, both with norm
    1 and in the order of `hof`, without a ninth bin.

  Raises:
    UserError: the flow's grid does not divide into cells.

  Source: Dalal et al., 2006; dense trajectories (Wang et al., 2013), section 3.2.
  """
  values, cells = _cells(clip, flow, patch, gap, 'mbh')
  down, right = jnp.gradient(values, axis=(2, 3))
  parts = [
    _of_tokens(_histograms(jnp.stack([right[..., i], down[..., i]], axis=-1), **cells))
    for i in range(2)
  ]
  return jnp.concatenate(parts, axis=-1)
