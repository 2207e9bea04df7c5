"""How long a train state takes to be saved and restored, and for how long training waits."""

import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from tests.benchmark import contenders
from vmae_jax.method.build import build_method
from vmae_jax.runs.checkpointer import Checkpointer


def benchmark_checkpoint(*, size: str, rounds: int) -> dict:
  """Saves and restores the state of VideoMAE's pre-training: parameters and two moments.

  Args:
    size: A key of SIZES.
    rounds: Times that it is saved and restored.

  Returns:
    Medians in seconds: `blocked` (until training goes on), `saved` (until all is on disk) and
    `restored`; and the `bytes` of the state.
  """
  _, state = contenders.start(build_method(contenders.load_recipe('videomae', size)))
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    jax.block_until_ready(state),
  )
  times = {'blocked': [], 'saved': [], 'restored': []}
  with tempfile.TemporaryDirectory() as folder:
    checkpointer = Checkpointer(folder, keep=1, keep_every_steps=0, config={})
    for step in range(rounds):
      state = jax.block_until_ready(state.replace(step=jnp.full_like(state.step, step)))
      start = time.perf_counter()
      checkpointer.save(step, state, {})
      times['blocked'].append(time.perf_counter() - start)
      checkpointer.wait()
      times['saved'].append(time.perf_counter() - start)
      start = time.perf_counter()
      jax.block_until_ready(checkpointer.restore(like))
      times['restored'].append(time.perf_counter() - start)
    checkpointer.close()
  medians = {name: statistics.median(seconds) for name, seconds in times.items()}
  return {
    'size': size,
    'rounds': rounds,
    'bytes': sum(x.nbytes for x in jax.tree.leaves(state)),
  } | medians


def table(results: list[dict]) -> str:
  """What `benchmark_checkpoint` returned for several sizes, as Markdown."""
  lines = [
    f'Checkpoints of a train state on local disk; medians of {results[0]["rounds"]}',
    '',
    '| | state (GB) | training waits (s) | saved after (s) | restored in (s) |',
    '|---|---|---|---|---|',
  ]
  for result in results:
    lines.append(
      f'| ViT-{result["size"].upper()} | {result["bytes"] / 1e9:.2f} | {result["blocked"]:.2f} | '
      f'{result["saved"]:.2f} | {result["restored"]:.2f} |'
    )
  return '\n'.join(lines)
