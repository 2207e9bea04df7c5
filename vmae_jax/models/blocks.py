"""Pre-norm transformer blocks and a stack of them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmae_jax.errors import lookup
from vmae_jax.models.attention import SAVED_NAME, attention
from vmae_jax.sharding import constrain_batch, constrain_heads, tensor_ways
from vmae_jax.types import Array, Float, Key

xavier = nn.initializers.xavier_uniform()


def _save_dots(primitive, *args, **params) -> bool:
  """Keeps the outputs of dense layers and of attention, whichever kernel computes it: attention's
  is a tenth of theirs in size but costs more to compute than that."""
  policies = jax.checkpoint_policies
  return (
    policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
    or policies.save_only_these_names(SAVED_NAME)(primitive, *args, **params)
    or 'dot_product_attention_fwd' in primitive.name  # cuDNN's.
  )


# What is kept for the backward pass, which recomputes the rest; 'none' recomputes nothing.
REMAT = {'none': None, 'dots': _save_dots, 'full': jax.checkpoint_policies.nothing_saveable}


@jax.custom_vjp
def add_bias(x: Float[Array, 'b n d'], bias: Float[Array, ' d']) -> Float[Array, 'b n d']:
  """x + bias. The bias's gradient is computed as a product with ones: this way a TPU adds up
  32 x 1,568 rows in a twentieth of the cycles."""
  return x + bias.astype(x.dtype)


def _add_bias_backward(_, d_out):
  ones = jnp.ones(d_out.shape[:2], d_out.dtype)
  options = dict(precision='highest', preferred_element_type=jnp.float32)
  return d_out, jnp.einsum('bn,bnd->d', ones, d_out, **options)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


class Attention(nn.Module):
  """Self-attention with a bias on queries and values and none on keys.

  A bias on keys would add the same number to all scores of a query, which softmax ignores. One
  kernel makes q, k and v, so that initial values have the range of one (3d, d) matrix, as in
  VideoMAE.
  """

  heads: int
  dtype: Any = jnp.float32
  implementation: str = 'auto'

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    b, n, d = x.shape
    how = dict(use_bias=False, kernel_init=xavier, dtype=self.dtype)
    q, k, v = nn.Dense(3 * d, **how, dot_general=self._each_of_three, name='qkv')(x)
    q_bias = self.param('q_bias', nn.initializers.zeros, (d,))
    v_bias = self.param('v_bias', nn.initializers.zeros, (d,))
    q, v = add_bias(q, q_bias), add_bias(v, v_bias)
    q, k, v = (y.reshape(b, n, self.heads, -1) for y in (q, k, v))
    x = attention(q, k, v, implementation=self.implementation).reshape(b, n, d)
    return nn.Dense(d, kernel_init=xavier, dtype=self.dtype, name='proj')(x)

  def _each_of_three(
    self, x: Float[Array, 'b n d'], kernel: Float[Array, 'd _'], *_, **__
  ) -> list[Float[Array, 'b n d']]:
    """x times the kernels of q, k and v, each split over `tensor` by heads.

    If the kernel were split as one matrix, a device would have q and half of k, and activations
    would have to move between devices. There are three products, since cutting apart the result of
    one costs a TPU more than it saves. If `tensor` has several devices there is one product, since
    the gradients of x from three would be summed over the devices separately.
    """
    kernel = constrain_heads(kernel.reshape(len(kernel), 3, -1), heads=self.heads)
    if tensor_ways() > 1:
      return jnp.unstack(jnp.einsum('bnd,dcf->bncf', x, kernel), axis=2)
    return [jnp.einsum('bnd,df->bnf', x, kernel[:, i]) for i in range(3)]


@jax.checkpoint
def gelu(x: Float[Array, '*s']) -> Float[Array, '*s']:
  """Exact GELU, x * Phi(x). The backward pass recomputes it from x.

  On CPU, keeping x alone instead of the three factors of the derivative, and erf instead of erfc,
  made a ViT-B step 10 % shorter.
  """
  return 0.5 * x * (1 + jax.lax.erf(x * 2**-0.5))


class Mlp(nn.Module):
  """Two layers with an exact (erf) GELU between them."""

  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    d = x.shape[-1]
    x = nn.Dense(self.hidden, kernel_init=xavier, dtype=self.dtype, name='fc1')(x)
    x = gelu(x)
    return nn.Dense(d, kernel_init=xavier, dtype=self.dtype, name='fc2')(x)


def layer_norm(*, eps: float, dtype: Any, name: str) -> nn.LayerNorm:
  """LayerNorm with float32 statistics and the two-pass formula for the variance."""
  return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


class LayerScale(nn.Module):
  """Multiplies each channel of a branch by a learnt factor that starts at `init` (CaiT, CAE)."""

  init: float

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    scale = self.param('scale', nn.initializers.constant(self.init), x.shape[-1:])
    return x * scale.astype(x.dtype)


def decays(params: Any) -> Any:
  """A tree that is True where weight decay acts: kernels, but no biases, norms or mask tokens."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def drop_path(keys: Key[Array, ' b'], *, rate: float, depth: int) -> Float[Array, 'depth 2 b']:
  """Factors of the two branches of each block for each clip: 0, or 1 / (the chance to be kept).

  The chance that a branch is dropped rises linearly from 0 in the first block to `rate` in the last
  (as in timm and VideoMAE). Factors are drawn from the clips' keys, so that they do not depend on
  how a batch is split into parts or over devices.
  """
  kept = 1 - jnp.linspace(0, rate, depth)[:, None]
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, kept, (depth, 2)), out_axes=-1)
  return draw(keys) / kept[..., None]


