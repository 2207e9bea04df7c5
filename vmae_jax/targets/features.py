"""Tokens of another encoder: the targets of MVD, SALT and V-JEPA."""

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
  """A teacher's tokens of the whole clip, of which it sees every patch.

  Args:
    clip, followed, patch: See `TARGETS`.
    teacher: `Teacher.tokens` with its parameters; in a config a name in its block `teachers`.
    layers: The teacher's blocks: 1 for the first, -1 for the last. Values of several stand one
      after another.
    norm: Applies the teacher's last LayerNorm to each layer, as MVD and V-JEPA do to the last.
    normalise: `none`, as MVD; `token`, zero mean and unit deviation over a token's values
      (LayerNorm without parameters, V-JEPA and MVD's option); `clip`, over a clip's tokens for each
      value (TrackMAE's for CLIP).

  Raises:
    UserError: an unknown option, or a teacher that does not fit.

  Source: MVD's released `engine_for_pretraining.py`; V-JEPA's `train.py`.
  """
  function = lookup(NORMALISATIONS, normalise, 'target features, normalise')
  found = teacher(clip, patch=patch, layers=tuple(layers), norm=norm)
  return jnp.concatenate([function(x) for x in found], axis=-1)
