"""The search for mesh, remat and batch: with made-up memory, and once with a real compiler."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests import started
from tests.test_estimate import environment
from vmae_jax.config_file import load_config
from vmae_jax.planning import aot
from vmae_jax.planning import search as search_lib
from vmae_jax.planning.aot import CompiledStep
from vmae_jax.planning.program import Collective

# Of a model that compiles in seconds, on devices of 10 MiB, by two ways to save memory.
SEARCH = """
import json
from vmae_jax.planning import estimate, search
search.REMATS = {'none': 0.0, 'full': 1 / 3}
from vmae_jax.config_file import load_config
from vmae_jax.models.sizes import SIZES
one = dict(width=16, depth=1, heads=2, mlp=32)
SIZES['demo'] = one | dict(decoder=one)
config = load_config('configs/videomae.py:smoke')
config.data.frames, config.batch_size = 2, 64
estimate._memory_limit = lambda devices: 10 * 2**20
said, step = estimate.estimate(
  config, 'local', mfu=0.4, videos=None, decode_rate=20.0, video_bytes=1e6
)
found = search.search(config, 'local', step=step, clip_flops=said['clip_flops'])
assert (config.batch_size, config.mesh.fsdp) == (64, 1)  # The caller's stays as it is.
print(search.table(found))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_search():
  command = [sys.executable, '-c', SEARCH]
  done = subprocess.run(
    command, env=environment(devices=2), cwd=started.ROOT, capture_output=True, text=True
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
  # One of them for the estimate: it is not compiled, nor told, again.
  compiled = sum(len(row['bytes']) for row in found['rows'].values()) - 1
  progress = r'fsdp 1, remat none, 64 clips a chip: \d\.\d MiB, fits \(compiled in \d+ s\)'
  assert re.match(progress, lines[0]) and 'does not fit (' in '\n'.join(lines[:compiled])
  assert lines[compiled].startswith('mesh.fsdp   model.remat   GiB at 32 clips a chip')
  assert [(x['fsdp'], x['remat']) for x in found['settings']] == [(1, 'none')]
  cheapest = '--config.mesh.fsdp=1 --config.model.remat=none'
  assert lines[-1] == f'for 32 clips a chip the cheapest is {cheapest}'


class Chips:
  """A slice of v5e on which memory and traffic of a step are made up.

  Parameters and gradients take 100 each and moments 200, split by fsdp; activations of a clip
  take 30, 10 or 4. What is sent is `sent` for each part of the parameters.
  """

  def __init__(self, monkeypatch, *, chips=8, slices=1, limit=350, sent=1.0):
    self.limit, self.sent, self.asked = limit, sent, []
    self.devices = [
      SimpleNamespace(device_kind='TPU v5 lite', platform='tpu', slice_index=i * slices // chips)
      for i in range(chips)
    ]
    monkeypatch.setattr(search_lib, 'prepare', self.prepare)
    monkeypatch.setattr(search_lib.sharding, 'make_mesh', self.make_mesh)
    monkeypatch.setattr(aot, 'compile_step', self.compile_step)

  def make_mesh(self, *, data, fsdp, tensor, devices):
    assert data * fsdp * tensor == len(devices)
    shape = dict(data=data, fsdp=fsdp, tensor=tensor)
    return SimpleNamespace(shape=shape, devices=np.array(devices))

  def prepare(self, config, topology):
    config = config.copy_and_resolve_references()
    fsdp = config.mesh.fsdp
    mesh = dict(data=len(self.devices) // fsdp, fsdp=fsdp, tensor=1)
    return config, self.make_mesh(**mesh, devices=self.devices), self.limit

  def compile_step(self, config, mesh, *, limit):
    parts, remat = mesh.shape['fsdp'], config.model.remat
    clips = config.batch_size // (len(self.devices) * config.optimizer.accumulate)
    self.asked.append((parts, remat, clips))
    memory = {'parameters': 100 // parts, 'optimizer': 200 // parts, 'limit': limit}
    memory['all'] = 400 // parts + clips * {'none': 30, 'dots': 10, 'full': 4}[remat]
    between = [Collective('all-gather', int(self.sent * (parts - 1)), len(self.devices), 1)]
    method = SimpleNamespace(flops=lambda: 10**9)
    fits = memory['all'] <= limit
    return CompiledStep(fits, memory, None, between, {}, {}, 0, 7.0, ''), method


def config_of(clips, chips=8):
  config = load_config(started.SMOKE)
  config.batch_size = clips * chips
  return config


def search(chips, config):
  """The search after `estimate`, which has compiled the step of the unchanged config."""
  settings, mesh, limit = chips.prepare(config, 'v5e:2x4')
  step, method = chips.compile_step(settings, mesh, limit=limit)
  return search_lib.search(config, 'v5e:2x4', step=step, clip_flops=method.flops())


def found_settings(found):
  return [(row['fsdp'], row['remat']) for row in found['settings']]


def test_a_step_that_fits_needs_no_other_mesh(monkeypatch, capsys):
  chips = Chips(monkeypatch, limit=700)
  found = search(chips, config_of(8))
  assert found_settings(found) == [(1, 'none')] and {parts for parts, *_ in chips.asked} == {1}
  assert {remat: row['batch_size'] for remat, row in found['rows'].items()} == {
    'none': 8 * 8, 'dots': 16 * 8, 'full': 64 * 8,
  }  # fmt: skip
  assert len(chips.asked) == len(set(chips.asked))  # Nothing is compiled twice.
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(chips.asked) - 1  # The first one was told by the estimate.
  assert lines[0] == 'fsdp 1, remat none, 16 clips a chip: 0.0 MiB, does not fit (compiled in 7 s)'


@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_the_step_of_the_estimate_is_not_compiled_again(monkeypatch, remat):
  chips = Chips(monkeypatch)
  config = config_of(8)
  config.mesh.fsdp, config.model.remat = 2, remat
  found = search(chips, config)
  assert chips.asked[0] == (2, remat, 8) and len(chips.asked) == len(set(chips.asked))
  # Of 440, 280 and 232 in halves the second fits; in four parts the first does with 340.
  settings = [(row['fsdp'], row['remat'], row['bytes']) for row in found['settings']]
  assert settings == [(2, 'dots', 280), (4, 'none', 340)]


def test_split_parameters_save_recomputation(monkeypatch):
  chips = Chips(monkeypatch)
  found = search(chips, config_of(8))
  # Of 640, 480 and 432, splitting in two leaves 440, 280 and 232; in four, 340 for the first.
  assert found_settings(found) == [(2, 'dots'), (4, 'none')]
  at_8 = [(parts, remat) for parts, remat, clips in chips.asked if clips == 8]
  assert at_8[:5] == [(1, 'none'), (1, 'dots'), (1, 'full'), (2, 'dots'), (4, 'none')]
  assert (found['fsdp'], found['remat']) == (4, 'none')
  assert {parts for parts, _, clips in chips.asked if clips != 8} == {4}
  text = search_lib.table(found)
  assert text.endswith('cheapest is --config.mesh.fsdp=4 --config.model.remat=none')
  floor = found['settings'][1]['floor']
  assert floor == pytest.approx(8 * 10**9 / 197e12)
  assert re.search(rf'(?m)^4 +none +0\.00 +{floor * 1e3:.1f}$', text), text


def test_a_network_that_takes_longer_than_arithmetic_counts(monkeypatch):
  # Of `sent` 7/8 leave a chip: 44 and 131 us, beside 41 of arithmetic.
  chips = Chips(monkeypatch, sent=1e7)
  found = search(chips, config_of(8))
  assert found_settings(found) == [(2, 'dots'), (4, 'none')]
  assert (found['fsdp'], found['remat']) == (2, 'dots')


def test_recomputed_arithmetic_counts(monkeypatch):
  """`full` in the smaller mesh takes a third more time than `dots` in the larger one."""
  chips = Chips(monkeypatch, limit=440, sent=5e6)
  found = search(chips, config_of(9))
  assert found_settings(found) == [(1, 'full'), (2, 'dots'), (4, 'none')]
  floors = [row['floor'] for row in found['settings']]
  assert floors[0] == pytest.approx(4 / 3 * 9 * 10**9 / 197e12) and floors[1] < floors[0]
  assert (found['fsdp'], found['remat']) == (2, 'dots')


@pytest.mark.parametrize('slices, largest', [(1, 8), (2, 4)])
def test_parameters_are_split_within_a_slice(monkeypatch, slices, largest):
  chips = Chips(monkeypatch, slices=slices, limit=90)
  found = search(chips, config_of(16))
  assert max(parts for parts, *_ in chips.asked) == found['fsdp'] == largest
  assert not found['settings'] and found['remat'] is None
  if slices == 1:
    assert '16 clips a chip do not fit: with --config.mesh.fsdp=8' in search_lib.table(found)
    assert 'remat=full 8 do; raise optimizer.accumulate' in search_lib.table(found)
  else:
    assert search_lib.table(found).endswith('nothing fits: take larger chips, or raise mesh.tensor')


def test_clips_of_a_step_are_parts_of_the_batch(monkeypatch):
  chips = Chips(monkeypatch, limit=700)
  config = config_of(16)
  config.optimizer.accumulate = 2
  assert search(chips, config)['wanted'] == 8 == chips.asked[0][2]
  assert config.batch_size == 16 * 8


def compiler(shares, *, held=100, limit=1000):
  """A step with memory `held` and a share for each clip; it records what is compiled."""
  asked = []

  def compile_at(clips, remat):
    asked.append((clips, remat))
    size = held + shares[remat] * clips
    memory = {'parameters': held // 2, 'optimizer': held - held // 2, 'all': size, 'limit': limit}
    return CompiledStep(size <= limit, memory, None, [], {}, {}, 0, 0.0, '')

  return compile_at, asked


@pytest.mark.parametrize('start', [1, 3, 8, 64, 1024])
def test_search_finds_the_largest(start):
  compile_at, asked = compiler({'none': 100, 'dots': 30, 'full': 14})
  rows = list(search_lib.largest_batches(compile_at, start=start, known={}))
  assert [(remat, clips) for remat, clips, _ in rows] == [('none', 8), ('dots', 16), ('full', 64)]
  for remat, clips, tried in rows:  # Both sides are compiled, not guessed.
    assert tried[clips].fits and not tried[2 * clips].fits
    assert set(tried) == {n for n, r in asked if r == remat}
  assert len(asked) == len(set(asked)) <= 8
  # What fits with less remat is not compiled to learn that it fits with more.
  assert asked[-3:] == [(32, 'full'), (64, 'full'), (128, 'full')]


@pytest.mark.parametrize('start', [1, 12, 1024])
def test_search_begins_with_known_steps(start):
  compile_at, asked = compiler({'none': 100, 'dots': 30, 'full': 14})
  known = {remat: compile_at(start, remat) for remat in ('none', 'dots')}
  asked.clear()
  rows = list(search_lib.largest_batches(compile_at, start=start, known=known))
  assert [(remat, clips) for remat, clips, _ in rows] == [('none', 8), ('dots', 16), ('full', 64)]
  assert not {(start, remat) for remat in known} & set(asked)
  assert all(rows[i][2][start] is step for i, step in enumerate(known.values()))
  # The memory that is known leads to the answer at once: it is compiled, and twice of it.
  assert asked[:4] == [(8, 'none'), (16, 'none'), (16, 'dots'), (32, 'dots')]


def test_search_does_not_trust_its_guess():
  def compile_at(clips, remat):  # Grows faster than the clips.
    memory = {'parameters': 0, 'optimizer': 0, 'all': clips**2, 'limit': 5000}
    return CompiledStep(clips**2 <= 5000, memory, None, [], {}, {}, 0, 0.0, '')

  rows = search_lib.largest_batches(compile_at, start=4, known={})
  assert [clips for _, clips, _ in rows] == [64, 64, 64]


def test_search_where_nothing_fits():
  compile_at, _ = compiler({'none': 1000, 'dots': 950, 'full': 900})
  rows = search_lib.largest_batches(compile_at, start=16, known={})
  assert {remat: clips for remat, clips, _ in rows} == {'none': 0, 'dots': 0, 'full': 1}
