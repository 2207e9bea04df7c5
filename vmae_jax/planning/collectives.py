"""What a compiled program sends between devices, read from its text (optimised HLO)."""

import collections
import math
import re
from typing import NamedTuple

from vmae_jax.planning.program import executed

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
  'ragged-all-to-all',
)
_OPERATION = re.compile(
  r'^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.*?) '
  rf'(?P<kind>{"|".join(KINDS)})(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
# Where the compiler fuses an all-reduce and the slice of it that a device keeps.
_FUSED_SCATTER = re.compile(r'^all-reduce-scatter')


class Collective(NamedTuple):
  """One operation between devices.

  Attributes:
    kind: One of KINDS.
    bytes: Of the whole: what is summed (all-reduce, reduce-scatter), what each device has
      afterwards (all-gather, all-to-all), what moves (collective-permute).
    group: Devices that take part together.
    times: How often it runs in one run of the program.
    scope: Where in the model it comes from, as the compiler was told, or ''.
  """

  kind: str
  bytes: int
  group: int
  times: int
  scope: str

  @property
  def sent(self) -> float:
    """Bytes that each device must send, in all its runs, by the best known algorithm (a ring)."""
    if self.kind in ('collective-permute', 'collective-broadcast'):
      return float(self.bytes * self.times)
    ways = 2 if self.kind == 'all-reduce' else 1  # Summed, then spread.
    return ways * (self.group - 1) / self.group * self.bytes * self.times


def read_collectives(text: str, *, devices: int) -> list[Collective]:
  """All operations between devices in a compiled program.

  Args:
    text: `compiled.as_text()`.
    devices: How many run the program; the group of an operation that names none.

  Raises:
    ValueError: the text is no program, its groups of devices are in no known form, or a loop with
      such operations does not say how often it runs.
  """
  found, seen = [], set()
  for name, computation, times in executed(text):
    for line in computation.lines:
      match = _OPERATION.match(line)
      if match is None:
        continue
      # An operation that other work hides is cut in parts, each in a fusion of its own.
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
  """For each kind: how many operations, how often they run, their bytes and what is sent."""
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
  if match['start'] and kind == 'all-gather':  # The shape is (what each has, the whole).
    total = total * group // (group + 1)
  elif match['start'] and kind == 'collective-permute':  # (from, to, two semaphores)
    total = sizes[0]
  elif kind == 'all-reduce' and _FUSED_SCATTER.match(computation):
    kind = 'reduce-scatter'
  elif kind == 'reduce-scatter':
    total *= group
  scope = re.search(r'op_name="([^"]*)"', line)
  return Collective(kind, total, group, times, scope[1] if scope else '')


def _bytes(dtype: str, shape: str) -> int:
  bits = 8 if dtype == 'pred' else int(re.search(r'\d+', dtype)[0])
  return math.prod(int(n) for n in shape.split(',') if n) * bits // 8


def _group(line: str, devices: int) -> int:
  """Devices in a group: {{0,1},{2,3}}, [groups,size]<=[...] or mesh['a'=4,'b'=2] {'a'}.

  Before the axes of the latter, the order of its devices may stand: device_ids=([2,4]T(1,0)).
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
