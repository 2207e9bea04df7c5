"""Where the time of a step on a TPU goes, as libtpu counts it: cycles of each operation.

The compiler chooses by these counts; they are no measurement, and leave out gathers, for which it
has no count, and what chips wait for each other. They tell where to look, and which of two programs
it holds to be cheaper.
"""

import collections
import re

from vmae_jax.planning.program import executed

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SCOPE = re.compile(r'op_name="([^"]*)"')
_MODULE = re.compile(r'/((?:\w+_)?(?:encoder|decoder|regressor))/')
_LAYER = re.compile(r'/(attention|mlp)\d?/')


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
      if count := _CYCLES.search(line):
        scope = _SCOPE.search(line)
        parts[_part(scope[1] if scope else '')] += int(count[1]) * max(times, 1)
  return dict(parts.most_common())


def _part(scope: str) -> str:
  if module := _MODULE.search(scope):
    layer = _LAYER.search(scope)
    return f'{module[1]}, {layer[1] if layer else "rest"}'
  return 'masks, targets, loss' if 'jvp(' in scope else 'optimizer, rest'
