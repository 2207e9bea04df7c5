"""Attention and its gradients by the compiler's count, for TPUs that need not be there.

Of operations of its own libtpu tells cycles; of kernels it tells none, but writes their final
schedules: bundles of instructions, one a cycle, which are counted here, bodies of loops as often as
they run. Waiting for memory is in neither.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOPOLOGIES = ('v5e:1x1', 'v6e:1x1', 'v4:2x2x1', 'v5p:2x2x1')
# Clips on a chip, tokens, heads and their size: ViT-B's decoder and encoder, ViT-L's encoder.
SHAPES = ((4, 1568, 6, 64), (32, 160, 12, 64), (8, 160, 16, 64))
IMPLEMENTATIONS = ('xla', 'mapped', 'pallas')
# Prints cycles of all but kernels, and temporary bytes.
ATTENTION = """
import json, sys
import jax, jax.numpy as jnp
from vmae_jax import sharding
from vmae_jax.models.attention import attention
from vmae_jax.planning.program import executed, read_cycles
from vmae_jax.planning.slices import slice_devices

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_enable_compilation_cache', False)
topology, implementation, shape = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mesh = sharding.make_mesh(devices=slice_devices(topology)[:1])
x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding.batch_sharding(mesh))
def loss(q, k, v, weights):
  out = attention(q, k, v, implementation=implementation)
  return (out * weights).sum(dtype=jnp.float32)
with jax.set_mesh(mesh):
  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(x, x, x, x).compile()
text = '\\n'.join(x for x in step.as_text().splitlines() if 'tpu_custom_call' not in x)
cycles = sum(read_cycles(text).values())
print(json.dumps({'cycles': cycles, 'bytes': step.memory_analysis().temp_size_in_bytes}))
"""


def benchmark_bundles(*, topologies: list[str]) -> Iterator[list[dict[str, Any]]]:
  """Compiles each implementation for each shape and TPU; yields all rows whenever one is added."""
  rows = []
  for topology in topologies:
    for shape in SHAPES:
      for implementation in IMPLEMENTATIONS:
        row = dict(topology=topology, shape=list(shape), implementation=implementation)
        rows.append(row | count(ATTENTION, topology, implementation, json.dumps(shape)))
        print(rows[-1], flush=True)
        yield list(rows)


def count(program: str, *arguments: str) -> dict[str, Any]:
  """What a program that compiles prints as JSON, and bundles of kernels, added up by name."""
  with tempfile.TemporaryDirectory() as folder:
    dump = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_emit_annotations=true'
    tpu = {'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_ACCELERATOR_TYPE': 'v5litepod-4'}
    tpu |= {'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}
    done = subprocess.run(
      [sys.executable, '-c', program, *arguments],
      cwd=ROOT,
      env=os.environ | tpu | {'LIBTPU_INIT_ARGS': dump},
      capture_output=True,
      text=True,
    )
    if done.returncode:
      return {'error': done.stderr.strip().splitlines()[-1]}
    schedules = [
      path
      for path in Path(folder).glob('*_kernel*-final_bundles.txt')
      if 'schedule-analysis' not in path.name
    ]
    kernels = collections.Counter()
    for path in schedules:
      kernels[re.search(r'([a-z]+_kernel)', path.name)[1]] += bundles(path.read_text())
  return json.loads(done.stdout.splitlines()[-1]) | {'bundles': kernels}


_BUNDLE = re.compile(r' *(?:0x[0-9a-f]+|0) +(LB:|LH:|LE:|PB:|PF:|CT:|:)')
_EXIT = re.compile(
  r'(%p\d+_p\d+) = scmp\.\w+\.s32\.totalorder (?:\(%p\w+\), )?%s\w+, (\d+) /\* loop exit test'
)
_BACK = re.compile(r'sbr\.rel \(!(%p\w+)\)')


def bundles(schedule: str) -> int:
  """Bundles that a kernel's final schedule runs through.

  The outermost loop is the grid's, in which two turns more than there are programs start the first
  copy and end the last. Code that is skipped in some turns counts in all.
  """
  counts, turns = [0], {}  # Of the loops that a line is in; by exit test, which may be inside.
  for line in schedule.splitlines():
    match = _BUNDLE.match(line)
    if match is None:
      continue
    if match[1] == 'LB:':
      counts.append(0)
    counts[-1] += 1
    if test := _EXIT.search(line):
      turns[test[1]] = int(test[2])
    if (back := _BACK.search(line)) and back[1] in turns:
      body, times = counts.pop(), turns.pop(back[1])
      counts[-1] += body * (times if len(counts) > 1 else times - 2)
  return counts[0]


def table(rows: list[dict[str, Any]]) -> str:
  """The rows as Markdown: a line for each TPU and shape."""
  lines = [
    "Attention and its gradients, thousands of cycles by libtpu's count, kernels by bundles (MB of "
    'temporary memory)',
    '',
    f'| TPU | clips x tokens x heads x size | {" | ".join(IMPLEMENTATIONS)} |',
    '|' + '---|' * (len(IMPLEMENTATIONS) + 2),
  ]
  cells = {}
  for row in rows:
    if 'error' in row:
      cell = 'not compiled'
    else:
      total = row['cycles'] + sum(row['bundles'].values())
      cell = f'{total / 1e3:,.0f} ({row["bytes"] / 1e6:,.0f})'
    shape = ' x '.join(f'{x:,}' for x in row['shape'])
    cells.setdefault((row['topology'].split(':')[0], shape), {})[row['implementation']] = cell
  for key, cell in cells.items():
    lines.append(f'| {" | ".join(key)} | {" | ".join(cell.get(x, "") for x in IMPLEMENTATIONS)} |')
  return '\n'.join(lines)
