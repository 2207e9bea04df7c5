"""The stream of batches is a function of the step alone."""

import dataclasses
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import started
from tests.data.clips_on_disk import write_video
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.frames import ArrayVideo
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import Entry, FileSource
from vmae_jax.data.synthetic import SyntheticSource
from vmae_jax.errors import UserError
from vmae_jax.sharding import batch_sharding, make_mesh

SAMPLER = ClipSampler(frames=3, size=8, stride=2, flip=True, repeats=2, seed=5)
SHAPES = {
  'video': ((4, 3, 8, 8, 3), np.uint8),
  **{name: ((4,), np.int32) for name in ('label', 'epoch', 'sample', 'repeat')},
  **{name: ((4,), bool) for name in ('replaced', 'valid')},
}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Seven videos, of which 2 and 5 cannot be read."""
  folder = tmp_path_factory.mktemp('videos')
  paths = [write_video(folder / f'{i}.mp4', frames=12 + i, height=16, width=32) for i in range(7)]
  (folder / '2.mp4').write_bytes(b'no video')
  paths[5] = str(folder / 'missing.mp4')
  return FileSource(tuple(Entry(path, label=i) for i, path in enumerate(paths)))


def _read(source, sampler=SAMPLER, **options):
  options = dict(batch_size=4, seed=1, shuffle=True, num_steps=9, threads=2) | options
  loader = Loader(source, sampler, **options)
  batches = [{name: np.asarray(x) for name, x in batch.items()} for batch in loader]
  loader.close()
  return batches, loader


def _check_equal(some, others):
  assert len(some) == len(others)
  for a, b in zip(some, others, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batches(source):
  batches, loader = _read(source)
  assert len(batches) == 9
  for batch in batches:
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == SHAPES
    assert batch['repeat'].tolist() == [0, 1, 0, 1] and batch['valid'].all()
    good = ~batch['replaced']
    np.testing.assert_array_equal(batch['label'][good], batch['sample'][good])
    assert np.isin(batch['sample'][batch['replaced']], [2, 5]).all()
    assert not np.isin(batch['label'], [2, 5]).any()
  with pytest.raises(StopIteration):
    next(loader)
  assert loader.wait_seconds > 0


def test_clips_are_those_of_the_sampler(source):
  batch = _read(source, num_steps=1)[0][0]
  for row in (0, 2):
    clips = SAMPLER(source, int(batch['epoch'][row]), int(batch['sample'][row]))
    np.testing.assert_array_equal(batch['video'][row : row + 2], clips['video'])


@pytest.mark.parametrize('window, workers', [(0, 1), (3, 0)])
def test_the_codecs_motion_comes_with_its_clips(source, window, workers):
  sampler = dataclasses.replace(SAMPLER, vectors=4, window=window)
  options = dict(num_steps=1, workers=workers)
  batch, plain = (_read(source, one, **options)[0][0] for one in (sampler, SAMPLER))
  np.testing.assert_array_equal(batch['video'], plain['video'])
  assert batch['vectors'].dtype == np.float16 and np.isfinite(batch['vectors']).any()
  for row in (0, 2):
    drawn = sampler(source, int(batch['epoch'][row]), int(batch['sample'][row]))
    for name in ('vectors', 'times'):
      np.testing.assert_array_equal(batch[name][row : row + 2], drawn[name])
  assert batch['vectors'].shape == (4, 3 + 2 * window, 4, 4, 2)


def test_each_sample_once_an_epoch_over_batch_boundaries(source):
  batches, _ = _read(source, num_steps=14)  # 28 visits, four epochs of 7.
  samples = np.concatenate([batch['sample'][::2] for batch in batches]).reshape(4, 7)
  epochs = np.concatenate([batch['epoch'][::2] for batch in batches]).reshape(4, 7)
  np.testing.assert_array_equal(np.sort(samples), np.tile(np.arange(7), (4, 1)))
  np.testing.assert_array_equal(epochs, np.arange(4)[:, None] + np.zeros(7, int))
  assert len({tuple(order) for order in samples.tolist()}) == 4
  in_order, _ = _read(source, num_steps=7, shuffle=False)
  assert [int(s) for b in in_order for s in b['sample'][::2]] == [*range(7), *range(7)]


def test_seed(source):
  one, other = (_read(source, seed=seed)[0] for seed in (1, 2))
  assert any((a['sample'] != b['sample']).any() for a, b in zip(one, other, strict=True))


def _orders(seed, **options):
  """Samples of ten epochs, an epoch a row."""
  source = SyntheticSource('train', clips=50)
  loader = Loader(source, SAMPLER, batch_size=2, seed=seed, shuffle=True, num_steps=0, **options)
  loader.close()
  visits = [loader._visit(i) for i in range(500)]
  assert [epoch for epoch, _ in visits] == [i // 50 for i in range(500)]
  return [tuple(sample for _, sample in visits[50 * e : 50 * e + 50]) for e in range(10)]


def test_no_seeds_share_an_epochs_order():
  seeds = [_orders(seed) for seed in range(10)]
  assert all(sorted(order) == list(range(50)) for orders in seeds for order in orders)
  assert len({order for orders in seeds for order in orders}) == 100
  assert seeds[0][0][:8] == (32, 30, 10, 0, 1, 29, 38, 17)  # Runs go on with it.


def test_the_order_of_older_runs():
  first, second = (_orders(seed, order='added') for seed in (0, 1))
  assert first[1:] == second[:-1]
  # An old run goes on with what grain 0.2.18 says.
  assert first[0][:8] == (49, 4, 10, 45, 39, 22, 27, 9)


def test_threads_and_resumption_change_nothing(source):
  batches, _ = _read(source)
  _check_equal(batches, _read(source, threads=1)[0])
  _check_equal(batches, _read(source, threads=4, prefetch=1)[0])
  _check_equal(batches[5:], _read(source, start_step=5)[0])


def test_workers_change_nothing(source):
  batches, loader = _read(source)
  others, other_loader = _read(source, workers=2)
  _check_equal(batches, others)
  assert loader.failures == other_loader.failures


def test_batch_size_changes_batches_only(source):
  some, _ = _read(source, num_steps=6)
  others, _ = _read(source, batch_size=12, num_steps=2)
  for name in some[0]:
    together = [np.concatenate([b[name] for b in batches]) for batches in (some, others)]
    np.testing.assert_array_equal(*together)


def test_failures(source):
  _, loader = _read(source)
  assert list(loader.failures.values()).count('file is missing') == 1
  assert set(loader.failures) == {source.name(2), source.name(5)}


@pytest.mark.parametrize('batch_size', [2, 4, 20])
def test_one_pass_for_evaluation(source, batch_size):
  sampler = ClipSampler(frames=3, size=8, stride=2, repeats=1, train=False)
  batches, _ = _read(source, sampler, batch_size=batch_size, shuffle=False, num_steps=None)
  assert all(len(batch['video']) == batch_size for batch in batches)
  valid = np.concatenate([batch['valid'] for batch in batches])
  samples = np.concatenate([batch['sample'] for batch in batches])[valid]
  videos = np.concatenate([batch['video'] for batch in batches])[valid]
  assert samples.tolist() == [0, 1, 3, 4, 6]
  for sample, video in zip(samples, videos, strict=True):
    np.testing.assert_array_equal(video, sampler(source, 0, int(sample))['video'][0])


def test_mesh(source):
  mesh = make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  loader = Loader(
    source, SAMPLER, batch_size=4, seed=1, shuffle=True, mesh=mesh, num_steps=2, threads=1
  )
  batch = next(loader)
  loader.close()
  assert all(x.sharding == batch_sharding(mesh) for x in batch.values())
  np.testing.assert_array_equal(batch['video'], _read(source, num_steps=1)[0][0]['video'])


# Two processes of two devices each, which take turns in the mesh, as hosts do on a TPU slice.
TAKING_TURNS = """
import sys, jax, numpy as np
jax.distributed.initialize(f'127.0.0.1:{sys.argv[1]}', 2, int(sys.argv[2]))
from jax.sharding import AxisType
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import open_source
from vmae_jax.sharding import AXES
a, b, c, d = jax.devices()
assert [x.process_index for x in (a, b, c, d)] == [0, 0, 1, 1]
mesh = jax.sharding.Mesh(
  np.array([a, c, b, d]).reshape(2, 2, 1), AXES, axis_types=(AxisType.Auto,) * 3
)
def read(mesh):
  sampler = ClipSampler(frames=2, size=8, stride=1, repeats=2)
  loader = Loader(
    SOURCE, sampler, batch_size=8, seed=3, shuffle=True, mesh=mesh, start_step=1, num_steps=3
  )
  batches = list(loader)
  loader.close()
  return batches
