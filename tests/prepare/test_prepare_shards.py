"""Writing shards: killed anywhere, started again, outages and full disks."""

import os
import shutil
from collections import namedtuple

import av
import pytest

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import contents
from vmae_jax import lock, storage
from vmae_jax.data.shards import ShardSource
from vmae_jax.errors import Unavailable, UserError, VideoError
from vmae_jax.prepare import prepare_shards, staging
from vmae_jax.prepare.encoding import Encoding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.prepare_shards import shard_names, write_shards


class Killed(BaseException):
  """Stands in for a kill."""


@pytest.fixture
def videos(tmp_path):
  """Ten, of which one is broken and one disappears."""
  listed = []
  for i in range(10):
    path = write_video(tmp_path / f'{i}.mp4', frames=3 + i, height=32, width=32)
    listed.append(Listed(f'v{i}', path, i % 3))
  (tmp_path / '4.mp4').write_bytes(b'x')
  (tmp_path / '9.mp4').unlink()
  return listed


def write(videos, out, **options):
  options = {'encoding': Encoding(), 'shard_videos': 3, 'workers': 1, 'seconds': 60.0} | options
  return write_shards(videos, out, about={'split': 'train'}, classes=['a', 'b', 'c'], **options)


@pytest.fixture
def encoded(monkeypatch):
  """Encodes in this process, latest first in pairs; collects what was encoded."""
  names = []

  def run_all(function, tasks, **_):
    tasks = list(tasks)
    for i in range(0, len(tasks), 2):
      for task in reversed(tasks[i : i + 2]):
        names.append(task.video.id)
        yield task, function(task)

  monkeypatch.setattr(prepare_shards, 'run_all', run_all)
  monkeypatch.setattr(prepare_shards, 'PILOT', 1)
  return names


def test_interrupted_anywhere(videos, tmp_path, encoded, monkeypatch):
  """Stops before and after every file that gets its name, and before every video."""
  videos = [*videos[3:6], videos[9]]
  manifest = write(videos, tmp_path / 'whole', shard_videos=3)
  assert manifest['records'] == 2 and len(manifest['failures']) == 2
  assert manifest['failures'][1] == {'id': 'v9', 'reason': 'file is missing'}
  want = contents(tmp_path / 'whole')
  assert sorted(want) == [manifest['index']['name'], 'manifest.json', shard_names(4, 3)[0]]
  replace, stage = os.replace, prepare_shards.stage
  count = stop = 0

  def step():
    nonlocal count
    count += 1
    if count == stop:
      raise Killed

  def slow_replace(source, target):
    step()
    replace(source, target)
    step()

  monkeypatch.setattr(os, 'replace', slow_replace)
  monkeypatch.setattr(prepare_shards, 'stage', lambda task: (step(), stage(task))[1])
  for stop in range(1, 100):
    count = 0
    out, before = tmp_path / f'out{stop}', len(encoded)
    try:
      write(videos, out)
      break
    except Killed:
      stop_at, stop = stop, 0
      write(videos, out)
      stop = stop_at
      assert contents(out) == want, stop
      assert len(encoded) - before <= 4 + 1, stop  # The videos in work.
  assert stop > 30  # It was killed at every moment.


def test_complete_shards_are_kept(videos, tmp_path, encoded):
  first = write(videos, tmp_path / 'out')
  before = len(encoded)
  assert write(videos, tmp_path / 'out') == first and len(encoded) == before


