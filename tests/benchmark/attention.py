"""Which of attention's implementations is fastest on this chip, by tokens and size of a head.

What `model.attention=auto` takes rests on this table: `vmae_jax.models.attention.choose`.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.models.attention import attention, choose
from vmae_jax.models.attention_kernel import supports

HEADS = 12
# Visible tokens of a clip at 90 % (160), all of them (1,568), and what lies around.
TOKENS = (64, 128, 160, 256, 512, 784, 1568)
HEAD_DIMS = (64, 80)  # ViT-S, B and L; H.
CALLS = 5  # In a row, so that what starting one costs the host does not count.


def benchmark_attention(
  *, batch: int, rounds: int, tokens: tuple[int, ...] = TOKENS
) -> dict[str, Any]:
  """Times attention and its gradients of queries, keys and values.

  Args:
    batch: Clips.
    rounds: Times that each is measured, in turns; medians are told.
    tokens: Of a clip.

  Returns:
    Rows with `tokens`, `head_dim`, what `auto` takes and, for each implementation that runs
    here, `seconds` of a call and `bytes` of temporary memory; and what they were measured with.
  """
  dtype = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
  rows = []
  for head_dim in HEAD_DIMS:
    for count in tokens:
      shape = (batch, count, HEADS, head_dim)
      qkv = [jax.random.normal(jax.random.key(i), shape, dtype) for i in range(4)]
      compiled = {name: _compile(name, qkv) for name in _available(head_dim, count)}
      times = {name: [] for name in compiled}
      for _ in range(rounds + 1):  # The first one warms up.
        for name, call in compiled.items():
          began = time.perf_counter()
          for _ in range(CALLS):
            out = call(*qkv)
          jax.block_until_ready(out)
          times[name].append((time.perf_counter() - began) / CALLS)
      measured = {
        name: {
          'seconds': statistics.median(times[name][1:]),
          'bytes': call.memory_analysis().temp_size_in_bytes,
        }
        for name, call in compiled.items()
      }
      row = {'tokens': count, 'head_dim': head_dim, 'auto': choose(*qkv[:2])}
      rows.append(row | {'implementations': measured})
  about = {'device': jax.devices()[0].device_kind, 'dtype': jnp.dtype(dtype).name}
  return about | {'batch': batch, 'heads': HEADS, 'rounds': rounds, 'rows': rows}


def _available(head_dim: int, keys: int) -> list[str]:
  """Implementations that this backend has. `mapped` is a loop, which GPUs are too fast for."""
  there = {'gpu': ['xla', 'cudnn'], 'tpu': ['xla', 'mapped']}
  names = there.get(jax.default_backend(), ['xla', 'mapped'])
  if jax.default_backend() == 'tpu' and supports(heads=HEADS, head=head_dim, keys=keys):
    names = [*names, 'pallas']
  return names


def _compile(implementation: str, qkvg: list[jax.Array]):
  def loss(q, k, v, weights):
    out = attention(q, k, v, implementation=implementation)
    return (out * weights).sum(dtype=jnp.float32)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*qkvg).compile()


def table(result: dict[str, Any]) -> str:
  """The result as Markdown."""
  names = list(result['rows'][0]['implementations'])
  lines = [
    f'Attention and its gradients on {result["device"]}, {result["batch"]} clips, '
    f'{result["heads"]} heads, {result["dtype"]}; medians of {result["rounds"]}: milliseconds '
    '(MB of temporary memory)',
    '',
    f'| tokens | head | {" | ".join(names)} | fastest | auto takes |',
    '|' + '---|' * (len(names) + 4),
  ]
  for row in result['rows']:
    measured = row['implementations']
    cells = [
      f'{measured[name]["seconds"] * 1e3:.2f} ({measured[name]["bytes"] / 1e6:.1f})'
      for name in names
    ]
    fastest = min(names, key=lambda name: measured[name]['seconds'])
    lines.append(
      f'| {row["tokens"]:,} | {row["head_dim"]} | {" | ".join(cells)} | {fastest} | {row["auto"]} |'
    )
  return '\n'.join(lines)
