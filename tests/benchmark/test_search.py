"""The search for the largest batch: what it compiles, and once in earnest."""

import json
import re
import subprocess
import sys

import pytest

from tests import runs
from tests.test_estimate import environment
from vmae_jax.benchmark import aot, estimate
from vmae_jax.config_file import load_config

# Of a model that compiles in seconds, on devices of 10 MiB, by two ways to save memory.
SEARCH = """
import json
from vmae_jax.benchmark import estimate, plan
plan.REMATS = ('none', 'full')
from vmae_jax.config_file import load_config
from vmae_jax.models.sizes import SIZES
one = dict(width=16, depth=1, heads=2, mlp=32)
SIZES['demo'] = one | dict(decoder=one)
config = load_config('configs/videomae.py:smoke')
config.data.frames, config.batch_size = 2, 64
estimate._memory_limit = lambda devices: 10 * 2**20
found = estimate.search(config, 'local')
assert config.batch_size == 64  # The caller's stays as it is.
print(estimate.search_table(found))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_search():
  command = [sys.executable, '-c', SEARCH]
  done = subprocess.run(
    command, env=environment(devices=2), cwd=runs.ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  *lines, found = done.stdout.splitlines()
  found = json.loads(found)
  assert (found['wanted'], found['ways'], found['limit']) == (32, 2, 10 * 2**20)
  assert list(found['rows']) == ['none', 'full']
  for row in found['rows'].values():
    # Both sides of what there is are compiled.
    sizes = {int(clips): size for clips, size in row['bytes'].items()}
    assert sizes[row['clips']] <= found['limit'] < sizes[2 * row['clips']]
    assert row['batch_size'] == 2 * row['clips'] and row['clips'] >= 32
  compiled = sum(len(row['bytes']) for row in found['rows'].values())
  progress = r'remat none, 32 clips a chip: \d\.\d MiB, fits \(compiled in \d+ s\)'
  assert re.match(progress, lines[0]) and 'does not fit (' in '\n'.join(lines[:compiled])
  assert lines[compiled].startswith('model.remat   clips a chip') and found['remat'] == 'none'
  assert lines[-1] == 'for 32 clips a chip the cheapest is --config.model.remat=none'


def test_what_search_compiles(monkeypatch, capsys):
  asked = []

  def compile_step(config, mesh, *, limit):
    asked.append((config.batch_size, config.model.remat))
    size = (
      config.batch_size // mesh.size * {'none': 2**20, 'dots': 2**19, 'full': 2**18}[asked[-1][1]]
    )
    return aot.CompiledStep(
      size <= limit, {'all': size, 'limit': limit}, None, [], 0, 7.0, ''
    ), None

  monkeypatch.setattr(aot, 'compile_step', compile_step)
  monkeypatch.setattr(estimate, '_memory_limit', lambda devices: 10 * 2**20)
  config = load_config(runs.SMOKE)
  config.batch_size, config.optimizer.accumulate = 32, 2
  found = estimate.search(config, 'local')
  # By step of two clips, one after the other.
  assert asked[0] == (32, 'none') and {remat for _, remat in asked} == {'none', 'dots', 'full'}
  assert {remat: row['batch_size'] for remat, row in found['rows'].items()} == {
    'none': 8, 'dots': 16, 'full': 32,
  }  # fmt: skip
  assert (found['wanted'], found['remat'], config.batch_size) == (16, 'full', 32)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(asked)
  assert lines[0] == ('remat none, 16 clips a chip: 32.0 MiB, does not fit (compiled in 7 s)')
  assert estimate.search_table(found).endswith('cheapest is --config.model.remat=full')
