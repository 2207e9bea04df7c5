"""The search of one level of `inverse_search` as a kernel for TPUs.

A TPU gathers value by value, so patches are looked up in two other ways: their rows by a product
with a matrix that holds a single one in each column, their columns by choosing between the rows and
the rows moved by 64, 32, ..., 1 pixels. During the search, all images and patches of a pair of
frames stay in the vector memory, with 128 patches side by side in the lanes.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vmae_jax import sharding
from vmae_jax.motion.patch_fit import PATCH, STRIDE, PatchFit, Place
from vmae_jax.types import Array, Float, Int

LANES = 128


def search_kernel(
  first: Float[Array, 'r h w'],
  second: Float[Array, 'r h w'],
  moved: Float[Array, 'r 2 n'],
  places: tuple[int, int],
  **options,
) -> tuple[Float[Array, 'r 2 n'], Float[Array, 'r p p n']]:
  """`inverse_search._search` on a TPU, equal to 2e-4 px; interpreted on a CPU, for tests.

  Each device searches in the pairs that it holds.
  """
  call = functools.partial(_call, places=places, **options)
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:
    spec = sharding.spec(sharding.BATCH_AXES, shape=moved.shape, mesh=mesh)
    # Over which axes the results of a Pallas kernel vary is not known.
    call = jax.shard_map(call, in_specs=(spec,) * 3, out_specs=(spec,) * 2, check_vma=False)
  return call(first, second, moved)


def _call(first, second, moved, *, places, **options):
  r, h, w = second.shape
  n = moved.shape[-1]
  lanes = [(0, -n % LANES)]
  start = np.indices(places).reshape(2, n)[::-1] * STRIDE  # x, y of each patch.
  constants = [
    jnp.asarray(np.pad(x, [(0, 0)] * (x.ndim - 1) + lanes), jnp.float32)
    for x in (start, _edges(places))
  ]
  given = [_halves(first), _halves(second), jnp.pad(moved, [(0, 0)] * 2 + lanes)]
  padded = n + lanes[0][1]

  def own(x):
    return pl.BlockSpec((None, *x.shape[1:]), lambda i: (i, *[0] * (x.ndim - 1)))

  def same(x):
    return pl.BlockSpec(x.shape, lambda i: (0,) * x.ndim)

  patches = PATCH, PATCH, padded
  out = [jax.ShapeDtypeStruct((r, *shape), jnp.float32) for shape in ((2, padded), patches)]
  moved, weight = pl.pallas_call(
    functools.partial(_search_kernel, size=(h, w), places=places, **options),
    grid=(r,),
    in_specs=[*map(own, given), *map(same, constants)],
    out_specs=[*map(own, out)],
    out_shape=out,
    scratch_shapes=[
      pltpu.VMEM(shape, jnp.float32) for shape in ((3, *patches), (4, 2, padded), (1, padded))
    ],
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',)),
    interpret=sharding.platform() == 'cpu',
    name='search_kernel',
  )(*given, *constants)
  return moved[..., :n], weight[..., :n]


def _halves(image: Float[Array, 'r h w']) -> Float[Array, 'r 2 x y']:
  """The image from black at -0.5 to white at 0.5 as a sum of two in bfloat16, to 17 bits.

  Its columns, from PATCH before the image to PATCH behind it, are the last axis but one.
  """
  image = jnp.pad(image.swapaxes(1, 2) - 0.5, ((0, 0), (PATCH, PATCH), (0, 0)), mode='edge')
  image = jnp.pad(image, ((0, 0), (0, -image.shape[1] % 16), (0, -image.shape[2] % LANES)))
  # The compiler may leave out a conversion to bfloat16 and back, but not this.
  high = jax.lax.reduce_precision(image, exponent_bits=8, mantissa_bits=7)
  return jnp.stack([high, image - high], axis=1).astype(jnp.bfloat16)


def _edges(places: tuple[int, int]) -> Float[np.ndarray, '4 1 n']:
  """1 where a patch has no neighbour to the left or right, above or below."""
  y, x = places
  row, column = np.indices(places).reshape(2, -1)
  none = np.stack([column == 0, column == x - 1, row == 0, row == y - 1])
  return none[:, None].astype(np.float32)


def _bits(w: int) -> list[int]:
  """Moves that make up every column in which a patch may begin, from PATCH before the image on."""
  return [2**k for k in reversed(range((w - 1 + PATCH).bit_length()))]


def _search_kernel(
  first_ref, second_ref, moved_ref, start_ref, edges_ref, found_ref, shown_ref, patches_ref,
  near_ref, misfit_ref, *, size, places, rounds, steps, damping, noise,
):  # fmt: skip
  n = moved_ref.shape[1]

  def fit(at):
    def look_up(moved):
      return _look_up(second_ref, start_ref[:, at] + moved, size)

    patches = (patches_ref[k, :, :, at] for k in range(3))
    return PatchFit(*patches, look_up=look_up, damping=damping)

  def keep(at, place):
    found_ref[:, at], shown_ref[:, :, at], misfit_ref[:, at] = place

  def for_all(function):
    def body(i, carry):
      function(pl.ds(pl.multiple_of(i * LANES, LANES), LANES))
      return carry

    jax.lax.fori_loop(0, n // LANES, body, None)

  def begin(at):
    corner = start_ref[:, at].astype(jnp.int32) - 1
    around = jnp.stack(_cut(first_ref, corner, PATCH + 2, size))
    patches_ref[0, :, :, at] = around[1:-1, 1:-1]
    patches_ref[1, :, :, at] = (around[2:, 1:-1] - around[:-2, 1:-1]) / 2
    patches_ref[2, :, :, at] = (around[1:-1, 2:] - around[1:-1, :-2]) / 2
    keep(at, fit(at).at(moved_ref[:, at]))

  def improve(at):
    patches = fit(at)
    place = Place(found_ref[:, at], shown_ref[:, :, at], misfit_ref[:, at])
    place = jax.lax.fori_loop(
      0, len(shifts), lambda k, place: patches.better(place, near_ref[k, :, at]), place
    )
    keep(at, patches.descend(place, steps))

  def one_round(_, carry):
    found = found_ref[...]
    for k, shift in enumerate(shifts):
      near_ref[k] = jnp.where(edges_ref[k] > 0, found, pltpu.roll(found, shift % n, 1))
    for_all(improve)
    return carry

  def weigh(at):
    difference = shown_ref[:, :, at] - patches_ref[0, :, :, at]
    shown_ref[:, :, at] = 1 / jnp.maximum(jnp.abs(difference), noise)

  shifts = 1, -1, places[1], -places[1]  # To the patches left and right, above and below.
  for_all(begin)
  jax.lax.fori_loop(0, rounds, one_round, None)
  for_all(weigh)


def _look_up(image_ref, corner: Float[Array, '2 n'], size) -> Float[Array, 'p p n']:
  """The image in patches at corners (x, y), bilinearly."""
  h, w = size
  # From the last column on a patch shows nothing but the edge.
  corner = jnp.concatenate(
    [jnp.clip(corner[:1], -PATCH, w - 1), jnp.clip(corner[1:], -PATCH, h)], axis=0
  )
  low = jnp.floor(corner)
  right, down = corner[:1] - low[:1], corner[1:] - low[1:]
  lines = _cut(image_ref, low.astype(jnp.int32), PATCH + 1, size)
  lines = [line[:-1] * (1 - right) + line[1:] * right for line in lines]
  return jnp.stack([a * (1 - down) + b * down for a, b in itertools.pairwise(lines)])


def _cut(image_ref, corner: Int[Array, '2 n'], side: int, size) -> list[Float[Array, 'side n']]:
  """The rows of squares at corners (x, y)."""
  h, w = size
  begin, top = corner[:1] + PATCH, corner[1:]
  rows = jax.lax.broadcasted_iota(jnp.int32, (image_ref.shape[2], LANES), 0)
  lines = []
  for k in range(side):
    one = (rows == jnp.clip(top + k, 0, h - 1)).astype(jnp.bfloat16)
    line = sum(
      jnp.dot(image_ref[half], one, preferred_element_type=jnp.float32) for half in range(2)
    )
    for bit in _bits(w):
      still = bit + side - 1  # Columns that the bits below may reach.
      moved = line[bit : bit + still]  # Where the image ends before, they reach no further.
      moved = jnp.pad(moved, ((0, max(0, still - len(moved))), (0, 0)))
      line = jnp.where((begin & bit) > 0, moved, line[:still])
    lines.append(line)
  return lines
