"""The number of cores that a process may use."""

import os
import subprocess
import sys

import pytest

from vmae_jax import cores


@pytest.fixture
def machine(monkeypatch, tmp_path):
  """16 cores, no limits."""
  monkeypatch.setattr(os, 'cpu_count', lambda: 16)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(16)), raising=False)
  monkeypatch.setattr(cores, '_quotas', lambda: [])
  for name in cores._LOCAL_PROCESSES:
    monkeypatch.delenv(name, raising=False)
  return monkeypatch


def test_a_whole_machine(machine):
  assert cores.usable_cores() == 16
  machine.delattr(os, 'sched_getaffinity')  # As on macOS.
  assert cores.usable_cores() == 16


def test_cores_that_the_process_is_bound_to(machine):
  machine.setattr(os, 'sched_getaffinity', lambda pid: {3, 5})
  assert cores.usable_cores() == 2


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='Linux binds processes')
def test_a_process_that_is_really_bound():
  code = 'import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n'
  code += 'from vmae_jax.cores import usable_cores; print(usable_cores())'
  found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert found.stdout == '1\n'


@pytest.mark.parametrize(
  'name, value, expected',
  [
    ('SLURM_STEP_TASKS_PER_NODE', '8(x4)', 2),
    ('SLURM_STEP_TASKS_PER_NODE', '4,2', 4),
    ('OMPI_COMM_WORLD_LOCAL_SIZE', '4', 4),
    ('SLURM_STEP_TASKS_PER_NODE', '64', 1),
    ('SLURM_STEP_TASKS_PER_NODE', '', 16),
  ],
)
def test_processes_of_a_job_share_a_machine(machine, name, value, expected):
  machine.setenv(name, value)
  assert cores.usable_cores() == expected


@pytest.mark.parametrize(
  'own, quotas, expected',
  [
    ('0::/\n', {'': 'max 100000'}, []),
    ('0::/\n', {'': '250000 100000'}, [3]),  # A container sees its own group as the root.
    ('1:cpu:/x\n0::/job/step\n', {'job/step': 'max 100000', 'job': '400000 100000'}, [4]),
    ('0::/job/step\n', {}, []),
  ],
)
def test_limits_of_control_groups(tmp_path, own, quotas, expected):
  (tmp_path / 'own').write_text(own)
  for group, text in quotas.items():
    folder = tmp_path / 'cgroup' / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'cpu.max').write_text(text + '\n')
  assert cores._quotas(tmp_path / 'cgroup', tmp_path / 'own') == expected
  assert cores._quotas(tmp_path / 'cgroup', tmp_path / 'nowhere') == []
