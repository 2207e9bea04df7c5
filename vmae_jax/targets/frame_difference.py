"""Motion as the difference of frames: the motion target of MotionMAE and MAM2."""

import jax.numpy as jnp

from vmae_jax.errors import UserError, lookup
from vmae_jax.models.patches import patchify
from vmae_jax.targets.pixels import NORMALISATIONS
from vmae_jax.types import Array, Float

PADS = {'repeat': 'edge', 'zero': 'constant'}


def frame_difference(
  clip: Float[Array, 'b T H W C'],
  flow: Float[Array, 'b _ H W 2'] | None,
  *,
  patch: tuple[int, int, int],
  gap: int = 1,
  pad: str = 'repeat',
  absolute: bool = False,
  normalise: str = 'patch',
  eps: float = 0.03,
) -> Float[Array, 'b n p']:
  """Signed difference of each sampled frame to the one `gap` before it, in [-1, 1].

  Args:
    clip: In [0, 1], not normalised.
    flow: Not used.
    patch: Size of a patch in frames, rows and columns.
    gap: In sampled frames; adjacent ones are best in MotionMAE's ablation.
    pad: What the first `gap` frames get: `repeat` the first difference (so in MotionMAE's
      published pictures, where frames 0 and 1 are equal) or `zero`.
    absolute: Without its sign, as MotionMAE's text reads; its published pictures have one.
    normalise: `patch` or `none`. Our choice: neither paper's normalisation is known, and raw
      differences would weigh next to nothing beside normalised pixels.
    eps: Added to a patch's standard deviation. Ours, and far above the pixels' 1e-6, which
      would blow the noise of still patches up.

  Raises:
    UserError: an unknown option, or a gap that leaves no difference.
  """
  frames = clip.shape[1]
  if not 0 < gap < frames:
    raise UserError(
      f'frame_difference: gap is {gap}, of {frames} frames: choose 1 to {frames - 1}.'
    )
  mode = lookup(PADS, pad, 'target frame_difference, pad')
  difference = clip[:, gap:] - clip[:, :-gap]
  difference = jnp.pad(difference, ((0, 0), (gap, 0), (0, 0), (0, 0), (0, 0)), mode=mode)
  if absolute:
    difference = jnp.abs(difference)
  function = lookup(NORMALISATIONS, normalise, 'target frame_difference, normalise')
  return function(patchify(difference, patch=patch), channels=clip.shape[-1], eps=eps)
