"""Remote data, in fsspec's `memory://` (servers of buckets: test_buckets)."""

import dataclasses
import errno
import os
import sys

import numpy as np
import pytest
from fsspec.registry import _registry

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import main
from vmae_jax import storage
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.errors import Unavailable, UserError, VideoError, may_pass
from vmae_jax.prepare.examine import examine
from vmae_jax.prepare.layouts import Tree, folder


def batches(source, **options):
  loader = Loader(
    source,
    ClipSampler(frames=4, size=32, stride=2),
    batch_size=4,
    seed=0,
    shuffle=True,
    num_steps=3,
    threads=4,
    **options,
  )
  found = [{name: np.asarray(x) for name, x in batch.items()} for batch in loader]
  loader.close()
  return found, loader.failures


def assert_same(some, others):
  for a, b in zip(some, others, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


# -- Shards, lists, folders


def test_remote_shards_equal_local_ones(shards):
  here, there = map(open_source, shards)
  assert isinstance(there, ShardSource) and len(there) == 5
  assert list(there.headers) == list(here.headers) and there.class_names == here.class_names
  assert all(there.read(i) == here.read(i) for i in (4, 0, 2, 1, 3))
  check_paths(there, 0.0)
  want, _ = batches(here)
  found, failures = batches(there)
  assert_same(want, found)
  assert not failures


def test_a_flipped_byte_is_found(shards, memory):
  here, there = shards
  source = open_source(there)
  header, data = open_source(here).read(1)
  name = source.manifest['shards'][0]['name']
  shard = bytearray(memory.cat(f'/bucket/shards/{name}'))
  shard[bytes(shard).index(data[:200]) + 100] ^= 1
  memory.pipe(f'/bucket/shards/{name}', bytes(shard))
  with pytest.raises(VideoError, match='checksum'):
    source.open(1)
  source.open(0).close()


def test_damaged_folders(shards, memory):
  there = shards[1]
  name = open_source(there).manifest['shards'][1]['name']
  memory.pipe(f'/bucket/shards/{name}', b'x')
  with pytest.raises(UserError, match='another size'):
    open_source(there)
  memory.rm(f'/bucket/shards/{name}')
  with pytest.raises(UserError, match='No such file'):
    open_source(there)
  memory.rm('/bucket/shards/manifest.json')
  memory.pipe('/bucket/shards/.parts/plan.json', b'{}')
  with pytest.raises(UserError, match='not complete'):
    open_source(there)
  with pytest.raises(
    UserError, match='has the splits shards: name one, such as memory://bucket/shards'
  ):
    open_source('memory://bucket')


def test_lists_and_folders_of_videos(tmp_path, memory):
  for name in ('a/1.mp4', 'b/2.mp4', 'b/3.mp4'):
    write_video(tmp_path / 'v.mp4', frames=20 + int(name[2]))
    memory.put_file(str(tmp_path / 'v.mp4'), f'/bucket/{name}')
  memory.pipe('/lists/train.txt', b'/bucket/a/1.mp4 0\n')
  memory.pipe('/bucket/list.txt', b'# paths\nb/2.mp4 1\na/1.mp4 0\na/none.mp4 0\n')
  memory.pipe('/bucket/classes.txt', b'left\nright\n')
  videos = open_source('memory://bucket')
  assert [videos.name(i)[9:] for i in range(3)] == ['bucket/a/1.mp4', 'bucket/b/2.mp4'] + [
    'bucket/b/3.mp4'
  ]
  assert [videos.label(i) for i in range(3)] == [0, 1, 1] and videos.class_names == ('a', 'b')
  listed = open_source('memory://bucket/list.txt')
  assert listed.class_names == ('left', 'right') and listed.label(0) == 1
  with listed.open(0) as video:
    assert video.num_frames == 22
  with pytest.raises(VideoError, match='FileNotFound'):
    listed.open(2)
  with pytest.raises(UserError, match='1 of 3 files do not exist.*memory://bucket/a/none.mp4'):
    check_paths(listed, 0.2)
  check_paths(listed, 0.5)
  _, failures = batches(listed)  # Replaced, as it is on a disk.
  assert list(failures) == ['memory://bucket/a/none.mp4']


def test_remote_videos_are_examined(tmp_path, memory):
  here = write_video(tmp_path / 'v.mp4')
  memory.put(here, '/bucket/v.mp4')
  there = 'memory://bucket/v.mp4'
  assert examine(there) == dataclasses.replace(examine(here), path=there)
  assert examine('memory://bucket/none.mp4').reason


def test_a_remote_tree(tmp_path, memory):
  write_video(tmp_path / 'v.mp4')
  for name in ('train/a/1.mp4', 'train/b/1.mp4', 'val/b/.hidden.mp4', 'val/b/2.mp4', 'notes.txt'):
    (tmp_path / 'tree' / name).parent.mkdir(parents=True, exist_ok=True)
    os.link(tmp_path / 'v.mp4', tmp_path / 'tree' / name)
  memory.put(str(tmp_path / 'tree'), '/tree', recursive=True)
  here, there = folder(Tree(tmp_path / 'tree')), folder(Tree('memory://tree'))
  assert here.classes == there.classes
  for name, split in here.splits.items():
    assert [(v.id, v.label) for v in split.videos] == [
      (v.id, v.label) for v in there.splits[name].videos
    ]
  assert there.splits['val'].videos[0].path == 'memory://tree/val/b/2.mp4'
  main('folder', 'memory://tree', '--out=memory://lists')
  assert memory.cat('/lists/val.txt') == b'memory://tree/val/b/2.mp4 1\n'
  for name in ('a/b.mp4', 'b.mp4'):
    memory.pipe(f'/twice/{name}', b'')
  assert Tree('memory://twice').find('b') == 'memory://twice/b.mp4'  # Files before folders.
  with pytest.raises(UserError, match='no folder memory://none'):
    Tree('memory://none')
  with pytest.raises(UserError, match='only --beam writes shards there'):
    main('folder', 'memory://tree', '--out=memory://shards', '--shards')


# -- What goes wrong


def test_transient_errors_are_tried_again_and_not_for_ever(shards, monkeypatch, no_pause):
  source = open_source(shards[1])
  fs, calls = type(storage._filesystem('memory://x')), []
  whole = fs.cat_file

  def failing(times, error):
    def cat_file(self, *args, **kwargs):
      calls.append(args)
      if len(calls) <= times:
        raise error
      return whole(self, *args, **kwargs)

    calls.clear()
    monkeypatch.setattr(fs, 'cat_file', cat_file)

  failing(storage.ATTEMPTS - 1, ConnectionResetError('reset'))
  source.open(0).close()
  failing(10**9, TimeoutError('slow'))
  with pytest.raises(VideoError, match=f'TimeoutError: slow, asked {storage.ATTEMPTS} times') as e:
    source.open(3)
  assert len(calls) == storage.ATTEMPTS and may_pass(e.value)
  for error in (FileNotFoundError(errno.ENOENT, 'gone'), PermissionError(errno.EACCES, 'no')):
    failing(10**9, error)
    with pytest.raises(VideoError):
      source.open(4)
    assert len(calls) == 1  # Asked again, the answer would be the same.


def test_a_short_answer_is_an_error(shards, monkeypatch):
  source = open_source(shards[1])
  fs = type(storage._filesystem('memory://x'))
  whole = fs.cat_file
  monkeypatch.setattr(fs, 'cat_file', lambda *args, **kwargs: whole(*args, **kwargs)[:-1])
  with pytest.raises(VideoError, match='bytes came instead of'):
    source.open(0)


class Answer(Exception):
  """HTTP status as in errors of gcsfs and aiohttp, and of botocore."""

  def __init__(self, code, response=None):
    super().__init__(f'answer {code}')
    self.code, self.response = code, response


@pytest.mark.parametrize(
  ('answer', 'kind'),
  [
    (Answer(503), Unavailable),
    (Answer('429'), Unavailable),
    (Answer(None, {'ResponseMetadata': {'HTTPStatusCode': 500}}), Unavailable),
    (OSError(errno.EBUSY, 'slow down'), Unavailable),
    (ConnectionResetError('reset'), Unavailable),
    (Answer(400), UserError),
    (Answer(None, {'ResponseMetadata': {'HTTPStatusCode': 404}}), UserError),
    (ValueError('no such option'), UserError),
  ],
)
def test_an_outage_is_not_a_mistake_of_the_user(answer, kind, memory, monkeypatch, no_pause):
  def info(self, path, **_):
    raise answer

  monkeypatch.setattr(type(memory), 'info', info)
  with pytest.raises(kind, match='cannot read memory://bucket/x: .*asked 4 times'):
    open_source('memory://bucket/x')


@pytest.mark.parametrize('method', ['cat_file', 'get_file'])
def test_a_store_that_goes_away_as_data_are_opened(method, shards, memory, monkeypatch, no_pause):
  """The manifest or the index of shards, a list, or its classes."""
  memory.pipe({'/b/list.txt': b'a.mp4 0\n', '/b/classes.txt': b'run\n'})
  whole = getattr(memory, method)

  def failing(self, path, *args, **options):
    if path.endswith(ending):
      raise Answer(503)
    return whole(path, *args, **options)

  monkeypatch.setattr(type(memory), method, failing)
  for ending in {'cat_file': ('manifest.json', 'list.txt', 'classes.txt')}.get(method, ('',)):
    with pytest.raises(Unavailable, match=f'cannot read memory://.*{ending}: .*answer 503'):
      open_source('memory://b/list.txt' if 'txt' in ending else shards[1])


def test_a_folder_that_the_console_of_a_bucket_made(memory, monkeypatch):
  """gcsfs and s3fs list its own empty object together with its content."""
  memory.pipe('/b/run/config.json', b'{}')
  ls = memory.ls
  monkeypatch.setattr(memory, 'ls', lambda path, detail: ['/b/run/', *ls(path, detail=detail)])
  assert storage.names('memory://b/run') == ['config.json']


def test_no_credentials(memory, monkeypatch, no_pause):
  class NoCredentialsError(Exception):
    pass

  def info(self, path, **_):
    raise NoCredentialsError('Unable to locate credentials')

  monkeypatch.setattr(type(memory), 'info', info)
  with pytest.raises(UserError, match='cannot read memory://bucket/x: .*credentials; log in') as e:
    open_source('memory://bucket/x')
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'spec, package, message',
  [
    ('gs://bucket/x', 'gcsfs', 'pip install gcsfs'),
    ('s3://bucket/x', 's3fs', 'pip install s3fs'),
    ('s3://bucket/x', 'fsspec', 'pip install s3fs'),
    ('nope://bucket/x', '', 'Protocol not known: nope'),
    ('memory://bucket/x', '', 'there is no list or folder'),
  ],
)
def test_mistakes(monkeypatch, spec, package, message):
  if package:
    for protocol in ('gs', 's3'):  # Whatever other tests have imported.
      monkeypatch.delitem(_registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=message) as e:
    open_source(spec)
  assert '\n' not in str(e.value)
