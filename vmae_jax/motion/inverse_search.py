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
from vmae_jax.types import Array, Float

PATCH, STRIDE = 8, 4  # Side of a patch, and pixels to the next one, half a side: four overlap.
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
  flow = None
  # Not a matrix product, in which accelerators would round brightness.
  for level in reversed(_levels((clip * jnp.array(GREY)).sum(-1))):
    h, w = level.shape[-2:]
    more = [(0, max(PATCH - n, -n % STRIDE)) for n in (h, w)]
    level = jnp.pad(level, ((0, 0), (0, 0), *more), mode='edge')
    size = level.shape[-2:]
    places = tuple((n - PATCH) // STRIDE + 1 for n in size)
    down, right = _gradient(level)
    first, down, right = (_cut(x[:, i].reshape(rows, *size)) for x in (level, down, right))
    second = level[:, j].reshape(rows, *size)
    if flow is None:
      moved = jnp.zeros((rows, 2, first.shape[-1]))
    else:
      flow = 2 * _apply(*map(_enlarge, flow.shape[-2:], size), flow)
      moved = _cut(flow.reshape(rows * 2, *size)).mean((1, 2)).reshape(rows, 2, -1)
    moved = _search(
      first, down, right, second, moved, places, rounds=rounds, steps=steps, damping=damping
    )
    weight = 1 / jnp.maximum(jnp.abs(_look_up(second, moved, places) - first), noise)
    both = [_paste(weight * moved[:, None, None, axis], places) for axis in range(2)]
    flow = (jnp.stack(both, 1) / _paste(weight, places)[:, None])[..., :h, :w]
  return jnp.moveaxis(flow.reshape(len(clip), len(pairs), *flow.shape[1:]), 2, -1)


def _search(
  first: Float[Array, 'r p p n'],
  down: Float[Array, 'r p p n'],
  right: Float[Array, 'r p p n'],
  second: Float[Array, 'r h w'],
  moved: Float[Array, 'r 2 n'],
  places: tuple[int, int],
  *,
  rounds: int,
  steps: int,
  damping: float,
) -> Float[Array, 'r 2 n']:
  """Improves `moved`, how far (right, down) each of `places` (y by x) patches has moved.

  A patch's mean brightness is subtracted, so that a change of light has no effect.
  """
  first, down, right = (_without_mean(patches) for patches in (first, down, right))
  xx, xy, yy = ((a * b).sum((1, 2)) for a, b in ((right, right), (right, down), (down, down)))
  xx, yy = xx + damping, yy + damping
  determinant = xx * yy - xy * xy

  def difference(moved):
    return _without_mean(_look_up(second, moved, places)) - first

  def misfit(moved):
    return jnp.square(difference(moved)).sum((1, 2))

  def better(state, other):
    moved, least = state
    error = misfit(other)
    moved = jnp.where((error < least)[:, None], other, moved)
    return (moved, jnp.minimum(error, least)), None

  def step(_, moved):
    error = difference(moved)
    px, py = (right * error).sum((1, 2)), (down * error).sum((1, 2))
    return moved - jnp.stack([yy * px - xy * py, xx * py - xy * px], 1) / determinant[:, None]

  def improve(_, state):
    y, x = places
    moved = state[0].reshape(-1, 2, y, x)
    around = jnp.pad(moved, ((0, 0), (0, 0), (1, 1), (1, 1)), mode='edge')
    corners = ((1, 0), (1, 2), (0, 1), (2, 1))
    neighbours = [around[..., top : top + y, left : left + x] for top, left in corners]
    neighbours = jnp.stack([other.reshape(state[0].shape) for other in neighbours])
    state, _ = jax.lax.scan(better, state, neighbours)
    return better(state, jax.lax.fori_loop(0, steps, step, state[0]))[0]

  return jax.lax.fori_loop(0, rounds, improve, (moved, misfit(moved)))[0]


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
  image: Float[Array, 'b T h w'],
) -> tuple[Float[Array, 'b T h w'], Float[Array, 'b T h w']]:
  """Central differences: downwards, and to the right."""
  around = jnp.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode='edge')
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


def _without_mean(patches: Float[Array, 'r p p n']) -> Float[Array, 'r p p n']:
  return patches - patches.mean((1, 2), keepdims=True)


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
  if sharding.platform() == 'tpu':
    return _look_up_by_products(image, left, top)
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


def _look_up_by_products(
  image: Float[Array, 'r h w'], left: Float[Array, 'r n'], top: Float[Array, 'r n']
) -> Float[Array, 'r p p n']:
  """The image in patches at (left, top) without a gather, which a TPU does value by value.

  A product with weights that are mostly 0 interpolates along rows. Of its result, a patch's rows
  are then selected by shifts of 64, 32, ..., 1 rows, one for each bit of the first row's number.
  """
  h, w = image.shape[1:]
  bits = [2**k for k in reversed(range((h + PATCH).bit_length()))]
  image = jnp.pad(image, ((0, 0), (PATCH, sum(bits) + 1 - h), (0, 0)), mode='edge')
  at = jnp.clip(left[:, None] + np.arange(PATCH)[:, None], 0, w - 1)
  weights = jnp.maximum(0, 1 - jnp.abs(at[:, :, None] - np.arange(w)[:, None]))
  # Factors are exact to 2**-16, and so is brightness: to a 250th of one of its 256 levels.
  rows = jnp.einsum('rhw,rqwn->rhqn', image, weights, precision='high')
  first = jnp.floor(top)
  down, first = (top - first)[:, None, None], (first + PATCH).astype(jnp.int32)[:, None, None]
  for bit in bits:
    kept = bit + PATCH  # The rows that lower bits may still select.
    rows = jnp.where(first & bit, rows[:, bit : bit + kept], rows[:, :kept])
  return rows[:, :-1] * (1 - down) + rows[:, 1:] * down


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


def _enlarge(n: int, m: int) -> Float[np.ndarray, 'm n']:
  """Matrix from n pixels to the first m of twice as many: linear, edges repeated."""
  at = np.clip((np.arange(m) + 0.5) / 2 - 0.5, 0, n - 1)
  return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n))).astype(np.float32)
