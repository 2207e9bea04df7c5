"""The train state: all that a step changes, and what a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vmae_jax.types import Array, Int32


@flax.struct.dataclass
class TrainState:
  """All that a step changes; with the loader's position, which equals `step`, a checkpoint.

  Attributes:
    step: Steps taken, skipped ones included.
    params: Float32 parameters.
    opt_state: The optimizer's moments.
    ema: Moving average of the parameters, or None.
    skipped: Steps without a finite loss and gradient, in all.
    skipped_in_a_row: The same since the last good step.
    replaced: Clips that stand in for broken videos, in all.
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

  def zero():  # Buffers that are donated must not be shared.
    return jnp.zeros((), jnp.int32)

  return TrainState(
    step=zero(),
    params=params,
    opt_state=optimizer.init(params),
    ema=jax.tree.map(jnp.copy, params) if ema > 0 else None,
    skipped=zero(),
    skipped_in_a_row=zero(),
    replaced=zero(),
  )
