"""Tokens of another encoder, the teacher: the targets of MVD, SALT and V-JEPA."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from vmae_jax.errors import lookup
from vmae_jax.motion.follow import Followed
from vmae_jax.targets.target import needs
from vmae_jax.types import Array, Float, Num


def _standardise(x: Float[Array, 'b n d'], *, axis: int) -> Float[Array, 'b n d']:
  x = x - x.mean(axis=axis, keepdims=True)
  return x / jnp.sqrt(jnp.square(x).mean(axis=axis, keepdims=True) + 1e-6)


NORMALISATIONS = {
  'none': lambda x: x,
  'token': lambda x: _standardise(x, axis=2),
  'clip': lambda x: _standardise(x, axis=1),
}


@needs('teacher')
def features(
  clip: Num[Array, 'b T H W C'],
  followed: Followed | None,
  *,
  patch: tuple[int, int, int],
  teacher: Callable[..., list[Array]],
  layers: Sequence[int] = (-1,),
  norm: bool = True,
  normalise: str = 'none',
) -> Float[Array, 'b n p']:
  """A teacher's tokens of the clip; the teacher sees every patch.

  Args:
    clip, followed, patch: See `TARGETS`.
    teacher: `Teacher.tokens` with its parameters; in a config, a name in the block `teachers`.
    layers: The teacher's blocks: 1 is the first, -1 the last. Values of several are concatenated.
    norm: Whether the teacher's last LayerNorm is applied to each layer, as MVD and V-JEPA apply it
      to the last.
    normalise: `none` (MVD); `token`, zero mean and unit deviation over a token's values (LayerNorm
      without parameters: V-JEPA, and an option of MVD); or `clip`, the same over all tokens of a
      clip for each value (TrackMAE with CLIP).

  Raises:
    UserError: an option is unknown, or the teacher does not fit.

  Source: MVD's released `engine_for_pretraining.py`; V-JEPA's `train.py`.
  """
  function = lookup(NORMALISATIONS, normalise, 'target features, normalise')
  found = teacher(clip, patch=patch, layers=tuple(layers), norm=norm)
  return jnp.concatenate([function(x) for x in found], axis=-1)
