"""An attentive probe: a learnt query attends to all tokens of a frozen encoder.

As in V-JEPA's evaluations, the probe is one block of cross-attention and a linear layer. Probes
with several learning rates and weight decays are trained at once, on the same batches. Here a
held-out tenth of the training set chooses among them; V-JEPA reports the best on the test set.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vmae_jax.evaluation.features import Batch
from vmae_jax.evaluation.results import accuracy
from vmae_jax.models.blocks import Mlp, decays, layer_norm
from vmae_jax.types import Array, Float

RATES = (5e-3, 1e-3, 3e-4, 1e-4)
DECAYS = (0.01, 0.1)
_INIT = nn.initializers.truncated_normal(0.02)
_ADAM = optax.scale_by_adam(0.9, 0.999, 1e-8)


class _Kernel(nn.Module):
  shape: tuple[int, ...]

  @nn.compact
  def __call__(self) -> Float[Array, '...']:
    return self.param('kernel', _INIT, self.shape)


class AttentiveClassifier(nn.Module):
  """Computes y = query + Attention(query, LN(tokens)), then y + Mlp(LN(y)), then a linear layer.

  As there is only one query, keys and values of tokens are never computed: the keys' kernel is
  applied to the query, and the values' kernel to the weighted sum of tokens. Each token is then
  multiplied with `heads` vectors instead of two matrices. Keys have no bias, as it would add the
  same number to all scores of a head.
  """

  heads: int
  classes: int

  @nn.compact
  def __call__(self, tokens: Float[Array, 'b n d']) -> Float[Array, 'b c']:
    b, _, d = tokens.shape
    split = self.heads, d // self.heads
    query = self.param('query', _INIT, (d,))
    scale = self.param('norm1_scale', nn.initializers.ones, (d,))
    bias = self.param('norm1_bias', nn.initializers.zeros, (d,))
    # The norm's scale and bias are applied later, so all probes under vmap share this result.
    x = nn.LayerNorm(1e-6, use_scale=False, use_bias=False)(tokens)

    q = nn.Dense(d, kernel_init=_INIT, name='q')(query).reshape(split)
    asked = jnp.einsum('hc,dhc->hd', q, _Kernel((d, *split), name='k')()) * scale
    weights = nn.softmax(jnp.einsum('bnd,hd->bhn', x, asked) / math.sqrt(split[1]))
    seen = jnp.einsum('bhn,bnd->bhd', weights, x) * scale + bias
    y = jnp.einsum('bhd,dhc->bhc', seen, _Kernel((d, *split), name='v')()).reshape(b, 1, d)
    y = y + self.param('v_bias', nn.initializers.zeros, (d,))
    y = query + nn.Dense(d, kernel_init=_INIT, name='proj')(y)
    y = y + Mlp(4 * d, name='mlp')(layer_norm(eps=1e-6, dtype=jnp.float32, name='norm2')(y))
    return nn.Dense(self.classes, kernel_init=_INIT, name='classifier')(y[:, 0])


# These functions stand outside of `attentive_probe`, so that they are compiled once for all models.
@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def _start(model: AttentiveClassifier, width: int, key, pairs: int):
  """Equal parameters and Adam moments for each pair, and the number of steps so far."""
  params = model.init(key, jnp.zeros((1, 2, width)))['params']
  params = jax.tree.map(lambda x: jnp.repeat(x[None], pairs, axis=0), params)
  return params, jax.vmap(_ADAM.init)(params), jnp.zeros((), jnp.int32)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(model: AttentiveClassifier, state, batch: Batch, rates, weight_decays, total):
  params, moments, number = state
  tokens, labels, weights = batch
  tokens = tokens.astype(jnp.float32)
  warmup = total // 10
  falling = 0.5 + 0.5 * jnp.cos(jnp.pi * (number - warmup) / jnp.maximum(total - warmup, 1))
  share = jnp.where(number < warmup, (number + 1) / jnp.maximum(warmup, 1), falling)

  def loss(params):
    logits = model.apply({'params': params}, tokens)
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (errors * weights).sum() / jnp.maximum(weights.sum(), 1)

  def one(params, moments, rate, decay):
    updates, moments = _ADAM.update(jax.grad(loss)(params), moments)

    def move(p, update, kernel):
      return p - rate * share * (update + kernel * decay * p)

    return jax.tree.map(move, params, updates, decays(params)), moments

  params, moments = jax.vmap(one)(params, moments, rates, weight_decays)
  return params, moments, number + 1


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: AttentiveClassifier, params, tokens):
  tokens = tokens.astype(jnp.float32)
  return jax.vmap(lambda p: model.apply({'params': p}, tokens))(params)


def attentive_probe(
  train: Callable[[int], Iterable[Batch]],
  held_out: Callable[[], Iterable[Batch]],
  tests: Mapping[str, Callable[[], Iterable[Batch]]],
  *,
  classes: int,
  width: int,
  steps: int,
  epochs: int,
  rates: Sequence[float] = RATES,
  weight_decays: Sequence[float] = DECAYS,
) -> dict[str, dict[str, float]]:
  """Trains a probe for each pair of learning rate and weight decay, all over the same batches.

  The optimizer is AdamW (0.9, 0.999) with warm-up over a tenth of the steps and cosine decay to 0.

  Args:
    train: Epoch -> its batches.
    held_out: The part of the training set that chooses among the pairs; not in `train`.
    tests: Name -> a test set; none of them chooses anything.
    weight_decays: Weight decays of kernels.

  Returns:
    Name of a test set -> `top1` and `top5` (shares of it) of the chosen pair, `learning_rate`,
    `weight_decay`, `held_out_top1`, and `best_top1`, the top-1 of the pair that is best on it.
  """
  pairs = list(itertools.product(rates, weight_decays))
  rate, decay = (jnp.asarray(x, jnp.float32) for x in zip(*pairs, strict=True))
  model = AttentiveClassifier(max(1, width // 64), classes)
  state, total = _start(model, width, jax.random.key(0), len(pairs)), epochs * steps
  for epoch in range(epochs):
    for batch in train(epoch):
      state = _step(model, state, batch, rate, decay, jnp.int32(total))

  def each(batches) -> list[dict[str, float]]:
    found, labels = [], []
    for tokens, label, weight in batches:
      kept = np.asarray(weight) > 0
      found.append(np.asarray(_scores(model, state[0], tokens))[:, kept])
      labels.append(np.asarray(label)[kept])
    found, labels = np.concatenate(found, axis=1), np.concatenate(labels)
    return [accuracy(one, labels) for one in found]

  chosen_by = each(held_out())
  best = int(np.argmax([result['top1'] for result in chosen_by]))
  tested = {name: each(batches()) for name, batches in tests.items()}
  return {
    name: {
      **results[best],
      'learning_rate': pairs[best][0],
      'weight_decay': pairs[best][1],
      'held_out_top1': chosen_by[best]['top1'],
      'best_top1': max(result['top1'] for result in results),
    }
    for name, results in tested.items()
  }
