"""Optical flow without weights: dense inverse search, from coarse to fine.

Each frame becomes a pyramid of grey images. At each level, frame i is cut into overlapping patches,
and each patch is searched for in frame j: first with the flow of its neighbours, then by
Gauss-Newton steps with the gradient of the patch itself, which stays the same in all steps (inverse
search). A change is kept only if the patch fits better. The flow of a pixel is the mean over the
patches that contain it, each weighted by how well it explains this pixel. The next level starts
from it. There is no smoothness term, so that motion keeps sharp edges.

Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016, without its
variational refinement. Trying the neighbours' flow for all patches in parallel is our choice.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax import sharding
from vmae_jax.motion.inverse_search_kernel import search_kernel
from vmae_jax.motion.patch_fit import PATCH, STRIDE, PatchFit
from vmae_jax.types import Array, Float

MAX_SIDE = 128  # Maximum side of the finest level in pixels, to save time.
MIN_SIDE = 16  # Minimum side of the coarsest level in pixels.
GREY = (0.299, 0.587, 0.114)


def inverse_search(
  clip: Float[Array, 'b T H W C'],
  *,
  pairs: tuple[tuple[int, int], ...],
  rounds: int = 2,
  steps: int = 3,
  damping: float = 1e-3,
  noise: float = 1 / 255,
) -> Float[Array, 'b q H2 W2 2']:
  """Estimates the flow of pairs of frames.

  Args:
    clip: RGB in [0, 1].
    pairs: Frames (i, j): from i to j.
    rounds: How often patches try their neighbours' flow and improve the best, at each level.
    steps: Gauss-Newton steps in a round.
    damping: Added to a patch's squared gradients, so that patches without detail do not move.
    noise: Difference in brightness below which all patches explain a pixel equally well.

  Returns:
    Flow in pixels of its grid: H and W over the smallest power of 2 that makes neither larger than
    MAX_SIDE.
  """
  i, j = (np.array(frames) for frames in zip(*pairs, strict=True))
  rows = len(clip) * len(pairs)
  flow, on_tpu = None, sharding.platform() == 'tpu'
  # Not a matrix product, in which accelerators would round brightness.
  for level in reversed(_levels((clip * jnp.array(GREY)).sum(-1))):
    h, w = level.shape[-2:]
    more = [(0, max(PATCH - n, -n % STRIDE)) for n in (h, w)]
    level = jnp.pad(level, ((0, 0), (0, 0), *more), mode='edge')
    size = level.shape[-2:]
    places = tuple((n - PATCH) // STRIDE + 1 for n in size)
    first, second = (level[:, frames].reshape(rows, *size) for frames in (i, j))
    if flow is None:
      moved = jnp.zeros((rows, 2, np.prod(places)))
    else:
      flow = 2 * _apply(*map(_enlarge, flow.shape[-2:], size), flow)
      flows = flow.reshape(rows * 2, *size)
      # TPUs are slow at cutting. Elsewhere the order of sums stays as it was, so that old runs that
      # are continued get the same flow.
      mean = _apply(*map(_mean, size), flows) if on_tpu else _cut(flows).mean((1, 2))
      moved = mean.reshape(rows, 2, -1)
    search = search_kernel if on_tpu else _search
    options = dict(rounds=rounds, steps=steps, damping=damping, noise=noise)
    moved, weight = search(first, second, moved, places, **options)
    both = [_paste(weight * moved[:, None, None, axis], places) for axis in range(2)]
    flow = (jnp.stack(both, 1) / _paste(weight, places)[:, None])[..., :h, :w]
  return jnp.moveaxis(flow.reshape(len(clip), len(pairs), *flow.shape[1:]), 2, -1)


def _search(
  first: Float[Array, 'r h w'],
  second: Float[Array, 'r h w'],
  moved: Float[Array, 'r 2 n'],
  places: tuple[int, int],
  *,
  rounds: int,
  steps: int,
  damping: float,
  noise: float,
) -> tuple[Float[Array, 'r 2 n'], Float[Array, 'r p p n']]:
  """Improves `moved`, how far (right, down) each of `places` (y by x) patches has moved.

  Returns:
    How far, and how well that explains each pixel: 1 over the difference in brightness.
  """
  first, down, right = (_cut(image) for image in (first, *_gradient(first)))

  def look_up(moved):
    return _look_up(second, moved, places)

  fit = PatchFit(first, down, right, look_up=look_up, damping=damping)

  def improve(_, place):
    y, x = places
    moved = place.moved.reshape(-1, 2, y, x)
    around = jnp.pad(moved, ((0, 0), (0, 0), (1, 1), (1, 1)), mode='edge')
    corners = ((1, 0), (1, 2), (0, 1), (2, 1))
    neighbours = [around[..., top : top + y, left : left + x] for top, left in corners]
    neighbours = jnp.stack([other.reshape(place.moved.shape) for other in neighbours])
    place, _ = jax.lax.scan(lambda *x: (fit.better(*x), None), place, neighbours)
    return fit.descend(place, steps)

  place = jax.lax.fori_loop(0, rounds, improve, fit.at(moved))
  return place.moved, 1 / jnp.maximum(jnp.abs(place.shown - first), noise)


def _levels(grey: Float[Array, 'b T H W']) -> list[Float[Array, 'b T _ _']]:
  """The pyramid's images, from fine to coarse."""

  def halve(image):
    return _apply(*map(_halve, image.shape[-2:]), image)

  while max(grey.shape[-2:]) > MAX_SIDE:
    grey = halve(grey)
  levels = [grey]
  while min(levels[-1].shape[-2:]) >= 2 * MIN_SIDE:
    levels.append(halve(levels[-1]))
  return levels