class Shared(nn.Module, kw_only=True):
  """Attributes that all parts of a model have in common."""

  eps: float = 1e-6  # Of LayerNorm.
  dtype: Any = jnp.float32  # Of matrix products and activations; parameters are float32.
  implementation: str = 'auto'  # Of attention, see `vmae_jax.models.attention`.
  # True loops over one compiled block: large models compile much faster. False unrolls the loop,
  # which takes fewer copies.
  scan: bool = False
  remat: str = 'none'  # How much the backward pass recomputes, a key of REMAT.
  # Initial value of the learnt factors (`LayerScale`) on the branches of a block; 0: none.
  layer_scale: float = 0.0

  @property
  def shared(self) -> dict[str, Any]:
    """These attributes as keyword arguments, for modules inside this one."""
    names = ('eps', 'dtype', 'implementation', 'scan', 'remat', 'layer_scale')
    return {name: getattr(self, name) for name in names}


class Block(Shared):
  """x + Attention(LN(x)), then x + Mlp(LN(x)); branches are scaled if `layer_scale` is not 0.

  `keep` holds the factors of both branches for each clip, see `drop_path`.
  """

  heads: int
  mlp: int

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], keep: Float[Array, '2 b'] | None = None
  ) -> Float[Array, 'b n d']:
    def scaled(y, i):
      if self.layer_scale:
        y = LayerScale(self.layer_scale, name=f'scale{i + 1}')(y)
      return y if keep is None else y * keep[i, :, None, None].astype(y.dtype)

    x = constrain_batch(x)
    y = layer_norm(eps=self.eps, dtype=self.dtype, name='norm1')(x)
    x = x + scaled(Attention(self.heads, self.dtype, self.implementation, name='attention')(y), 0)
    y = layer_norm(eps=self.eps, dtype=self.dtype, name='norm2')(x)
    return constrain_batch(x + scaled(Mlp(self.mlp, self.dtype, name='mlp')(y), 1))


def stack(body, *, depth: int, scan: bool, **kwargs):
  """`body` applied `depth` times; the layers' parameters are stacked along a leading axis.

  `scan=True` compiles one layer and loops over it; otherwise the loop is unrolled.
  """
  own = dict(variable_axes={'params': 0}, split_rngs={'params': True})
  return nn.scan(body, length=depth, unroll=1 if scan else depth, **own, **kwargs)


def rematerialised(module: type[nn.Module], remat: str, *, scan: bool) -> type[nn.Module]:
  """The module whose backward pass recomputes what the policy `remat` does not keep.

  Args:
    module: A block.
    remat: A key of REMAT.
    scan: Whether the block is the body of a loop. If the loop is unrolled, common subexpression
      elimination must be prevented: it would find the first computation and keep its results.
  """
  policy = lookup(REMAT, remat, 'model.remat')
  return module if policy is None else nn.remat(module, prevent_cse=not scan, policy=policy)


class Blocks(Shared):
  """`depth` blocks, their parameters stacked along a leading axis.

  The tree of parameters does not depend on `scan` and `remat`, so that checkpoints fit all of them.
  """

  depth: int
  heads: int
  mlp: int

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], keep: Float[Array, 'depth 2 b'] | None = None
  ) -> Float[Array, 'b n d']:
    block = rematerialised(Block, self.remat, scan=self.scan)
    layer = block(self.heads, self.mlp, **self.shared, name='block')
    layers = stack(lambda block, x, keep: (block(x, keep), None), depth=self.depth, scan=self.scan)
    return layers(layer, x, keep)[0]
