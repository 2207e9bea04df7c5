"""The result of a target, and a decorator for what a target needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from vmae_jax.types import Array, Float, Num


class Target(NamedTuple):
  """The values that a head predicts for every token of a clip.

  Attributes:
    values: Floats, or integer codes.
    weights: Weights in the loss, one for each token or one for each of its values; None: all 1.
      Tokens of weight 0 still count in the mean over tokens.
  """

  values: Num[Array, 'b n p']
  weights: Float[Array, 'b n _'] | None = None


def needs(*names: str) -> Callable[[Callable], Callable]:
  """Decorator of a target that needs more than the clip.

  Args:
    *names: `points`: `followed` holds points that follow the flow and is not None. `tokenizer`: the
      target also takes `encode` and `factor` of the frozen tokenizer, and its values are codes.
      `teacher`: the target's option `teacher` is the name of a teacher in the config, and the
      target gets this teacher's function `tokens` in its place.
  """

  def mark(target: Any) -> Any:
    target.needs = names
    return target

  return mark
