"""Compiled programs as texts (optimised HLO): their computations, and how often each runs.

A program is a list of computations, some of which are called by others: the body of a loop as
often as the loop runs, a fusion's computation once a call. What is read is what one device
executes in one run of the program.
"""

import collections
import re
from collections.abc import Iterator

_HEADER = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$')
_CALLED = re.compile(r'\b(calls|to_apply|body|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)')
_LOOP = re.compile(r' while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)')
# Of GPUs' libraries and of Pallas on TPUs; other custom calls are the compiler's own.
_TARGET = re.compile(r'custom_call_target="(__[^"]+|tpu_custom_call)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Computation:
  """The lines of a computation, and whether it is one of a fusion or an asynchronous call."""

  def __init__(self):
    self.lines, self.fused = [], False


def executed(text: str) -> Iterator[tuple[str, Computation, int]]:
  """Name of each computation, the computation, and how often it runs.

  Args:
    text: `compiled.as_text()`.

  Yields:
    Callers before what they call; 0 times for those in a loop that does not say how long it is.

  Raises:
    ValueError: the text is no program.
  """
  bodies, entry = _computations(text)
  for name, times in _executions(bodies, entry).items():
    yield name, bodies[name], times


def read_kernels(text: str) -> dict[str, int]:
  """For each library's or own kernel how often it runs; in loops of unknown length once."""
  found = collections.Counter()
  for _, computation, times in executed(text):
    for line in computation.lines:
      if target := _TARGET.search(line):
        found[target[1]] += max(times, 1)
  return dict(sorted(found.items()))


def _computations(text: str) -> tuple[dict[str, Computation], str]:
  """Computations by name, and the name of the one that runs first."""
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
  for name in reversed(order):  # Callers before what they call.
    for called, count in calls[name]:
      times[called] += times[name] * count
  return {name: times[name] for name in reversed(order)}


def _trips(line: str, condition: Computation, bodies: dict[str, Computation]) -> int:
  """How often a loop runs, or 0 if neither it nor its condition says so."""
  if known := _TRIPS.search(line):
    return int(known[1])
  lines = list(condition.lines)
  for _, names in (m for x in condition.lines for m in _CALLED.findall(x)):
    lines += [x for name in re.findall(r'[\w.-]+', names) for x in bodies[name].lines]
  limits = {m[1] for x in lines if (m := re.search(r'= [su]32\[\]\S* constant\((\d+)\)', x))}
  counts_up = any(re.search(r' compare\(.*direction=LT', x) for x in lines)
  return int(limits.pop()) if counts_up and len(limits) == 1 else 0
