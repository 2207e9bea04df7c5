"""Attention through one function, whichever kernel computes it."""

import functools

import jax
import jax.numpy as jnp

from vmae_jax.types import Array, Float

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'mapped')


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
    implementation: `xla` (any device), `cudnn` (NVIDIA, half precision), `mapped` (one head of
      one clip at a time, recomputed in the backward pass: on CPU, where it is several times
      faster than `xla` over many tokens), or `auto`, which takes the fastest that can run.
  """
  if implementation == 'auto':
    implementation = _choose(q)
  if implementation == 'mapped':
    return _mapped(q, k, v)
  return jax.nn.dot_product_attention(q, k, v, implementation=implementation)


def _choose(q: Array) -> str:
  backend = jax.default_backend()
  mesh = jax.sharding.get_abstract_mesh()
  if backend == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16):
    if q.shape[-1] % 8 == 0 and q.shape[-1] <= 128:
      return 'cudnn'
  # Over few tokens the loop costs more than it saves (measured: they meet at about 128), and
  # it would gather what several devices hold in parts.
  alone = mesh.empty or mesh.size == 1
  return 'mapped' if backend == 'cpu' and alone and q.shape[1] >= 128 else 'xla'


def _mapped(q, k, v):
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def head(qkv):
    q, k, v = qkv
    scores = jnp.einsum('ne,me->nm', q * q.shape[-1] ** -0.5, k)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(v.dtype)
    return weights @ v

  def heads_first(x):
    return x.transpose(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[3])

  out = jax.lax.map(head, (heads_first(q), heads_first(k), heads_first(v)))
  b, n, g, e = q.shape
  return out.reshape(b, g, n, e).transpose(0, 2, 1, 3)
