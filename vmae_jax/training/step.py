"""The one jitted step from a state and a batch to the next state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vmae_jax.frozen.teacher import AVERAGE
from vmae_jax.method.state import TrainState
from vmae_jax.sharding import batch_sharding, constrain_batch, replicated
from vmae_jax.types import Array, Float

Batch = dict[str, Array]
# (params, batch, frozen) -> the loss and its parts, all scalars.
LossFn = Callable[[Any, Batch, Any], tuple[Float[Array, ''], dict[str, Float[Array, '']]]]


def jit_step(step: Callable[..., Any], state: TrainState, mesh: Mesh) -> Callable[..., Any]:
  """The jitted step, which keeps the shardings of `state` (arrays or shapes).

  Otherwise the compiler would choose shardings for the new state, and the next step, which gets
  that state, would be compiled again.
  """
  places = jax.tree.map(lambda x: x.sharding, state)
  everywhere = replicated(mesh)
  return jax.jit(
    step,
    in_shardings=(places, batch_sharding(mesh), everywhere),
    out_shardings=(places, everywhere),
    donate_argnums=0,
  )


def make_train_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  accumulate: int,
  ema: float | Callable[[Array], Array],
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, Array]]]:
  """A pure step: gradients, update, metrics. The caller jits it and donates the state.

  The third argument is the parameters of frozen networks, since jit would turn arrays of a closure
  into constants. A step whose loss or gradient is not finite is counted, and leaves parameters,
  moments and EMA as they were.

  Args:
    loss_fn: Loss of a batch, a mean over its clips.
    optimizer: Turns gradients into updates.
    accumulate: Number of equal parts of the batch that are computed one after another. Gradients
      are the mean over parts, which equals that of the whole batch if all clips have the same
      number of predicted tokens (not with the maskings `running_cell` and `blocks`).
    ema: Decay of the moving average, or steps taken -> decay; 0: no average. The loss gets the
      average from before the step, for heads that it teaches.
  """
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def gradients(params, batch, frozen):
    if accumulate == 1:
      return grad_fn(params, batch, frozen)
    # Clip i goes to part i % accumulate, so that each device keeps its own clips.
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
      part = jax.tree.map(constrain_batch, part)
      return jax.tree.map(jnp.add, total, grad_fn(params, part, frozen)), None

    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, params, first, frozen)
    )
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / accumulate, total)

  def step(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, dict[str, Array]]:
    if ema:
      frozen = frozen | {AVERAGE: state.ema}
    (loss, parts), grads = gradients(state.params, batch, frozen)
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    def keep(new, old):
      return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

    average = None
    if ema:
      decay = ema(state.step) if callable(ema) else ema
      average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
      average = keep(average, state.ema)
    bad = (~good).astype(jnp.int32)
    new = TrainState(
      step=state.step + 1,
      params=keep(params, state.params),
      opt_state=keep(opt_state, state.opt_state),
      ema=average,
      skipped=state.skipped + bad,
      skipped_in_a_row=(state.skipped_in_a_row + bad) * bad,
      replaced=state.replaced + batch['replaced'].sum(dtype=jnp.int32),
    )
    metrics = {
      'loss': loss,
      **parts,
      'grad_norm': norm,
      'skipped': new.skipped,
      'skipped_in_a_row': new.skipped_in_a_row,
      'bad_clips': new.replaced,
    }
    return new, metrics

  return step
