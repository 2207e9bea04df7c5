"""How well patches of one frame fit another frame, and a step to where they fit better.

Arrays hold all patches of a pair of frames in their last axis; pairs may be leading axes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax.types import Array, Float

PATCH, STRIDE = 8, 4  # Side of a patch, and pixels to the next one, half a side: four overlap.


class Place(NamedTuple):
  """Where patches have moved to.

  Attributes:
    moved: How far, in pixels to the right and down.
    shown: What the second frame shows there.
    misfit: The sum of squared differences to the patches.
  """

  moved: Float[Array, '*r 2 n']
  shown: Float[Array, '*r p p n']
  misfit: Float[Array, '*r 1 n']


class PatchFit:
  """Looks for the places in the second frame that patches of the first fit.

  The mean brightness of a patch is subtracted, so that a change of light has no effect.

  Args:
    first: Patches of the first frame.
    down: Their gradient downwards.
    right: Their gradient to the right.
    look_up: moved -> what the second frame shows there.
    damping: Added to a patch's squared gradients.
  """

  def __init__(
    self,
    first: Float[Array, '*r p p n'],
    down: Float[Array, '*r p p n'],
    right: Float[Array, '*r p p n'],
    *,
    look_up: Callable[[Float[Array, '*r 2 n']], Float[Array, '*r p p n']],
    damping: float,
  ):
    self.first, self.down, self.right = (_without_mean(x) for x in (first, down, right))
    self.look_up = look_up
    pairs = ((self.right, self.right), (self.right, self.down), (self.down, self.down))
    xx, xy, yy = (_sum(a * b) for a, b in pairs)
    self.xx, self.xy, self.yy = xx + damping, xy, yy + damping

  def at(self, moved: Float[Array, '*r 2 n']) -> Place:
    """The place that patches have moved to."""
    shown = self.look_up(moved)
    return Place(moved, shown, _sum(jnp.square(self._difference(shown))))

  def better(self, place: Place, moved: Float[Array, '*r 2 n']) -> Place:
    """The place or, for each patch that fits better there, the other one."""
    return self._choose(place, self.at(moved))

  def descend(self, place: Place, steps: int) -> Place:
    """The place, or that after some Gauss-Newton steps, for each patch that fits better there."""
    other = jax.lax.fori_loop(0, steps, lambda _, x: self.at(self._step(x)), place)
    return self._choose(place, other)

  def _difference(self, shown):
    return _without_mean(shown) - self.first

  def _choose(self, place: Place, other: Place) -> Place:
    less = other.misfit < place.misfit
    return Place(
      jnp.where(less, other.moved, place.moved),
      jnp.where(less[..., None, :, :], other.shown, place.shown),
      jnp.where(less, other.misfit, place.misfit),
    )

  def _step(self, place: Place) -> Float[Array, '*r 2 n']:
    error = self._difference(place.shown)
    px, py = _sum(self.right * error), _sum(self.down * error)
    step = jnp.concatenate([self.yy * px - self.xy * py, self.xx * py - self.xy * px], -2)
    return place.moved - step / (self.xx * self.yy - self.xy * self.xy)


def _sum(patches: Float[Array, '*r p p n']) -> Float[Array, '*r 1 n']:
  return patches.sum((-3, -2))[..., None, :]


def _without_mean(patches: Float[Array, '*r p p n']) -> Float[Array, '*r p p n']:
  return patches - patches.mean((-3, -2), keepdims=True)
