"""Motion as the difference of frames: the motion target of MotionMAE and MAM2."""

import einops
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name, lookup
from vmae_jax.models.patches import patchify, unit_range
from vmae_jax.motion.follow import Followed
from vmae_jax.targets.pixels import NORMALISATIONS
from vmae_jax.types import Array, Float, Num

PADS = {'repeat': 'edge', 'zero': 'constant'}
DIRECTIONS = ('backward', 'forward')
SCOPES = ('consecutive', 'slot')
# Root mean square of frame differences in MotionMAE's published clip, for pixels in [0, 1].
TYPICAL = 0.055


def frame_difference(
  clip: Num[Array, 'b T H W C'],
  followed: Followed | None,
  *,
  patch: tuple[int, int, int],
  gap: int = 1,
  direction: str = 'backward',
  scope: str = 'consecutive',
  pad: str = 'repeat',
  absolute: bool = False,
  grey: bool = False,
  normalise: str = 'patch',
  eps: float = 0.03,
  scale: float = TYPICAL,
) -> Float[Array, 'b n p']:
  """Signed differences of the clip's frames, in the order of the pixels of a patch.

  By default D_t = F_t - F_(t-1) over all frames of the clip and D_0 = D_1, in [-1, 1] before
  normalisation. MotionMAE's published pictures show this when measured, while its text reads like
  an absolute value.

  Args:
    clip, followed, patch: See `TARGETS`.
    gap: Distance in frames of the clip; 1 is best in MotionMAE's ablation.
    direction: `backward`, F_t - F_(t-gap) at frame t, or `forward`, F_(t+gap) - F_t.
    scope: `consecutive` takes differences over the clip; `slot` only within each time slot, which
      needs no padding and does not depend on other slots.
    pad: Value of frames without a partner: `repeat` the nearest difference, or `zero`.
    absolute: Whether to take absolute values.
    grey: Whether to take the mean over the channels.
    normalise: `patch`, `global` or `none`. The default is our choice: neither paper's normalisation
      is known, and raw differences would weigh next to nothing beside normalised pixels.
    eps: With `patch`: added to a patch's standard deviation. It is our choice and far above the
      pixels' 1e-6, which would amplify the noise of still patches.
    scale: With `global`: differences are divided by it.

  Raises:
    UserError: an option is unknown, or `gap` leaves no difference.
  """
  pt, ph, pw = patch
  check_name(direction, DIRECTIONS, 'target frame_difference, direction')
  check_name(scope, SCOPES, 'target frame_difference, scope')
  mode = lookup(PADS, pad, 'target frame_difference, pad')
  function = lookup(NORMALISATIONS, normalise, 'target frame_difference, normalise')
  frames = clip.shape[1] if scope == 'consecutive' else pt
  if not 0 < gap < frames:
    raise UserError(
      f'frame_difference: gap is {gap}, of {frames} frames: choose 1 to {frames - 1}.'
      if frames > 1
      else 'frame_difference: one frame has no differences: change scope or model.patch.'
    )
  clip = unit_range(clip)
  if grey:
    clip = clip.mean(axis=-1, keepdims=True)
  if scope == 'slot':
    slots = einops.rearrange(clip, 'b (t pt) H W C -> b t pt H W C', pt=pt)
    difference = slots[:, :, gap:] - slots[:, :, :-gap]
    difference = einops.rearrange(difference, 'b t pt H W C -> b (t pt) H W C')
    patch = (pt - gap, ph, pw)
  else:
    difference = clip[:, gap:] - clip[:, :-gap]
    missing = (gap, 0) if direction == 'backward' else (0, gap)
    difference = jnp.pad(difference, ((0, 0), missing, (0, 0), (0, 0), (0, 0)), mode=mode)
  if absolute:
    difference = jnp.abs(difference)
  patches = patchify(difference, patch=patch)
  return function(patches, channels=clip.shape[-1], eps=eps, scale=scale)
