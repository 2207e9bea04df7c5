"""Motion as the paths of points: the position target of MME."""

import einops
import jax.numpy as jnp

from vmae_jax.errors import UserError, lookup
from vmae_jax.models.patches import token_grid
from vmae_jax.motion.follow import Followed
from vmae_jax.targets.target import Target, needs
from vmae_jax.types import Array, Float, Num


def _patch_std(
  d: Float[Array, 'b n 2 L q'], *, scale: float, eps: float
) -> Float[Array, 'b n 2 L q']:
  """Zero mean and unit (unbiased) deviation over the points of a token, for each component."""
  # Computed in pixels, since four equal whole steps equal their mean exactly: scaled steps would
  # leave a rounding error, which a small eps would amplify.
  d = d - d.mean(axis=-1, keepdims=True)
  if d.shape[-1] == 1:
    raise UserError(
      'trajectory: patch_std needs several paths in a token, and there is one (average, '
      'tracking.points): set normalise of the head to none or total_length.'
    )
  std = jnp.sqrt(jnp.square(d).sum(axis=-1, keepdims=True) / (d.shape[-1] - 1))
  return d / (std + eps * scale)


def _total_length(
  d: Float[Array, 'b n 2 L q'], *, scale: float, eps: float
) -> Float[Array, 'b n 2 L q']:
  """Steps over the length of their path."""
  length = jnp.linalg.norm(d, axis=2, keepdims=True).sum(axis=3, keepdims=True)
  return d / (length + eps * scale)


# (steps in pixels, scale and eps of `trajectory`) -> values.
NORMALISATIONS = {
  'patch_std': _patch_std,
  'total_length': _total_length,
  'none': lambda d, *, scale, eps: d / scale,
}


@needs('points')
def trajectory(
  clip: Num[Array, 'b T H W C'],
  followed: Followed,
  *,
  patch: tuple[int, int, int],
  normalise: str = 'patch_std',
  scale: float = 20.0,
  eps: float = 0.01,
  mean: bool = False,
  average: bool = False,
  total: bool = False,
  lost: bool = False,
) -> Target:
  """The steps of a token's points, in pixels of the clip over `scale`.

  Args:
    clip, followed, patch: See `TARGETS`; `followed` has q points in each token (tracking.points
      squared).
    normalise: `patch_std`, as in the released code: steps minus their mean over a token's points,
      over their deviation. Values are at most 1.5 in size for 4 points, and zero if the token moves
      as a whole. `total_length`: steps over the length of their path, as in dense trajectories.
      `none`.
    scale: In pixels; 20 in the released code. A step of this length has the value 1.
    eps: Added to the deviation or the length, in units of `scale`. The released 1e-6 amplifies
      noise to the size of motion; ours is a fifth of a pixel.
    mean: Whether to append the token's mean steps over `scale`, which are not normalised.
    average: Whether to predict one path for each token, the mean over its points (MME's `AvgTraj`).
    total: Whether to predict one step for each path, from its start to its end (MME's `AccuTraj`).
    lost: Whether tokens count if all their points have left the frame (released: `--no_loss_mask`).

  Returns:
    Values in the order (component, step, row and column of the point in its token), 2 L q of them
    (with q = 1 for `average`, L = 1 for `total`), and with `mean` 2 L more in the order (component,
    step). The weight of a token is 1 if at least one of its points stayed in the frame, as in the
    released code, else 0; with `lost` there are no weights.

  Raises:
    UserError: a normalisation is unknown, or `patch_std` is asked for with one point.

  Source: MME (Sun et al., 2023), equation 3; order and scale of the released `engine.py`.
  """
  function = lookup(NORMALISATIONS, normalise, 'target trajectory, normalise')
  t, h, w = token_grid(clip.shape[1:4], patch)
  steps = einops.rearrange(
    followed.tracks.displacements, '(b t) L (h h2) (w w2) c -> b (t h w) c L (h2 w2)', t=t, h=h, w=w
  )
  if average:
    steps = steps.mean(axis=-1, keepdims=True)
  if total:
    steps = steps.sum(axis=3, keepdims=True)
  values = einops.rearrange(function(steps, scale=scale, eps=eps), 'b n c L q -> b n (c L q)')
  if mean:
    means = einops.rearrange(steps.mean(axis=-1), 'b n c L -> b n (c L)')
    values = jnp.concatenate([values, means / scale], axis=-1)
  if lost:
    return Target(values)
  valid = einops.reduce(
    followed.tracks.valid, '(b t) (h h2) (w w2) -> b (t h w) 1', 'any', t=t, h=h, w=w
  )
  return Target(values, valid.astype(jnp.float32))
