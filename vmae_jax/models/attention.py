"""Attention through one function, whichever kernel computes it."""

import functools
import re

import einops
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vmae_jax import sharding
from vmae_jax.models.attention_kernel import SAVED_NAME, attention_kernel, supports
from vmae_jax.types import Array, Float

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'mapped', 'pallas')
# Tokens from which on a head's scores outweigh its queries, keys and values several times.
RECOMPUTE_FROM_TOKENS = 512
# Tokens from which on `mapped` pays: on CPU as measured, on TPU by the compiler's count of cycles
# (tests/benchmark: README.md, NOTES.md).
MAPPED_FROM_TOKENS = {'cpu': 384, 'tpu': RECOMPUTE_FROM_TOKENS}
# Bytes of scores, in float32, that `mapped` computes at once, but at least those of one head.
SCORES_BYTES = {'tpu': 40e6}


def attention(
  q: Float[Array, 'b n g e'],
  k: Float[Array, 'b m g e'],
  v: Float[Array, 'b m g e'],
  *,
  implementation: str = 'auto',
) -> Float[Array, 'b n g e']:
  """softmax(q k^T / sqrt(e)) v, every query over every key; the softmax is in float32.

  Args:
    implementation: `xla` (any device; many scores are computed again in the backward pass, since
      kept they would be most of a step's memory), `cudnn` (NVIDIA, half precision), `mapped`
      (some heads of one clip at a time, so that scores never leave the fast memory; they are
      computed again in the backward pass), `pallas` (a kernel that does so on TPUs), or `auto`, see
      `choose`.
  """
  if implementation == 'auto':
    implementation = choose(q, k)
  if implementation in ('mapped', 'pallas'):
    kernel = _mapped if implementation == 'mapped' else attention_kernel
    return _on_each_device(kernel, q, k, v)
  kernel = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
  if implementation == 'xla' and _scores(q, k) >= RECOMPUTE_FROM_TOKENS**2:
    kernel = jax.checkpoint(kernel)
  return kernel(q, k, v)


def choose(q: Float[Array, 'b n g e'], k: Float[Array, 'b m g e']) -> str:
  """The implementation that `auto` takes where this is compiled for."""
  platform = sharding.platform()
  if platform == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16) and _gpu_has_cudnn_kernels():
    if q.shape[-1] % 8 == 0 and q.shape[-1] <= 128:
      return 'cudnn'
  if platform == 'tpu' and q.dtype == jnp.bfloat16:
    heads, tensor = q.shape[2], sharding.tensor_ways()
    if heads % tensor == 0 and supports(heads=heads // tensor, head=q.shape[3], keys=k.shape[1]):
      return 'pallas'
  return (
    'mapped'
    if platform in MAPPED_FROM_TOKENS and _scores(q, k) >= MAPPED_FROM_TOKENS[platform] ** 2
    else 'xla'
  )


def _gpu_has_cudnn_kernels() -> bool:
  """Whether cuDNN attends on this process's GPU: NVIDIA's from Ampere (8.0) on.

  Of GPUs that are not here it is taken for granted.
  """
  if jax.default_backend() != 'gpu':
    return True
  # AMD's say gfx90a or the like.
  generation = re.match(r'(\d+)\.', str(jax.local_devices()[0].compute_capability))
  return generation is not None and int(generation[1]) >= 8


def _scores(q: Array, k: Array) -> int:
  return q.shape[1] * k.shape[1]


def _on_each_device(kernel, q, k, v):
  """The kernel over the clips and heads that each device holds; a loop over all would gather."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return kernel(q, k, v)
  spec = sharding.spec(sharding.BATCH_AXES, None, 'tensor', shape=q.shape, mesh=mesh)
  # Over which axes the results of a Pallas kernel vary is not known.
  known = kernel is not attention_kernel
  return jax.shard_map(kernel, in_specs=(spec,) * 3, out_specs=spec, check_vma=known)(q, k, v)


@jax.custom_vjp
def _mapped(
  q: Float[Array, 'b n g e'], k: Float[Array, 'b m g e'], v: Float[Array, 'b m g e']
) -> Float[Array, 'b n g e']:
  """Some heads of one clip at a time, so that their n x m scores stay near the processor.

  A TPU's vector memory holds those of several heads, where `xla` writes those of all clips to the
  main memory, in float32, and reads them several times; a CPU's caches hold those of one. The
  backward pass computes the scores again and needs but their log-sum-exp to turn them into
  weights, as in FlashAttention (Dao et al., 2022), without its blocks, which gained nothing when
  measured on CPU.
  """
  return _mapped_forward(q, k, v)[0]


def _mapped_forward(q, k, v):
  def heads(qkv):
    q, k, v = qkv
    scores = _dot('hne,hme->hnm', q * q.shape[-1] ** -0.5, k)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    # A column of ones makes the product count the weights, too: no pass over them for their sum.
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    out = jnp.einsum('hnm,hme->hne', weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out, total = out[..., :-1], out[..., -1:]
    return (out / total).astype(v.dtype), largest + jnp.log(total)

  at_once = _heads_at_once(q, k)
  qkv = [_in_groups(x, at_once) for x in (q, k, v)]
  out, logsumexp = (checkpoint_name(x, SAVED_NAME) for x in jax.lax.map(heads, qkv))
  return _together(out, len(q)), (*qkv, out, logsumexp)


def _mapped_backward(kept, d_out):
  def heads(x):
    q, k, v, out, logsumexp, d_out = x
    scale = q.shape[-1] ** -0.5
    weights = jnp.exp(_dot('hne,hme->hnm', q * scale, k) - logsumexp)
    d_weights = _dot('hne,hme->hnm', d_out, v)
    along = (d_out * out).sum(axis=-1, keepdims=True, dtype=jnp.float32)
    d_scores = (weights * (d_weights - along)).astype(q.dtype)
    return (
      jnp.einsum('hnm,hme->hne', d_scores, k) * scale,
      jnp.einsum('hnm,hne->hme', d_scores, q * scale),
      jnp.einsum('hnm,hne->hme', weights.astype(v.dtype), d_out),
    )

  grads = jax.lax.map(heads, (*kept, _in_groups(d_out, kept[0].shape[1])))
  return tuple(_together(x, len(d_out)) for x in grads)


_mapped.defvjp(_mapped_forward, _mapped_backward)


def _dot(equation: str, a: Array, b: Array) -> Array:
  return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _heads_at_once(q: Float[Array, 'b n g e'], k: Float[Array, 'b m g e']) -> int:
  """The most heads, of those that divide all, whose scores `SCORES_BYTES` holds."""
  room = SCORES_BYTES.get(sharding.platform(), 0) / (_scores(q, k) * 4)
  return max((h for h in range(1, q.shape[2] + 1) if q.shape[2] % h == 0 and h <= room), default=1)


def _in_groups(x: Float[Array, 'b n g e'], h: int) -> Float[Array, 'c h n e']:
  """So many heads at a time, one group after another along the first axis."""
  return einops.rearrange(x, 'b n (p h) e -> (b p) h n e', h=h)


def _together(x: Float[Array, 'c h n e'], b: int) -> Float[Array, 'b n g e']:
  return einops.rearrange(x, '(b p) h n e -> b n (p h) e', b=b)