def _gradient(
  image: Float[Array, 'r h w'],
) -> tuple[Float[Array, 'r h w'], Float[Array, 'r h w']]:
  """Central differences: downwards, and to the right."""
  around = jnp.pad(image, ((0, 0), (1, 1), (1, 1)), mode='edge')
  down = around[..., 2:, 1:-1] - around[..., :-2, 1:-1]
  return down / 2, (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2


# The patch's number is the last axis, because TPUs pad the last two axes to 8 x 128.


def _cut(image: Float[Array, 'r h w']) -> Float[Array, 'r p p n']:
  """All patches of an image, row after row; its sides are multiples of STRIDE."""
  rows, h, w = image.shape
  tiles = image.reshape(rows, h // STRIDE, STRIDE, w // STRIDE, STRIDE).transpose(0, 2, 4, 1, 3)
  tiles = jnp.concatenate([tiles[..., :-1, :], tiles[..., 1:, :]], 1)
  tiles = jnp.concatenate([tiles[..., :-1], tiles[..., 1:]], 2)
  return tiles.reshape(*tiles.shape[:3], -1)


def _paste(patches: Float[Array, 'r p p n'], places: tuple[int, int]) -> Float[Array, 'r h w']:
  """The sum of all patches at their places in the image; the transpose of `_cut`."""
  patches = patches.reshape(*patches.shape[:3], *places)
  still = ((0, 0), (0, 0), (0, 0))
  up, down = patches[:, :STRIDE], patches[:, STRIDE:]
  tiles = jnp.pad(up, (*still, (0, 1), (0, 0))) + jnp.pad(down, (*still, (1, 0), (0, 0)))
  left, right = tiles[:, :, :STRIDE], tiles[:, :, STRIDE:]
  tiles = jnp.pad(left, (*still, (0, 0), (0, 1))) + jnp.pad(right, (*still, (0, 0), (1, 0)))
  rows, _, _, y, x = tiles.shape
  return tiles.transpose(0, 3, 1, 4, 2).reshape(rows, y * STRIDE, x * STRIDE)


def _look_up(
  image: Float[Array, 'r h w'], moved: Float[Array, 'r 2 n'], places: tuple[int, int]
) -> Float[Array, 'r p p n']:
  """The image at each patch's place moved by (right, down), bilinear.

  Outside, the image's edge is repeated; a patch moves out by at most its own side.
  """
  rows, h, w = image.shape
  y, x = np.indices(places).reshape(2, -1) * STRIDE
  wide = w + 2 * PATCH + 1
  left = jnp.clip(x + moved[:, 0], -PATCH, w)
  top = jnp.clip(y + moved[:, 1], -PATCH, h)
  column, row = jnp.floor(left), jnp.floor(top)
  right, down = (left - column)[:, None, None], (top - row)[:, None, None]
  corner = ((row + PATCH) * wide + column + PATCH).astype(jnp.int32)[:, None]
  around = jnp.pad(image, ((0, 0), (PATCH, PATCH + 1), (PATCH, PATCH + 1)), mode='edge')
  inner = (np.arange(PATCH + 1)[:, None] * wide + np.arange(PATCH + 1)).reshape(1, -1, 1)
  shown = jnp.take_along_axis(
    around.reshape(rows, -1), (corner + inner).reshape(rows, -1), 1, mode='promise_in_bounds'
  ).reshape(rows, PATCH + 1, PATCH + 1, -1)
  shown = shown[:, :, :-1] * (1 - right) + shown[:, :, 1:] * right
  return shown[:, :-1] * (1 - down) + shown[:, 1:] * down


def _apply(
  rows: Float[np.ndarray, 'y2 y'], columns: Float[np.ndarray, 'x2 x'], image: Float[Array, '*b y x']
) -> Float[Array, '*b y2 x2']:
  """Resizes an image by one matrix for its rows and one for its columns."""
  wide = jnp.matmul(image, columns.T, precision=jax.lax.Precision.HIGHEST)
  return jnp.matmul(rows, wide, precision=jax.lax.Precision.HIGHEST)


def _halve(n: int) -> Float[np.ndarray, 'm n']:
  """Matrix from n pixels to half as many, rounded up: weights 1 3 3 1, edges repeated."""
  out = np.zeros((-(-n // 2), n), np.float32)
  for row, line in enumerate(out):
    for place, weight in zip(range(2 * row - 1, 2 * row + 3), (1, 3, 3, 1), strict=True):
      line[min(max(place, 0), n - 1)] += weight / 8
  return out


def _mean(n: int) -> Float[np.ndarray, 'm n']:
  """n pixels to the means of the patches that begin at every STRIDE-th."""
  start = np.arange(0, n - PATCH + 1, STRIDE)[:, None]
  at = np.arange(n)
  return ((at >= start) & (at < start + PATCH)).astype(np.float32) / PATCH


def _enlarge(n: int, m: int) -> Float[np.ndarray, 'm n']:
  """Matrix from n pixels to the first m of twice as many: linear, edges repeated."""
  at = np.clip((np.arange(m) + 0.5) / 2 - 0.5, 0, n - 1)
  return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n))).astype(np.float32)
