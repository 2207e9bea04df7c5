"""The train state, which a step changes and a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vmae_jax.types import Array, Int32

COUNTERS = ('step', 'skipped', 'skipped_in_a_row', 'replaced')


@flax.struct.dataclass
class TrainState:
  """What a step changes. The loader's position is `step`.

  Attributes:
    step: Steps taken, skipped ones included.
    params: Float32 parameters.
    opt_state: The optimizer's moments.
    ema: Moving average of the parameters, or None.
    skipped: Steps without a finite loss and gradient.
    skipped_in_a_row: The same since the last good step.
    replaced: The number of clips that replaced those of broken videos.
  """

  step: Int32[Array, '']
  params: Any
  opt_state: Any
  ema: Any
  skipped: Int32[Array, '']
  skipped_in_a_row: Int32[Array, '']
  replaced: Int32[Array, '']


def init_state(params: Any, optimizer: optax.GradientTransformation, *, ema: float) -> TrainState:
  """The state before the first step."""
  return TrainState(
    params=params,
    opt_state=optimizer.init(params),
    ema=jax.tree.map(jnp.copy, params) if ema > 0 else None,
    # Each counter is an array of its own, as donated buffers must not be shared.
    **{name: jnp.zeros((), jnp.int32) for name in COUNTERS},
  )
