"""Attention through one function, whichever kernel computes it."""

import functools

import einops
import jax
import jax.numpy as jnp

from vmae_jax.types import Array, Float

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'mapped')
# Keys from which on a head's scores outweigh its queries, keys and values several times.
MANY = 512


def attention(
  q: Float[Array, 'b n g e'],
  k: Float[Array, 'b m g e'],
  v: Float[Array, 'b m g e'],
  *,
  implementation: str = 'auto',
) -> Float[Array, 'b n g e']:
  """softmax(q k^T / sqrt(e)) v, every query over every key; the softmax is in float32.

  Args:
    q: Queries of g heads.
    k: Keys.
    v: Values.
    implementation: `xla` (any device; over many tokens the scores are computed again in the
      backward pass, since kept they would be most of a step's memory), `cudnn` (NVIDIA, half
      precision), `mapped` (one head of one clip at a time, recomputed in the backward pass: on
      CPU, where it is several times faster than `xla` over many tokens), or `auto`, which takes
      the fastest that can run.
  """
  if implementation == 'auto':
    implementation = choose(q)
  if implementation == 'mapped':
    return _mapped(q, k, v)
  kernel = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
  if implementation == 'xla' and k.shape[1] >= MANY:
    kernel = jax.checkpoint(kernel)
  return kernel(q, k, v)


def choose(q: Float[Array, 'b n g e']) -> str:
  """The implementation that `auto` takes for such queries on the devices at hand.

  On CPU it is what `python -m vmae_jax.benchmark attention` found to be the fastest.
  """
  backend = jax.default_backend()
  mesh = jax.sharding.get_abstract_mesh()
  if backend == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16):
    if q.shape[-1] % 8 == 0 and q.shape[-1] <= 128:
      return 'cudnn'
  # Over few tokens the loop costs more than it saves (measured: they meet at about 128), and
  # it would gather what several devices hold in parts.
  alone = mesh.empty or mesh.size == 1
  return 'mapped' if backend == 'cpu' and alone and q.shape[1] >= 128 else 'xla'


@jax.custom_vjp
def _mapped(
  q: Float[Array, 'b n g e'], k: Float[Array, 'b m g e'], v: Float[Array, 'b m g e']
) -> Float[Array, 'b n g e']:
  """One head of one clip at a time, so that its n x m scores stay near the processor.

  The backward pass computes the scores again and needs but their log-sum-exp to turn them
  into weights, as in FlashAttention (Dao et al., 2022), without its blocks, which
  gained nothing when measured on CPU.
  """
  return _mapped_forward(q, k, v)[0]


def _mapped_forward(q, k, v):
  def head(qkv):
    q, k, v = qkv
    scores = ((q * q.shape[-1] ** -0.5) @ k.T).astype(jnp.float32)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = ((weights.astype(v.dtype) @ v) / total).astype(v.dtype)
    return out, largest + jnp.log(total)

  heads = [_heads_first(x) for x in (q, k, v)]
  out, logsumexp = jax.lax.map(head, heads)
  return _heads_last(out, len(q)), (*heads, out, logsumexp)


def _mapped_backward(kept, d_out):
  def head(x):
    q, k, v, out, logsumexp, d_out = x
    scale = q.shape[-1] ** -0.5
    scores = ((q * scale) @ k.T).astype(jnp.float32)
    weights = jnp.exp(scores - logsumexp)
    d_weights = (d_out @ v.T).astype(jnp.float32)
    along = (d_out * out).sum(axis=-1, keepdims=True, dtype=jnp.float32)
    d_scores = (weights * (d_weights - along)).astype(q.dtype)
    return (d_scores @ k) * scale, d_scores.T @ (q * scale), weights.astype(v.dtype).T @ d_out

  grads = jax.lax.map(head, (*kept, _heads_first(d_out)))
  return tuple(_heads_last(x, len(d_out)) for x in grads)


_mapped.defvjp(_mapped_forward, _mapped_backward)


def _heads_first(x: Float[Array, 'b n g e']) -> Float[Array, 'bg n e']:
  return einops.rearrange(x, 'b n g e -> (b g) n e')


def _heads_last(x: Float[Array, 'bg n e'], b: int) -> Float[Array, 'b n g e']:
  return einops.rearrange(x, '(b g) n e -> b n g e', b=b)
