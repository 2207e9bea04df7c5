"""Shape as histograms of oriented gradients (HOG): MaskFeat's target and MME's shape target.

Axes beside those of `vmae_jax.types`: Hc and Wc rows and columns of cells; L steps of a track.
Cells are half as high and as wide as patches, so that a token has 2 x 2 of them.
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from vmae_jax.errors import UserError, check_name, lookup
from vmae_jax.models.patches import unit_range
from vmae_jax.motion.follow import Followed
from vmae_jax.motion.tracking import Tracks
from vmae_jax.targets.target import Target, needs
from vmae_jax.types import Array, Float, Num

BINS = 9  # Bins of 20 degrees: a gradient and its opposite count as the same.
IMAGENET_STD = (0.229, 0.224, 0.225)
EPS = 1e-10


def _linear(phase: Float[Array, '*b'], k: int) -> Float[Array, '*b']:
  """The share of bin k, whose centre is at k, by linear interpolation on the circle."""
  if k == 0:
    return jnp.maximum(0, jnp.maximum(1 - phase, phase - (BINS - 1)))
  return jnp.maximum(0, 1 - jnp.abs(phase - k))


def _hard(phase: Float[Array, '*b'], k: int) -> Float[Array, '*b']:
  """1 if the phase is in [k, k + 1), else 0."""
  inside = (phase >= k) & (phase < k + 1)
  return ((inside | (phase >= BINS)) if k == 0 else inside).astype(jnp.float32)


class Variant(NamedTuple):
  """Where MME and MaskFeat differ.

  Attributes:
    pad: How frames are padded by one pixel: a mode of `jnp.pad`.
    weight: (phase in [0, 9], k) -> the share of a pixel's gradient that goes to bin k.
    mean: Whether cells hold the mean over their pixels, or the sum.
    from_y: Whether angles are counted from down to right, or from right to down.
  """

  pad: str
  weight: Callable[[Array, int], Array]
  mean: bool
  from_y: bool


VARIANTS = {
  'mme': Variant(pad='edge', weight=_linear, mean=True, from_y=False),
  'maskfeat': Variant(pad='reflect', weight=_hard, mean=False, from_y=True),
}
NORMS = ('l2', 'none')
FRAMES = {'first': lambda pt: 0, 'middle': lambda pt: pt // 2}


def hog(
  frames: Float[Array, '*b H W C'],
  *,
  cell: int = 8,
  variant: str = 'mme',
  norm: str = 'l2',
  std: tuple[float, ...] = IMAGENET_STD,
  gaussian: int = 0,
) -> Float[Array, '*b Hc Wc C 9']:
  """The strength of gradients of each direction, for each cell and channel.

  Args:
    frames: In [0, 1].
    cell: Height and width of a cell in pixels.
    variant: `mme` (edge pixels repeated, gradients shared by the two nearest bins, means) or
      `maskfeat` (frames reflected, each gradient in one bin, sums).
    norm: `l2`, over the bins of a cell, so that values lie in [0, 1], or `none`, as in MME's
      released scripts.
    std: Channels are divided by it, as in the model's input. (The mean that is subtracted there
      does not change gradients, and `std` does not change the values with `l2`.)
    gaussian: Side of squares of pixels in which gradients are weighted by a Gaussian with a
      deviation of half a side; 0: no weights. An option of MaskFeat, which its release turns off.

  Raises:
    UserError: a name is unknown, or frames do not divide into cells or squares.

  Source: MaskFeat (Wei et al., 2022), section 3, `HOGLayerC` of its release; MME's
  `m3video/feat.py` without its mistakes: there is no random bias, and bins add up.
  """
  spec = lookup(VARIANTS, variant, 'target hog, variant')
  check_name(norm, NORMS, 'target hog, norm')
  *b, H, W, C = frames.shape
  for side in {cell, gaussian} - {0}:
    if H % side or W % side:
      raise UserError(
        f'hog: frames of {H} x {W} pixels do not divide into squares of {side}: choose another '
        'data.size, model.patch (cells are half as wide) or gaussian.'
      )
  # Rows and columns last: a TPU pads the last axis to 128.
  gx, gy = _sobel(jnp.moveaxis(frames.astype(jnp.float32), -1, -3), spec.pad)
  size = jnp.sqrt(gx * gx + gy * gy)
  phase = _phase(gy, gx) if spec.from_y else _phase(gx, gy)
  if gaussian:
    size *= _gaussian(gaussian, (H, W))
  bins = _pool(size, phase, spec.weight, cell)
  bins /= jnp.asarray(std, jnp.float32)[:, None] * (cell**2 if spec.mean else 1)
  if norm == 'l2':
    bins /= jnp.sqrt(jnp.square(bins).sum(axis=-1, keepdims=True) + EPS)
  return bins


def _sobel(
  frames: Float[Array, '*b H W'], pad: str
) -> tuple[Float[Array, '*b H W'], Float[Array, '*b H W']]:
  """Eight times the slopes of brightness: to the left, and upwards."""
  padded = jnp.pad(frames, [(0, 0)] * (frames.ndim - 2) + [(1, 1)] * 2, mode=pad)
  above, middle, below = padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :]
  down, across = above - below, above + 2 * middle + below
  gx = across[..., :-2] - across[..., 2:]
  gy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
  return gx, gy


# A polynomial p(s) for arctan(sqrt(s)) / sqrt(s), s in [0, 1]: x p(x^2) is arctan(x), here in bins.
_SERIES = Chebyshev.interpolate(lambda s: np.arctan(np.sqrt(s)) / np.sqrt(s), 8, domain=[0, 1])
_ARCTAN = (BINS / np.pi * Polynomial.cast(_SERIES).coef[::-1]).astype(np.float32)


def _phase(x: Float[Array, '*b'], y: Float[Array, '*b']) -> Float[Array, '*b']:
  """The angle of (x, y) in bins, in [0, 9]; a vector and its opposite have the same angle.

  XLA's arctan2 takes ten times as long on CPUs, longer than the rest of the histogram.
  """
  x, y = jnp.where(y < 0, -x, x), jnp.abs(y)
  short, long = jnp.minimum(jnp.abs(x), y), jnp.maximum(jnp.abs(x), y)
  slope = short / jnp.maximum(long, jnp.finfo(jnp.float32).tiny)
  angle = slope * jnp.polyval(jnp.asarray(_ARCTAN), slope * slope, unroll=len(_ARCTAN))
  angle = jnp.where(y > jnp.abs(x), BINS / 2 - angle, angle)
  return jnp.where(x < 0, BINS - angle, angle)


def _pool(
  size: Float[Array, '*b C H W'],
  phase: Float[Array, '*b C H W'],
  weight: Callable[[Array, int], Array],
  cell: int,
) -> Float[Array, '*b Hc Wc C 9']:
  """The sum of gradients over each cell, for each bin.

  One pass sums all bins over a cell's rows, so that weights stay in registers: 9 weights for each
  pixel would need nine times the memory of the clip. Columns are summed by a product.
  """
  size, phase = (einops.rearrange(x, '... (h p) W -> ... h p W', p=cell) for x in (size, phase))
  rows = jax.lax.reduce(
    tuple(size * weight(phase, k) for k in range(BINS)),
    (np.float32(0),) * BINS,
    lambda x, y: tuple(map(operator.add, x, y)),
    (size.ndim - 2,),
  )
  in_cell = np.kron(
    np.eye(size.shape[-1] // cell, dtype=np.float32), np.ones((cell, 1), np.float32)
  )
  bins = [jnp.matmul(x, in_cell, precision=jax.lax.Precision.HIGHEST) for x in rows]
  return jnp.moveaxis(jnp.stack(bins, axis=-1), -4, -2)


def _gaussian(side: int, shape: tuple[int, int]) -> Float[np.ndarray, 'H W']:
  """Squares of Gaussian weights, side by side; the weights of each add up to 1."""
  at = np.exp(-0.5 * np.square((np.arange(side) - (side - 1) / 2) / (side // 2)))
  square = np.outer(at, at) / at.sum() ** 2
  return np.tile(square, (shape[0] // side, shape[1] // side)).astype(np.float32)


def hog_target(
  clip: Num[Array, 'b T H W C'],
  followed: Followed | None,
  *,
  patch: tuple[int, int, int],
  frame: str = 'middle',
  variant: str = 'mme',
  norm: str = 'l2',
  std: tuple[float, ...] = IMAGENET_STD,
  gaussian: int = 0,
) -> Float[Array, 'b n f']:
  """The histograms of a token's 2 x 2 cells in one frame of its time slot.

  Args:
    clip, followed, patch: See `TARGETS`.
    frame: The frame of the slot: `middle` (number p_t // 2 from 0, the second of two: MME's
      release) or `first` (MaskFeat).
    variant, norm, std, gaussian: See `hog`.

  Returns:
    Values in the order (channel, bin, row and column of the cell in its token): 108 for RGB.
  """
  at = lookup(FRAMES, frame, 'target hog, frame')(patch[0])
  frames = unit_range(clip[:, at :: patch[0]])
  cells = hog(frames, cell=cell_of(patch), variant=variant, norm=norm, std=std, gaussian=gaussian)
  return einops.rearrange(cells, 'b t (h h2) (w w2) C k -> b (t h w) (C k h2 w2)', h2=2, w2=2)


@needs('points')
def aligned_hog(
  clip: Num[Array, 'b T H W C'],
  followed: Followed,
  *,
  patch: tuple[int, int, int],
  later: float = 1.0,
  variant: str = 'mme',
  norm: str = 'l2',
  std: tuple[float, ...] = IMAGENET_STD,
) -> Target:
  """The histograms along the paths of a token's points: the shape features of MME's paper.

  Each step has the histogram of the cell that the point is in when the step starts. (The released
  code takes that of the cell where the path starts.)

  Args:
    clip: Only its number of channels is used.
    followed: The frames in which the L steps of each time slot start (a frame more, in which the
      last step ends, is ignored), and tracks on the same cells.
    patch: Size of a patch in frames, rows and columns.
    later: Weight in the loss of steps after the first; 0.1 in the released code.
    variant, norm, std: See `hog`.

  Returns:
    Values in the order (channel, bin, step, row and column of the cell in its token): 108 L for
    RGB.
  """
  b, t = followed.frames.shape[:2]
  cell = cell_of(patch)
  if followed.tracks.displacements.shape[2] * cell != followed.frames.shape[3]:
    raise UserError('aligned_hog needs 2 x 2 points in each token: set tracking.points to 2.')
  steps = followed.tracks.displacements.shape[1]
  plain = functools.partial(hog, cell=cell, variant=variant, norm=norm, std=std)
  # One slot at a time, to save memory: the frames of all slots are several times the clip.
  cells = jax.lax.map(lambda slot: plain(followed.frames[:, slot, :steps]), jnp.arange(t))
  cells = einops.rearrange(cells, 't b L y x C k -> (b t) L y x (C k)')
  values = einops.rearrange(
    along(cells, followed.tracks, cell=cell),
    '(b t) L (h h2) (w w2) f -> b (t h w) (f L h2 w2)',
    b=b,
    t=t,
    h2=2,
    w2=2,
  )
  if later == 1:
    return Target(values)
  # Losses take the mean over all values; `step_weights` includes the mean over steps already.
  weights = steps * step_weights(steps, later=later, values=clip.shape[-1] * BINS)
  return Target(values, jnp.broadcast_to(jnp.asarray(weights), values.shape))


def along(
  cells: Float[Array, 'b L Hc Wc f'], tracks: Tracks, *, cell: int
) -> Float[Array, 'b L Hc Wc f']:
  """The values of the cell that each point is in, at the start of each of L steps."""
  end = jnp.array([cells.shape[3] - 1, cells.shape[2] - 1])
  places = jnp.clip(tracks.positions[:, : cells.shape[1]] // cell, 0, end).astype(int)
  return jax.vmap(jax.vmap(lambda values, at: values[at[..., 1], at[..., 0]]))(cells, places)


def step_weights(steps: int, *, later: float, values: int = 3 * BINS) -> Float[np.ndarray, ' f']:
  """The weight of each value of `aligned_hog` in a sum of squared errors: the released alpha.

  It is 1 / L for the first step and `later` / L for others.

  Args:
    steps: L.
    later: Weight of all steps after the first.
    values: Number of values of each of a token's 4 cells.
  """
  alpha = np.array([1.0] + [later] * (steps - 1), np.float32) / steps
  return np.tile(alpha.repeat(4), values)


def cell_of(patch: tuple[int, int, int], parts: int = 2) -> int:
  """The side of a cell in pixels, if a patch has `parts` x `parts` cells; also the pitch of tracks.

  Raises:
    UserError: patches are not square, or their side is no multiple of `parts`.
  """
  _, height, width = patch
  if height != width or height % parts:
    raise UserError(
      f'patches of {height} x {width} pixels do not divide into {parts} x {parts} square cells: '
      f'choose a model.patch that is square, with a side that is a multiple of {parts}.'
    )
  return height // parts


def bin_angles(variant: str) -> Float[np.ndarray, '9']:
  """The gradient's direction at the middle of each bin, in radians from right to down."""
  if VARIANTS[variant].from_y:
    return np.pi / 2 - (np.arange(BINS) + 0.5) * np.pi / BINS
  return np.arange(BINS) * np.pi / BINS
