"""Optical flow without weights: registration from coarse to fine.

Each frame becomes a pyramid of grey images with evened-out brightness and contrast, once. At
each level, from coarse to fine, the flow of all pairs is improved in a few rounds: frame j is
looked up where the flow points to; what then remains of the difference to frame i is explained,
in a window around each pixel, by the gradient of frame i (Lucas and Kanade, 1981), while places
that it does not determine follow their surroundings (as in Bruhn, Weickert and Schnoerr's
combined local-global method, 2005). Windows and changes of scale are products with small
matrices, so that all but the look-ups runs at the speed of matrix units.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.types import Array, Bool, Float

MAX_SIDE = 128  # The finest level is the first that is no longer than this, to save time.
MIN_SIDE = 8  # The coarsest level is no shorter.
LONGEST_STEP = 1.5  # Pixels by which a round may change the flow: a gradient says no more.
EVEN = 6.0  # Standard deviation, in pixels of a level, of where brightness is evened out.
GREY = (0.299, 0.587, 0.114)


def pyramid(
  clip: Float[Array, 'b T H W C'],
  *,
  pairs: tuple[tuple[int, int], ...],
  rounds: int = 5,
  window: float = 2.0,
  reach: float = 3.0,
  stiffness: float = 0.01,
  contrast: float = 0.01,
) -> Float[Array, 'b q H2 W2 2']:
  """Estimates the flow of pairs of frames.

  Args:
    clip: RGB in [0, 1].
    pairs: Frames (i, j): from i to j.
    rounds: At each level.
    window: Standard deviation, in pixels of a level, of the window that moves as one.
    reach: The same, of the surroundings that a place without a gradient follows.
    stiffness: Mean square of the gradient at which a place follows its surroundings as much
      as its gradient.
    contrast: Standard deviation of brightness, in [0, 1], below which it is not evened out
      but taken for noise.

  Returns:
    On a grid of H and W over the least power of 2 that makes neither longer than MAX_SIDE.
  """
  levels = _levels(clip @ jnp.array(GREY), contrast=contrast)
  i, j = (np.array(frames) for frames in zip(*pairs, strict=True))
  flow = jnp.zeros((clip.shape[0], len(pairs), 2, *levels[-1].shape[-2:]))
  for level in reversed(levels):
    h, w = level.shape[-2:]
    if (coarse := flow.shape[-2:]) != (h, w):
      flow = 2 * _apply(_enlarge(coarse[0], h), _enlarge(coarse[1], w), flow)
    gradient = _gradient(level)  # 'b T 2 h w', as all that follows belongs to frames or pairs.
    mean = [_blur(n, window) for n in (h, w)]
    around = [_blur(n, reach) for n in (h, w)]
    gx, gy = gradient[:, :, 0], gradient[:, :, 1]
    xx, xy, yy = (_apply(*mean, p)[:, i] for p in (gx * gx, gx * gy, gy * gy))
    xx, yy = xx + stiffness, yy + stiffness
    determinant = xx * yy - xy * xy
    first, second, gradient = level[:, i], level[:, j], gradient[:, i]
    for _ in range(rounds):
      found, inside = _look_up(second, flow)
      rest = jnp.where(inside, first - found, 0)
      pull = _apply(*mean, gradient * rest[:, :, None])
      pull += stiffness * (_apply(*around, flow) - flow)
      px, py = pull[:, :, 0], pull[:, :, 1]
      step = jnp.stack([yy * px - xy * py, xx * py - xy * px], 2) / determinant[:, :, None]
      flow += jnp.clip(step, -LONGEST_STEP, LONGEST_STEP)
  return jnp.moveaxis(flow, 2, -1)


def _levels(grey: Float[Array, 'b T H W'], *, contrast: float) -> list[Float[Array, 'b T _ _']]:
  """Images from fine to coarse, each with its local mean and deviation evened out."""

  def halve(image):
    return _apply(*(_halve(n) for n in image.shape[-2:]), image)

  while max(grey.shape[-2:]) > MAX_SIDE:
    grey = halve(grey)
  levels = [grey]
  while min(levels[-1].shape[-2:]) >= 2 * MIN_SIDE:
    levels.append(halve(levels[-1]))
  return [_even_out(level, contrast=contrast) for level in levels]


def _even_out(image: Float[Array, 'b T h w'], *, contrast: float) -> Float[Array, 'b T h w']:
  """Takes the local mean out and divides by the local deviation."""
  wide = [_blur(n, EVEN) for n in image.shape[-2:]]
  image = image - _apply(*wide, image)
  return image / (jnp.sqrt(_apply(*wide, image * image)) + contrast)


def _gradient(image: Float[Array, 'b T h w']) -> Float[Array, 'b T 2 h w']:
  """Central differences to the right and downwards."""
  x = jnp.pad(image, ((0, 0), (0, 0), (0, 0), (1, 1)), mode='edge')
  y = jnp.pad(image, ((0, 0), (0, 0), (1, 1), (0, 0)), mode='edge')
  return jnp.stack([x[..., 2:] - x[..., :-2], y[..., 2:, :] - y[..., :-2, :]], 2) / 2


def _look_up(
  image: Float[Array, 'b q h w'], flow: Float[Array, 'b q 2 h w']
) -> tuple[Float[Array, 'b q h w'], Bool[Array, 'b q h w']]:
  """image at p + flow(p), bilinearly, and whether that lies in the image."""
  h, w = image.shape[-2:]
  x, y = jnp.arange(w) + flow[:, :, 0], jnp.arange(h)[:, None] + flow[:, :, 1]
  inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
  left, top = jnp.clip(jnp.floor(x), 0, w - 2), jnp.clip(jnp.floor(y), 0, h - 2)
  right, down = x - left, y - top
  index = (top * w + left).astype(jnp.int32).reshape(*image.shape[:2], h * w)
  flat = image.reshape(*image.shape[:2], h * w)

  def at(offset):
    return jnp.take_along_axis(flat, index + offset, axis=-1).reshape(image.shape)

  upper = at(0) * (1 - right) + at(1) * right
  lower = at(w) * (1 - right) + at(w + 1) * right
  return upper * (1 - down) + lower * down, inside


# Linear maps of rows and of columns, as matrices.


def _apply(
  rows: Float[np.ndarray, 'y2 y'], columns: Float[np.ndarray, 'x2 x'], image: Float[Array, '*b y x']
) -> Float[Array, '*b y2 x2']:
  wide = jnp.matmul(image, columns.T, precision=jax.lax.Precision.HIGHEST)
  return jnp.matmul(rows, wide, precision=jax.lax.Precision.HIGHEST)


def _blur(n: int, deviation: float) -> Float[np.ndarray, 'n n']:
  """A Gaussian mean; at the edges, of what is there."""
  distance = np.arange(n)[:, None] - np.arange(n)
  weights = np.exp(-0.5 * np.square(distance / deviation)) * (np.abs(distance) <= 3 * deviation)
  return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _halve(n: int) -> Float[np.ndarray, 'm n']:
  """n pixels to half as many, rounded up: weights 1 3 3 1, edges repeated."""
  out = np.zeros((-(-n // 2), n), np.float32)
  for row, line in enumerate(out):
    for place, weight in zip(range(2 * row - 1, 2 * row + 3), (1, 3, 3, 1), strict=True):
      line[min(max(place, 0), n - 1)] += weight / 8
  return out


def _enlarge(n: int, m: int) -> Float[np.ndarray, 'm n']:
  """n pixels to twice as many, of which m are wanted, linearly, edges repeated."""
  at = np.clip((np.arange(m) + 0.5) / 2 - 0.5, 0, n - 1)
  return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n))).astype(np.float32)
