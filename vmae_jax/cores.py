"""How many cores a process may use."""

import math
import os
import re
from pathlib import Path

# Where launchers say how many processes of the job run on this machine, such as 8, or 8(x4).
_LOCAL_PROCESSES = ('SLURM_STEP_TASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE')


def usable_cores() -> int:
  """How many cores this process may use: the least of

  - the cores that it is bound to (taskset, Slurm, a container's cpuset),
  - the CPU time that its control groups allow (a container's limit of cores; Linux, version 2),
  - its share of the machine, where several processes of one job run there.
  """
  machine = os.cpu_count() or 1
  local = 1
  for name in _LOCAL_PROCESSES:
    if number := re.match(r'\d+', os.environ.get(name, '')):
      local = max(1, int(number[0]))
  bound = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else machine
  return max(1, min(bound, machine // local, *_quotas()))


def _quotas(root: Path = Path('/sys/fs/cgroup'), own: Path = Path('/proc/self/cgroup')):
  """The limits, in cores, of this process's control group and of those above it."""
  try:
    group = re.search(r'^0::/?(.*)$', own.read_text(), re.MULTILINE)
  except OSError:  # Not on Linux.
    return []
  folder = root / (group[1] if group else '')
  found = []
  for place in (folder, *folder.parents):
    try:
      quota, period = (place / 'cpu.max').read_text().split()
    except OSError:
      continue
    if quota != 'max':
      found.append(math.ceil(int(quota) / int(period)))
  return found