def test_failed_videos_are_tried_again(videos, tmp_path, encoded, monkeypatch):
  """Interrupted anywhere, too: what was good is taken out of the shards that are there."""
  first = write(videos, tmp_path / 'out')
  old = contents(tmp_path / 'out')
  write_video(tmp_path / '4.mp4', frames=7, height=32, width=32)
  want = write(videos[:9], tmp_path / 'whole', shard_videos=9)['hash']
  assert write(videos, tmp_path / 'out') == first and contents(tmp_path / 'out') == old
  stop = count = 0

  def slowly(function):
    def call(*arguments):
      nonlocal count
      if not arguments[0].endswith('.lock'):  # The lock is released at the end.
        count += 1
        if count == stop:
          raise Killed
      function(*arguments)

    return call

  for name in ('replace', 'remove'):
    monkeypatch.setattr(os, name, slowly(getattr(os, name)))
  for stop in range(1, 100):
    out = tmp_path / f'out{stop}'
    shutil.copytree(tmp_path / 'out', out)
    count, before = 0, len(encoded)
    try:
      write(videos, out, retry=True)
      break
    except Killed:
      if (out / 'manifest.json').exists():
        # As before, or complete except for leftovers.
        assert len(ShardSource(str(out))) in (8, 9)
      stop_at, stop = stop, 0
      if stop_at % 2 and not (out / 'manifest.json').exists():
        manifest = write(videos, out)  # Only the shards that were begun.
      manifest = write(videos, out, retry=True)
      stop = stop_at
      assert set(encoded[before:]) <= {'v4', 'v9'} and manifest['hash'] == want
      assert manifest['failures'] == [{'id': 'v9', 'reason': 'file is missing'}]
      source = ShardSource(str(out))
      assert [source.read(i)[0].id for i in range(9)] == [f'v{i}' for i in range(9)]
      assert not (out / '.parts').exists()
  assert stop > 15 and set(encoded[before:]) == {'v4', 'v9'}


def away(monkeypatch, ids):
  """A store that does not give these videos."""
  encode = staging.encode_video

  def encode_some(path, encoding):
    if any(path.endswith(f'/{id}.mp4') for id in ids):
      raise OSError(None, '503', path)
    return encode(path, encoding)

  monkeypatch.setattr(staging, 'encode_video', encode_some)


@pytest.mark.parametrize('shard_videos', [3, 20])
def test_an_outage_is_no_damage(videos, tmp_path, encoded, monkeypatch, shard_videos):
  """What was begun in it is done again by itself, in shards that were packed as well."""
  options = {'shard_videos': shard_videos}
  write(videos, tmp_path / 'whole', **options)
  with monkeypatch.context() as patch:
    away(patch, '01235678')
    with pytest.raises(Unavailable, match=r'4 of 10 .* such as v\d \(503\)') as e:
      write(videos, tmp_path / 'out', **options)
    assert '\n' not in str(e.value) and not (tmp_path / 'out/manifest.json').exists()
  for part in (tmp_path / 'out/.parts').glob('shard-*.json'):
    assert not part.with_suffix('').exists()  # Files of a packed shard would need room twice.
  write(videos, tmp_path / 'out', **options)
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_a_few_that_may_pass(videos, tmp_path, encoded, monkeypatch):
  write(videos, tmp_path / 'whole')
  with monkeypatch.context() as patch:
    away(patch, '06')
    first = write(videos, tmp_path / 'out')
  assert [f['id'] for f in first['failures'] if f.get('may_pass')] == ['v0', 'v6']
  assert first['records'] == 6 and write(videos, tmp_path / 'out') == first
  write(videos, tmp_path / 'out', retry=True)
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_encoded_videos_do_not_pass_through_the_main_process(videos, tmp_path):
  """So those that wait for a slow one need no memory."""
  task = staging.Task(folder=str(tmp_path), place=3, video=videos[0], encoding=None, cut=0.0)
  assert staging.stage(task) == os.path.getsize(videos[0].path)


