"""In tests, shapes in types are checked at run time, and XLA compiles with few optimizations.

Tests spend most of their time compiling, and XLA half of that on optimizing programs that then run
for milliseconds. Modules marked `optimised`, which compare numbers with other implementations, are
compiled with all optimizations, but by older code generators (`tests/hurry.py`).
`tests/run.sh --slow` and `--avx2` compile everything as for training.

Programs that one test has compiled are kept for all others, also in other processes, and for the
next call of pytest if JAX_COMPILATION_CACHE_DIR names a folder: it then takes a third of the time.
"""

import atexit
import gc
import os
import shutil
import tempfile

import jaxtyping
import pytest

from tests.hurry import HURRIED, XLA_FLAGS

# Set before JAX is imported.
if XLA_FLAGS not in os.environ.get('XLA_FLAGS', ''):  # A worker inherits it.
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {XLA_FLAGS}'
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # A worker inherits it.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='vmae_jax_compiled_')
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
jaxtyping.install_import_hook('vmae_jax', 'beartype.beartype')
# Tracing makes many objects that stay: looking for garbage less often takes a tenth off the tests.
gc.set_threshold(200_000, 100, 100)


# Long modules start first, so that at the end no process waits for one of them.
LONG = 'test_runs', 'test_card', 'test_colabs', 'test_public_weights', 'test_stalled'


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: (*LONG, item.path.stem).index(item.path.stem))


@pytest.fixture(autouse=True)
def usual_priority():
  """Undoes the real-time priority that SVT-AV1, which encodes videos for tests, gives a thread.

  It can do so if the tests run as root. Processes that later tests start would inherit it: two of
  them, waiting for each other on two cores, would let nothing else run.
  """
  yield
  if hasattr(os, 'sched_getscheduler') and os.sched_getscheduler(0) != os.SCHED_OTHER:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(autouse=True, scope='module')
def optimisation(request):
  if request.node.get_closest_marker('optimised') is None:
    yield
    return
  import jax

  jax.clear_caches()  # Otherwise programs compiled by other modules would be used.
  jax.config.update('jax_disable_most_optimizations', False)
  with pytest.MonkeyPatch.context() as patch:  # For the processes that its tests start.
    patch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '0')
    yield
  jax.config.update('jax_disable_most_optimizations', HURRIED)


@pytest.fixture
def memory():
  """fsspec's file system in memory, emptied at the end."""
  from fsspec import filesystem

  fs = filesystem('memory')
  yield fs
  fs.rm('/', recursive=True)


@pytest.fixture(scope='session')
def store():
  """A server of Google's protocol for buckets."""
  from tests.stand_in import Store

  with Store() as store:
    yield store


@pytest.fixture
def gs(store, monkeypatch):
  """fsspec's file system of that server, with an empty bucket, also for Orbax and children."""
  import fsspec

  for name, value in store.environment().items():
    monkeypatch.setenv(name, value)
  monkeypatch.setitem(fsspec.config.conf, 'gs', {'token': 'anon', 'use_listings_cache': False})
  fsspec.get_filesystem_class('gs').clear_instance_cache()
  yield fsspec.filesystem('gs')
  store.storage.wipe(keep_buckets=True)


@pytest.fixture
def shards(tmp_path, memory, monkeypatch):
  """The same five videos in a folder of shards here and at memory://bucket/shards."""
  from tests.data.clips_on_disk import write_video
  from tests.data.shards_on_disk import at_once, make
  from vmae_jax.prepare import prepare_shards
  from vmae_jax.prepare.layouts import Listed

  monkeypatch.setattr(prepare_shards, 'run_all', at_once)
  videos = []
  for i in range(5):
    path = write_video(tmp_path / f'{i}.mp4', frames=20 + i, height=48, width=56)
    videos.append(Listed(f'v{i}', path, label=i % 2))
  make(tmp_path / 'shards', videos, shard_videos=2)
  memory.put(str(tmp_path / 'shards'), '/bucket/shards', recursive=True)
  return str(tmp_path / 'shards'), 'memory://bucket/shards'


@pytest.fixture
def no_pause(monkeypatch):
  """Second attempts at remote files come at once."""
  from vmae_jax import storage

  monkeypatch.setattr(storage, 'PAUSE', 0.0)
