"""Reads compiled programs as text (optimised HLO): what runs and how often, what is sent, cycles.

A program is a list of computations that call each other: a loop calls its body as often as it runs,
a fusion calls its computation once. Results are for one device and one run of the program.

The cycles of each operation are libtpu's estimates, from which the compiler chooses between
programs. They are no measurement, and do not include gathers, for which there is no estimate, or
the time that chips wait for each other. They show where time goes, and which of two programs the
compiler considers cheaper. There are none for our kernels (`vmae_jax.models.attention_kernel`,
`vmae_jax.motion.inverse_search_kernel`): their cycles were counted in the compiler's final
schedules, at one bundle of instructions per cycle (`benchmark bundles`).
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from vmae_jax.models.attention_kernel import LANES

_HEADER = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$')
_CALLED = re.compile(r'\b(calls|to_apply|body|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)')
_LOOP = re.compile(r' while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)')
# Calls of GPU libraries, and of Pallas kernels on TPUs; other custom calls are the compiler's own.
_TARGET = re.compile(r'custom_call_target="(__[^"]+|tpu_custom_call)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
KINDS = (
  'all-reduce all-gather reduce-scatter all-to-all collective-permute collective-broadcast '
  'ragged-all-to-all'
).split()
_OPERATION = re.compile(
  r'^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.*?) '
  rf'(?P<kind>{"|".join(KINDS)})(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
# The compiler's fusion of an all-reduce with the slice of its result that a device keeps.
_FUSED_SCATTER = re.compile(r'^all-reduce-scatter')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SCOPE = re.compile(r'op_name="([^"]*)"')
_MODULE = re.compile(r'/((?:\w+_)?(?:encoder|decoder|regressor))/')
_LAYER = re.compile(r'/(attention|mlp)\d?/')
# Bundles of the attention kernels: for each program of the grid, and for each combination of head,
# 128 queries and one key; of the search for flow: for each 128 patches, and for these and each
# column of the image, with the default rounds and steps. They were counted for v5e and are used for
# other chips, too.
_KERNELS = {'forward': (386, 0.662), 'backward': (572, 1.186), 'search': (5_760, 38.7)}
_KERNEL = re.compile(rf'%\S*?({"|".join(_KERNELS)})_kernel\S* = .*target="tpu_custom_call"')
_SHAPES = re.compile(r'\b(?:bf16|f32)\[([\d,]+)\]')


class Computation:
  """The lines of a computation, and whether a fusion or an asynchronous call uses it."""

  def __init__(self):
    self.lines, self.fused = [], False


def executed(text: str) -> Iterator[tuple[str, Computation, int]]:
  """Name of each computation of `compiled.as_text()`, the computation, and how often it runs.

  Yields:
    Callers before the computations that they call; 0 times for those in a loop of unknown length.

  Raises:
    ValueError: the text is no compiled program.
  """
  bodies, entry = _computations(text)
  for name, times in _executions(bodies, entry).items():
    yield name, bodies[name], times


def read_kernels(text: str) -> dict[str, int]:
  """How often each kernel (a library's or our own) runs; one in a loop of unknown length once."""
  found = collections.Counter()
  for _, computation, times in executed(text):
    for line in computation.lines:
      if target := _TARGET.search(line):
        found[target[1]] += max(times, 1)
  return dict(sorted(found.items()))


def _computations(text: str) -> tuple[dict[str, Computation], str]:
  """Computations by name, and the name of the entry computation."""
  bodies, entry, current = {}, None, None
  for line in text.splitlines():
    if match := _HEADER.match(line):
      current = bodies[match['name']] = Computation()
      entry = match['name'] if match['entry'] else entry
    elif current is not None and line.startswith(' '):
      current.lines.append(line)
  if entry is None:
    raise ValueError('the text is no compiled program: it has no ENTRY.')
  return bodies, entry


def _executions(bodies: dict[str, Computation], entry: str) -> dict[str, int]:
  """How often each computation runs; 0 for those in a loop of unknown length."""
  calls = collections.defaultdict(list)  # Caller -> (called, times).
  for name, body in bodies.items():
    for line in body.lines:
      if loop := _LOOP.search(line):
        calls[name].append((loop[2], _trips(line, bodies[loop[1]], bodies)))
        continue
      for how, names in _CALLED.findall(line):
        for called in re.findall(r'[\w.-]+', names):
          if called in bodies:
            bodies[called].fused |= how == 'calls'
            calls[name].append((called, 1))
  order, done = [], set()

  def visit(name):
    if name not in done:
      done.add(name)
      for called, _ in calls[name]:
        visit(called)
      order.append(name)

  visit(entry)
  times = collections.Counter({entry: 1})
  for name in reversed(order):  # Callers come before what they call.
    for called, count in calls[name]:
      times[called] += times[name] * count
  return {name: times[name] for name in reversed(order)}


def _trips(line: str, condition: Computation, bodies: dict[str, Computation]) -> int:
  """How often a loop runs, or 0 if neither the loop nor its condition says it."""
  if known := _TRIPS.search(line):
    return int(known[1])
  lines = list(condition.lines)
  for _, names in (m for x in condition.lines for m in _CALLED.findall(x)):
    lines += [x for name in re.findall(r'[\w.-]+', names) for x in bodies[name].lines]
  limits = {m[1] for x in lines if (m := re.search(r'= [su]32\[\]\S* constant\((\d+)\)', x))}
  counts_up = any(re.search(r' compare\(.*direction=LT', x) for x in lines)
  return int(limits.pop()) if counts_up and len(limits) == 1 else 0


class Collective(NamedTuple):
  """One operation between devices."""

  kind: str  # One of KINDS.
  # Bytes of the whole array that is summed (all-reduce, reduce-scatter), that each device has
  # afterwards (all-gather, all-to-all), or that moves (collective-permute).
  bytes: int
  group: int  # The number of devices that take part together.
  times: int  # How often it runs in one run of the program.

  @property
  def sent(self) -> float:
    """Bytes that each device sends in all runs, with the best known algorithm (a ring)."""
    if self.kind in ('collective-permute', 'collective-broadcast'):
      return float(self.bytes * self.times)
    ways = 2 if self.kind == 'all-reduce' else 1  # Summed, then spread.
    return ways * (self.group - 1) / self.group * self.bytes * self.times


def read_collectives(text: str, *, devices: int) -> list[Collective]:
  """All operations between devices in a compiled program, `compiled.as_text()`.

  `devices` is the number of devices that run it; an operation without a group is between all.

  Raises:
    ValueError: the text is no compiled program, a group of devices has an unknown form, or a loop
      with such operations has an unknown length.
  """
  found, seen = [], set()
  for name, computation, times in executed(text):
    for line in computation.lines:
      match = _OPERATION.match(line)
      if match is None:
        continue
      # An operation that overlaps with other work is split into parts, each in its own fusion.
      channel = re.search(r'channel_id=(\d+)', line)
      if computation.fused and channel:
        if (match['kind'], channel[1]) in seen:
          continue
        seen.add((match['kind'], channel[1]))
      if times == 0:
        raise ValueError(f'{match["name"]} is in a loop that does not say how often it runs.')
      found.append(_collective(match, line, name, times, devices))
  return found


def summarise(collectives: list[Collective]) -> dict[str, dict[str, int | float]]:
  """For each kind: the number of operations, how often they run, their bytes and those sent."""
  rows = collections.defaultdict(lambda: dict(operations=0, runs=0, bytes=0, sent=0.0))
  for c in collectives:
    row = rows[c.kind]
    row['operations'] += 1
    row['runs'] += c.times
    row['bytes'] += c.bytes * c.times
    row['sent'] += c.sent
  return dict(sorted(rows.items()))


def _collective(match, line: str, computation: str, times: int, devices: int) -> Collective:
  kind, group = match['kind'], _group(line, devices)
  sizes = [_bytes(*array) for array in _ARRAY.findall(match['shape'])]
  total = sum(sizes)
  if match['start'] and kind == 'all-gather':  # The shape is (part of a device, whole array).
    total = total * group // (group + 1)
  elif match['start'] and kind == 'collective-permute':  # The shape is (from, to, two semaphores).
    total = sizes[0]
  elif kind == 'all-reduce' and _FUSED_SCATTER.match(computation):
    kind = 'reduce-scatter'
  elif kind == 'reduce-scatter':
    total *= group
  return Collective(kind, total, group, times)


def _bytes(dtype: str, shape: str) -> int:
  bits = 8 if dtype == 'pred' else int(re.search(r'\d+', dtype)[0])
  return math.prod(int(n) for n in shape.split(',') if n) * bits // 8


def _group(line: str, devices: int) -> int:
  """The size of a group: {{0,1},{2,3}}, [groups,size]<=[...] or mesh['a'=4,'b'=2] {'a'}.

  The last may have the order of devices before the axes: device_ids=([2,4]T(1,0)).
  """
  if named := re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', line):
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", named[1])}
    return math.prod(sizes[name] for name in re.findall(r"'([^']+)'", named[2]))
  if iota := re.search(r'replica_groups=\[\d+,(\d+)\]', line):
    return int(iota[1])
  if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', line):
    return len(listed[1].split(','))
  if re.search(r'replica_groups=(?!\{\})', line):
    raise ValueError(f'these groups of devices are in no known form: {line.strip()}')
  return devices


def read_cycles(text: str) -> dict[str, int]:
  """Cycles of a core in one run of `compiled.as_text()`, by part of the model, the largest first.

  It is empty if the compiler does not report cycles, as on CPU and GPU. A loop of unknown length
  counts once.
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
  """Cycles of a kernel, from the shapes of its arguments and its statistics ('b g 1 n')."""
  start, each = _KERNELS[kind := _KERNEL.search(line)[1]]
  given = line.index('operand_layout_constraints')
  every, arguments = (
    [tuple(map(int, shape.split(','))) for shape in _SHAPES.findall(text)]
    for text in (line, line[given:])
  )
  if kind == 'search':
    (r, _, columns, _), _, (_, _, n) = arguments[:3]
    return round(r * n / LANES * (start + columns * each))
  b, g, _, n = next(shape for shape in every if len(shape) == 4)
  _, m, d = arguments[1]
  programs = b * d // max(LANES, d // g)
  return round(programs * start + b * g * math.ceil(n / LANES) * m * each)