SOURCE = open_source('synthetic:train')
whole = read(None)
parts = read(mesh)
assert len(whole) == len(parts) == 2
for all_rows, batch in zip(whole, parts):
  for name, x in batch.items():
    assert x.shape == all_rows[name].shape and len(x.addressable_shards) == 2
    for shard in x.addressable_shards:
      np.testing.assert_array_equal(shard.data, np.asarray(all_rows[name])[shard.index], name)
print('rows', [s.index[0].start or 0 for s in batch['label'].addressable_shards])
"""


def test_processes_that_take_turns_in_the_mesh():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = str(s.getsockname()[1])
  children = [
    subprocess.Popen(
      [sys.executable, '-c', TAKING_TURNS, port, str(i)],
      env=started.environment(2),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [child.communicate(timeout=300)[0] for child in children]
  assert [child.returncode for child in children] == [0, 0], '\n'.join(outputs)
  assert 'rows [0, 4]' in outputs[0] and 'rows [2, 6]' in outputs[1]


class _Odd(Exception):
  """Pickle writes it and cannot read it, as errors of some libraries."""

  def __init__(self, i, what):
    super().__init__(f'{i} {what}')


class _FailingSource(FileSource):
  def open(self, i, **_):
    raise _Odd(i, 'is odd')


def test_errors_reach_the_caller(source):
  videos = (source.entries[5],)
  for workers, broken, kind, text in (
    (0, FileSource(videos), UserError, '16 videos in a row'),
    (1, _FailingSource(videos), RuntimeError, '0 is odd'),
  ):
    loader = Loader(
      broken, SAMPLER, batch_size=2, seed=1, shuffle=True, num_steps=2, workers=workers
    )
    loader._queue.put(loader._queue.get(timeout=60))  # It must not wait for ever.
    for _ in range(2):
      with pytest.raises(kind, match=text):
        next(loader)
    loader.close()


@pytest.mark.parametrize('batch_size', [0, 3])
def test_batch_size_must_fit(source, batch_size):
  with pytest.raises(UserError, match='batch_size is'):
    Loader(source, SAMPLER, batch_size=batch_size, seed=1, shuffle=True, num_steps=1)


class _CountingSource:
  class_names = ()

  def __init__(self):
    self.opened = 0

  def __len__(self):
    return 8

  def name(self, i):
    return str(i)

  def label(self, i):
    return i

  def open(self, i):
    self.opened += 1
    return ArrayVideo(np.zeros((8, 8, 8, 3), np.uint8))


def test_reads_ahead_and_stops():
  source = _CountingSource()
  loader = Loader(source, SAMPLER, batch_size=8, seed=1, shuffle=True, num_steps=10**6, threads=1)
  next(loader)
  deadline = time.monotonic() + 60
  while source.opened < 3 * 4:  # Two batches of four videos, which nobody has asked for.
    assert time.monotonic() < deadline
    time.sleep(0.01)
  time.sleep(0.5)
  assert source.opened <= 6 * 4
  loader.close()
  assert not loader._thread.is_alive()


@pytest.mark.parametrize('cores, threads', [(12, None), (30, 15)])
def test_processes_decode_where_there_are_many_cores(monkeypatch, cores, threads):
  class Stop(Exception):
    pass

  def started(source, draw, *, count, threads, row):
    raise Stop(count, threads)

  monkeypatch.setattr('vmae_jax.data.loader.usable_cores', lambda: cores)
  monkeypatch.setattr('vmae_jax.data.loader.Processes', started)
  options = dict(batch_size=4, seed=1, shuffle=True, num_steps=0, workers=-1)
  source = SyntheticSource('train', clips=50)
  if threads is None:
    Loader(source, SAMPLER, **options).close()
  else:
    with pytest.raises(Stop) as e:
      Loader(source, SAMPLER, **options)
    assert e.value.args == (2, threads)
