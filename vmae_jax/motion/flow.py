"""Optical flow between pairs of a clip's frames, from one of several estimators."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax

from vmae_jax.errors import UserError
from vmae_jax.frozen.raft import raft_flow
from vmae_jax.motion.codec import codec_flow
from vmae_jax.motion.inverse_search import inverse_search
from vmae_jax.types import Array, Float

Pair = tuple[int, int]

# (clip Float 'b T H W C' in [0, 1], *, pairs, **options) -> Float 'b q H W 2', on its own grid.
# RAFT takes its parameters before the clip; `codec` also takes the loader's `vectors` and `times`.
ESTIMATORS = {'inverse_search': inverse_search, 'raft': raft_flow, 'codec': codec_flow}


@flax.struct.dataclass
class Flow:
  """Where the content of frame i is in frame j, for pairs (i, j); a pytree.

  Attributes:
    values: Content at p in frame i is at p + flow in frame j: (x, y), x to the right and y
      downwards, in pixels of the flow's own grid, which may be coarser than the clip's.
    pairs: The pair of each entry of `values`; static.
  """

  values: Float[Array, '*b q H W 2']
  pairs: tuple[Pair, ...] = flax.struct.field(pytree_node=False)

  def take(self, pairs: Sequence[Pair]) -> Float[Array, '*b r H W 2']:
    """The flow of the given pairs, in their order.

    Raises:
      UserError: a pair was not estimated.
    """
    if missing := sorted(set(pairs) - set(self.pairs)):
      raise UserError(
        f'there is no flow from frame {missing[0][0]} to {missing[0][1]}: only '
        f'{", ".join(f"{i} to {j}" for i, j in self.pairs)} were estimated.'
      )
    index = [self.pairs.index(pair) for pair in pairs]
    return self.values[..., index, :, :, :]


def estimate(
  clip: Float[Array, 'b T H W C'], *, pairs: Sequence[Pair], estimator: Callable[..., Array]
) -> Flow:
  """Estimates the flow of all pairs of all clips in one call, without a gradient.

  Args:
    clip: The clips in [0, 1].
    pairs: Frames (i, j): from i to j.
    estimator: An entry of ESTIMATORS, its options bound.

  Raises:
    UserError: a pair names a frame that the clip does not have.
  """
  frames = clip.shape[1]
  for i, j in pairs:
    if not (0 <= i < frames and 0 <= j < frames):
      raise UserError(f'flow from frame {i} to {j}: the clip has frames 0 to {frames - 1}.')
  clip = jax.lax.stop_gradient(clip)
  return Flow(jax.lax.stop_gradient(estimator(clip, pairs=tuple(pairs))), tuple(pairs))


def needs_flow(pairs: Callable[..., tuple[Pair, ...]]) -> Callable[[Callable], Callable]:
  """Decorator of a masking or target that needs optical flow, as its argument `flow`.

  Args:
    pairs: (frames of a clip, **its options) -> the pairs of frames whose flow it needs; no pairs
      if the clip has too few frames.
  """

  def mark(function: Any) -> Any:
    function.flow_pairs = pairs
    return function

  return mark