@pytest.mark.parametrize(
  'cause, may_pass',
  [
    (OSError(5, 'Input/output error'), True),
    (OSError(None, '503, asked 4 times', 'gs://b/v.mp4'), True),
    (TimeoutError(110, 'Connection timed out'), True),
    (FileNotFoundError(2, 'No such file'), False),
    (PermissionError(13, 'Permission denied'), False),
    (OSError('image file is truncated'), False),  # Pillow, of a damaged picture.
    (av.error.InvalidDataError(1094995529, 'Invalid data'), False),
    (av.error.OSError(5, 'Input/output error'), False),  # Of a file that can be read.
    (None, False),
  ],
)
def test_failures_that_may_pass(videos, cause, may_pass, monkeypatch):
  def fails(*_):
    raise OSError(5, 'Input/output error')

  error = VideoError('of some kind')
  error.__cause__ = cause
  assert staging._may_pass(error, videos[0].path) == may_pass
  if isinstance(cause, OSError):
    assert staging._may_pass(cause, videos[0].path) == may_pass
  if isinstance(cause, av.FFmpegError):  # Of a file that cannot be read.
    monkeypatch.setattr(storage, 'open', fails, raising=False)
    assert staging._may_pass(cause, videos[0].path)


def test_other_shards_are_not_overwritten(videos, tmp_path, encoded):
  write(videos, tmp_path / 'out')
  for options in ({'encoding': Encoding(gop=30)}, {'encoding': None}, {'shard_videos': 4}):
    with pytest.raises(UserError, match='holds other shards'):
      write(videos, tmp_path / 'out', **options)
  with pytest.raises(UserError, match='holds other shards'):
    write(videos[1:], tmp_path / 'out')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/notes').touch()
  with pytest.raises(UserError, match='not empty, it has notes'):
    write(videos, tmp_path / 'full')


def test_room_is_checked_first(videos, tmp_path, encoded, monkeypatch):
  usage = namedtuple('usage', 'free')
  size = sum(os.path.getsize(video.path) for video in videos[:9])
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(size))
  with pytest.raises(UserError, match='needs about .* GB more and its disk has'):
    write(videos, tmp_path / 'copies', encoding=None)
  assert not list((tmp_path / 'copies').glob('shard-*'))
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(2 * size))
  write(videos, tmp_path / 'copies', encoding=None)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(100))
  with pytest.raises(UserError, match='needs about'):
    write(videos, tmp_path / 'encoded')


def test_a_full_disk_is_reported_and_the_run_continues_later(
  videos, tmp_path, encoded, monkeypatch
):
  write(videos, tmp_path / 'whole')

  def full(*_):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(staging, 'write_shard', full)
    with pytest.raises(Unavailable, match='No space left on device.*continues from here'):
      write(videos, tmp_path / 'out')
  write(videos, tmp_path / 'out')
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_one_writer_a_folder(videos, tmp_path, encoded):
  (tmp_path / 'out').mkdir()
  with lock.held(tmp_path / 'out'):
    with pytest.raises(UserError, match='in use by process'):
      write(videos, tmp_path / 'out')


def test_shard_sizes(videos, tmp_path, encoded, monkeypatch):
  """As many videos as have SHARD_BYTES, whatever the size of the set."""
  assert shard_names(7, 3, 2) == [f'shard-0000{i}.tar' for i in (2, 3, 4)]
  few = write(videos, tmp_path / 'few', shard_videos=0)
  assert few['shard_videos'] == 64 and len(few['shards']) == 1
  sizes = [os.path.getsize(video.path) for video in videos[:9]]
  monkeypatch.setattr(prepare_shards, 'SHARD_BYTES', 2.2 * sum(sizes) / len(sizes))
  copied = write(videos, tmp_path / 'copied', shard_videos=0, encoding=None)
  assert copied['shard_videos'] == 2 and len(copied['shards']) == 5
  monkeypatch.setattr(prepare_shards, 'FEW_VIDEOS', 3)
  monkeypatch.setattr(prepare_shards, 'PILOT', 10)
  monkeypatch.setattr(prepare_shards, 'SHARD_BYTES', 3.1 * few['bytes'] / few['records'])
  before = len(encoded)
  whole = write(videos, tmp_path / 'whole', shard_videos=0)
  assert whole['shard_videos'] == 3 and len(encoded) == before + 20
  assert whole == write(videos, tmp_path / 'whole', shard_videos=0)  # Sizes are not measured again.
  assert whole['hash'] == few['hash'] and len(encoded) == before + 20
