"""Where the time of a step on a TPU goes, as libtpu counts it: cycles of each operation.

The compiler chooses by these counts; they are no measurement, and leave out gathers, for which it
has no count, and what chips wait for each other. They tell where to look, and which of two programs
it holds to be cheaper. Of kernels (`vmae_jax.models.attention_kernel`) it tells none: theirs were
counted in its final schedules, one bundle of instructions a cycle (`benchmark bundles`).
"""

import collections
import math
import re

from vmae_jax.models.attention_kernel import LANES
from vmae_jax.planning.program import executed

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SCOPE = re.compile(r'op_name="([^"]*)"')
_MODULE = re.compile(r'/((?:\w+_)?(?:encoder|decoder|regressor))/')
_LAYER = re.compile(r'/(attention|mlp)\d?/')
# Bundles of attention's kernels on a TPU: of each program of the grid, and for each head, 128
# queries and key; v5e's where a chip has not been counted.
_KERNELS = {'forward': (386, 0.662), 'backward': (572, 1.186)}
_KERNEL = re.compile(r'%\S*?(forward|backward)_kernel\S* = .*custom_call_target="tpu_custom_call"')
_SHAPES = re.compile(r'\b(?:bf16|f32)\[([\d,]+)\]')


def read_cycles(text: str) -> dict[str, int]:
  """Cycles of a core in one run of a step, by part of the model, the largest first.

  Args:
    text: `compiled.as_text()`.

  Returns:
    Nothing where the compiler does not tell, as on CPU and GPU. A loop that does not say how often
    it runs counts once.
  """
  parts = collections.Counter()
  for _, computation, times in executed(text):
    if computation.fused:  # The fusion's own line counts.
      continue
    for line in computation.lines:
      count = _CYCLES.search(line)
      if count or _KERNEL.search(line):
        cycles = int(count[1]) if count else _kernel(line)
        scope = _SCOPE.search(line)
        parts[_part(scope[1] if scope else '')] += cycles * max(times, 1)
  return dict(parts.most_common())


def _part(scope: str) -> str:
  if module := _MODULE.search(scope):
    layer = _LAYER.search(scope)
    return f'{module[1]}, {layer[1] if layer else "rest"}'
  return 'masks, targets, loss' if 'jvp(' in scope else 'optimizer, rest'


def _kernel(line: str) -> int:
  """Cycles of a kernel, from the shapes of its queries, keys and statistics ('b g 1 n')."""
  shapes = [tuple(map(int, shape.split(','))) for shape in _SHAPES.findall(line)]
  b, g, _, n = next(shape for shape in shapes if len(shape) == 4)
  given = line.index('operand_layout_constraints')
  _, m, d = tuple(map(int, _SHAPES.findall(line[given:])[1].split(',')))
  start, each = _KERNELS[_KERNEL.search(line)[1]]
  programs = b * d // max(LANES, d // g)
  return round(programs * start + b * g * math.ceil(n / LANES) * m * each)
