"""Attention: one function over several kernels."""

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
# From this many tokens, a head's scores take several times the memory of its q, k and v.
RECOMPUTE_FROM_TOKENS = 512
# From this many tokens, `mapped` is faster: as measured on CPU, by the compiler's count of cycles
# on TPU (tests/benchmark: README.md, NOTES.md).
MAPPED_FROM_TOKENS = {'cpu': 384, 'tpu': RECOMPUTE_FROM_TOKENS}
# Bytes of float32 scores that `mapped` computes at once; it computes at least those of one head.
SCORES_BYTES = {'tpu': 40e6}


def attention(
  q: Float[Array, 'b n g e'],
  k: Float[Array, 'b m g e'],
  v: Float[Array, 'b m g e'],
  *,
  implementation: str = 'auto',
) -> Float[Array, 'b n g e']:
  """softmax(q k^T / sqrt(e)) v: every query attends to every key; the softmax is in float32.

  Args:
    implementation: `xla` (any device; from RECOMPUTE_FROM_TOKENS on, the backward pass recomputes
      scores, which would otherwise take most of a step's memory), `cudnn` (NVIDIA, half
      precision), `mapped` (a few heads of one clip at a time, so that scores stay in fast memory;
      the backward pass recomputes them), `pallas` (a kernel that does the same on TPUs), or
      `auto`, see `choose`.
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
  """The implementation that `auto` means on the platform that the caller is compiled for."""
  platform = sharding.platform()
  if platform == 'gpu' and q.dtype in (jnp.bfloat16, jnp.float16) and _gpu_has_cudnn_kernels():
    if q.shape[-1] % 8 == 0 and q.shape[-1] <= 128:
      return 'cudnn'
  if platform == 'tpu' and q.dtype == jnp.bfloat16:
    heads, tensor = q.shape[2], sharding.tensor_ways()
    if heads % tensor == 0 and supports(heads=heads // tensor, head=q.shape[3], keys=k.shape[1]):
      return 'pallas'
  many = _scores(q, k) >= MAPPED_FROM_TOKENS.get(platform, float('inf')) ** 2
  return 'mapped' if many else 'xla'


def _gpu_has_cudnn_kernels() -> bool:
  """Whether cuDNN has attention kernels for this process's GPU: NVIDIA's from Ampere (8.0) on.

  This is assumed when the program is compiled for a GPU that this process does not have.
  """
  if jax.default_backend() != 'gpu':
    return True
  # AMD's GPUs report gfx90a or the like.
  generation = re.match(r'(\d+)\.', str(jax.local_devices()[0].compute_capability))
  return generation is not None and int(generation[1]) >= 8


def _scores(q: Array, k: Array) -> int:
  return q.shape[1] * k.shape[1]


def _on_each_device(kernel, q, k, v):
  """Runs the kernel on the clips and heads that each device holds.

  Without this, a loop over all clips would gather them on every device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return kernel(q, k, v)
  spec = sharding.spec(sharding.BATCH_AXES, None, 'tensor', shape=q.shape, mesh=mesh)
  # JAX cannot tell over which mesh axes the results of a Pallas kernel vary.
  check = kernel is not attention_kernel
  return jax.shard_map(kernel, in_specs=(spec,) * 3, out_specs=spec, check_vma=check)(q, k, v)


@jax.custom_vjp
def _mapped(
  q: Float[Array, 'b n g e'], k: Float[Array, 'b m g e'], v: Float[Array, 'b m g e']
) -> Float[Array, 'b n g e']:
  """Attention for a few heads of one clip at a time, so that n x m scores stay in fast memory.

  A TPU's vector memory holds the scores of several heads, a CPU's caches those of one; `xla` writes
  the float32 scores of all clips to main memory and reads them several times. The backward pass
  recomputes the scores and needs only their log-sum-exp to turn them into weights, as in
  FlashAttention (Dao et al., 2022), but without its blocks, which were no faster on CPU.
  """
  return _mapped_forward(q, k, v)[0]


def _mapped_forward(q, k, v):
  def heads(qkv):
    q, k, v = qkv
    scores = _dot('hne,hme->hnm', q * q.shape[-1] ** -0.5, k)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    # Because of a column of ones, the product also sums the weights, which saves a pass over them.
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
    delta = (d_out * out).sum(axis=-1, keepdims=True, dtype=jnp.float32)
    d_scores = (weights * (d_weights - delta)).astype(q.dtype)
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
  """The largest divisor of the number of heads whose scores fit into SCORES_BYTES, at least 1."""
  room = SCORES_BYTES.get(sharding.platform(), 0) / (_scores(q, k) * 4)
  return max((h for h in range(1, q.shape[2] + 1) if q.shape[2] % h == 0 and h <= room), default=1)


def _in_groups(x: Float[Array, 'b n g e'], h: int) -> Float[Array, 'c h n e']:
  """Cuts the heads into groups of h and puts the groups of all clips along the first axis."""
  return einops.rearrange(x, 'b n (p h) e -> (b p) h n e', h=h)


def _together(x: Float[Array, 'c h n e'], b: int) -> Float[Array, 'b n g e']:
  return einops.rearrange(x, '(b p) h n e -> b n (p h) e', b=b)
