"""What a head predicts, and how much each value counts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from vmae_jax.types import Array, Float, Num


class Target(NamedTuple):
  """What a head predicts for every token of a clip.

  Attributes:
    values: Floats, or integer codes.
    weights: In the loss, one for each token or for each of its values; None: all 1.
      Tokens without weight still count in the mean over tokens.
  """

  values: Num[Array, 'b n p']
  weights: Float[Array, 'b n _'] | None = None


def needs(*names: str) -> Callable[[Callable], Callable]:
  """Decorator of a target that needs more than the clip.

  Args:
    *names: `points`: points are followed along the flow, and `followed` is not None. `tokenizer`:
      the target also takes `encode` and `factor` of the frozen tokenizer, and its values are codes.
      `teacher`: its option `teacher` names one of the config's, and it gets that one's tokens.
  """

  def mark(target: Any) -> Any:
    target.needs = names
    return target

  return mark
