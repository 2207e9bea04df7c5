"""An attention kernel for TPUs that keeps scores in vector memory.

Scores have a row for each key and a column for each query, so that softmax adds up rows and no
scores are transposed. Heads are not separated: 128 lanes hold two heads of 64. A product for one
head has zeros in the lanes of the other, which costs nothing, since matrix units are 128 wide.
Inputs therefore need no padding or transposition, as they would for JAX's splash attention
(tests/benchmark/NOTES.md has the counts of both).
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vmae_jax import sharding
from vmae_jax.types import Array, Float

SAVED_NAME = 'attention'  # Name of what the backward pass needs, for policies of remat.
LANES = 128
# The most scores of one head in vector memory at once, in float32 and in copies of half that size.
MOST_SCORES = 512 * 1600

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def supports(*, heads: int, head: int, keys: int) -> bool:
  """Whether a device's heads fill whole lanes and the scores of some queries fit into memory."""
  fills = (head % LANES == 0 or LANES % head == 0) and heads * head % LANES == 0
  return fills and _queries_at_once(keys) > 0


def _queries_at_once(keys: int) -> int:
  return min(512, MOST_SCORES // keys // LANES * LANES)


@jax.custom_vjp
def attention_kernel(
  q: Float[Array, 'b n g e'], k: Float[Array, 'b m g e'], v: Float[Array, 'b m g e']
) -> Float[Array, 'b n g e']:
  """softmax(q k^T / sqrt(e)) v on one TPU; on a CPU the kernel is interpreted, for tests.

  The backward pass recomputes scores, as in FlashAttention (Dao et al., 2022).
  """
  return _forward(q, k, v)[0]


def _forward(q, k, v):
  b, n, g, e = q.shape
  arrays = [x.reshape(*x.shape[:2], -1) for x in (q, k, v)]
  statistics = jax.ShapeDtypeStruct((b, g, 1, n), jnp.float32)
  out, logsumexp = _call(_forward_kernel, *arrays, out=(arrays[0], statistics), head=e)
  out, logsumexp = (checkpoint_name(x, SAVED_NAME) for x in (out, logsumexp))
  return out.reshape(q.shape), (*arrays, out, logsumexp)


def _backward(kept, d_out):
  *arrays, out, logsumexp = kept
  b, n, g, e = d_out.shape
  arrays += [out, d_out.reshape(out.shape), logsumexp]
  grads = _call(_backward_kernel, *arrays, out=arrays[:3], head=e, sums=2)
  return tuple(x.reshape(b, -1, g, e) for x in grads)


attention_kernel.defvjp(_forward, _backward)


def _call(kernel: Callable[..., None], *arrays, out, head: int, sums: int = 0) -> tuple[Array, ...]:
  """Runs a kernel for each clip and each group of heads that fills the lanes.

  Args:
    kernel: Takes references to its parts of `arrays`, `out` and the sums.
    *arrays: Float 'b n (g e)', of which the kernel sees 'n LANES' (or 'n e' if e is larger), or
      'b g 1 n', of which it sees the rows of its heads. The second array holds the keys.
    out: Arrays with the shapes and types of the results, in either form.
    head: e.
    sums: The number of float32 accumulators, each of the shape of the kernel's part of the keys.
  """
  b, m, d = arrays[1].shape
  width = max(head, LANES)

  def part(x):
    if x.ndim == 4:
      return pl.BlockSpec((None, width // head, 1, x.shape[3]), lambda i, j: (i, j, 0, 0))
    return pl.BlockSpec((None, x.shape[1], width), lambda i, j: (i, 0, j))

  call = pl.pallas_call(
    functools.partial(kernel, head=head, at_once=_queries_at_once(m)),
    grid=(b, d // width),
    in_specs=[part(x) for x in arrays],
    out_specs=[part(x) for x in out],
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out],
    scratch_shapes=[pltpu.VMEM((m, width), jnp.float32)] * sums,
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'parallel')),
    interpret=sharding.platform() == 'cpu',
    name=kernel.__name__.strip('_'),
  )
  return tuple(call(*arrays))


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, logsumexp_ref, *, head, at_once):
  k, v = k_ref[...], v_ref[...]

  def some_queries(at):
    q, outs = _scaled(q_ref[at, :], head), []
    for h, lanes in _heads(k, head):
      scores = _product('me,ne->mn', k, _only(q, lanes))
      largest = scores.max(axis=0, keepdims=True)
      weights = jnp.exp(scores - largest)
      total = weights.sum(axis=0, keepdims=True)
      logsumexp_ref[h, :, at] = largest + jnp.log(total)
      outs.append(_product('me,mn->en', v, weights.astype(v.dtype))[lanes] / total)
    out_ref[at, :] = jnp.concatenate(outs).T.astype(out_ref.dtype)

  _for_all_queries(some_queries, q_ref.shape[0], at_once)


def _backward_kernel(q_ref, k_ref, v_ref, out_ref, d_out_ref, *refs, head, at_once):
  logsumexp_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum = refs
  k, v = k_ref[...], v_ref[...]
  dk_sum[...] = jnp.zeros_like(dk_sum)
  dv_sum[...] = jnp.zeros_like(dv_sum)

  def some_queries(at):
    q, d_out, dqs = _scaled(q_ref[at, :], head), d_out_ref[at, :], []
    delta = (d_out.astype(jnp.float32) * out_ref[at, :].astype(jnp.float32)).T
    for h, lanes in _heads(k, head):
      my_q, my_d_out = _only(q, lanes), _only(d_out, lanes)
      weights = jnp.exp(_product('me,ne->mn', k, my_q) - logsumexp_ref[h, :, at])
      dv_sum[...] += _product('mn,ne->me', weights.astype(v.dtype), my_d_out)
      d_weights = _product('me,ne->mn', v, my_d_out)
      d_scores = weights * (d_weights - delta[lanes].sum(axis=0, keepdims=True))
      d_scores = d_scores.astype(q.dtype)
      dk_sum[...] += _product('mn,ne->me', d_scores, my_q)
      dqs.append(_product('me,mn->en', k, d_scores)[lanes])
    dq_ref[at, :] = (jnp.concatenate(dqs).T * head**-0.5).astype(dq_ref.dtype)

  _for_all_queries(some_queries, q_ref.shape[0], at_once)
  dk_ref[...] = dk_sum[...].astype(dk_ref.dtype)
  dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)


def _for_all_queries(function: Callable[..., None], n: int, at_once: int) -> None:
  """Calls a function with slices of `at_once` of n queries in a loop, then with the rest."""
  rest = n % at_once
  if n > at_once:

    def body(i, carry):
      function(pl.ds(pl.multiple_of(i * at_once, at_once), at_once))
      return carry

    jax.lax.fori_loop(0, n // at_once, body, None)
  elif n == at_once:
    function(pl.ds(0, n))
  if rest:
    function(pl.ds(n - rest, rest))


def _scaled(q: Float[Array, 'n w'], head: int) -> Float[Array, 'n w']:
  return (q.astype(jnp.float32) * head**-0.5).astype(q.dtype)


def _heads(x: Float[Array, 'n w'], head: int) -> Iterator[tuple[int, slice]]:
  """The number and the lanes of each head."""
  return ((h, slice(h * head, (h + 1) * head)) for h in range(x.shape[1] // head))


def _only(x: Float[Array, 'n w'], lanes: slice) -> Float[Array, 'n w']:
  """x with zeros outside these lanes."""
  lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
  return jnp.where((lane >= lanes.start) & (lane < lanes.stop), x, jnp.zeros_like(x))
