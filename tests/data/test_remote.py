"""Data that lies elsewhere: fsspec's `memory://` in the short tests, an S3 server in the full."""

import dataclasses
import errno
import os
import random
import sys
import urllib.request

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from fsspec import filesystem
from fsspec.registry import _registry

from tests.data.clips_on_disk import write_video
from tests.data.test_prepare import contents, main
from tests.data.test_shards import at_once, make
from vmae_jax.data import prepare_shards, remote
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.examine import examine
from vmae_jax.data.layouts import Listed, Tree, folder
from vmae_jax.data.loader import Loader
from vmae_jax.data.range_records import BLOCK, RangeRecords
from vmae_jax.data.shards import WRITER_OPTIONS, ShardSource
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.data.video import VideoError
from vmae_jax.errors import UserError


@pytest.fixture
def memory():
  fs = filesystem('memory')
  yield fs
  fs.rm('/', recursive=True)


@pytest.fixture
def shards(tmp_path, memory, monkeypatch):
  """The same five videos in a folder of shards here and at memory://bucket/shards."""
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
  monkeypatch.setattr(remote, 'PAUSE', 0.0)


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


# -- Records as ranges of bytes


def write_records(path, records):
  writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
  for record in records:
    writer.write(record)
  writer.close()


@pytest.mark.parametrize('seed', range(8))
def test_records_of_all_sizes(tmp_path, memory, seed):
  """Chunks that begin, end and lie across the headers of blocks everywhere."""
  rng, files, want = random.Random(seed), [], []
  for number, count in enumerate((1, rng.randrange(2, 12), 300)):
    most = 3 * BLOCK if count < 20 else 1500
    sizes = [rng.choice((0, 1, rng.randrange(most), BLOCK - rng.randrange(150))) for _ in range(6)]
    records = [rng.randbytes(sizes[i % 6]) for i in range(count)]
    write_records(tmp_path / 'file', records)
    data = (tmp_path / 'file').read_bytes()
    memory.pipe(f'/{number}', data)
    files.append((f'memory://{number}', len(data), count))
    want += records
  records = RangeRecords(files)
  order = rng.sample(range(len(want)), len(want))
  assert all(records[i] == want[i] for i in order)


def test_only_the_record_is_read(tmp_path, memory, monkeypatch):
  write_records(tmp_path / 'file', [bytes([i]) * 10_000 for i in range(100)])
  data = (tmp_path / 'file').read_bytes()
  memory.pipe('/file', data)
  asked = []
  read = remote.read
  monkeypatch.setattr(
    remote, 'read', lambda path, *range_: (asked.append(range_), read(path, *range_))[1]
  )
  records = RangeRecords([('memory://file', len(data), 100)])
  assert records[50] == bytes([50]) * 10_000 and len(asked) == 3  # Two to find out where it is.
  assert records[51] == bytes([51]) * 10_000 and len(asked) == 4
  begin, end = asked[-1]
  assert end - begin < 10_200


def test_what_is_no_such_file(tmp_path, memory):
  memory.pipe('/zeros', bytes(2 * BLOCK))
  with pytest.raises(ValueError, match='no chunk'):
    RangeRecords([('memory://zeros', 2 * BLOCK, 1)])[0]
  writer = ArrayRecordWriter(str(tmp_path / 'file'), 'group_size:1')  # Compressed.
  writer.write(b'x' * 1000)
  writer.close()
  data = (tmp_path / 'file').read_bytes()
  memory.pipe('/compressed', data)
  with pytest.raises(ValueError, match='no chunk of uncompressed'):
    RangeRecords([('memory://compressed', len(data), 1)])[0]


# -- Shards, lists, folders


def test_shards_are_the_same_elsewhere(shards):
  here, there = map(open_source, shards)
  assert isinstance(there, ShardSource) and len(there) == 5
  assert there.headers == here.headers and there.class_names == here.class_names
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
  with pytest.raises(UserError, match='has the splits shards: name one, memory://bucket/shards'):
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


def test_examined_elsewhere(tmp_path, memory):
  here = write_video(tmp_path / 'v.mp4')
  memory.put(here, '/bucket/v.mp4')
  there = 'memory://bucket/v.mp4'
  assert examine(there) == dataclasses.replace(examine(here), path=there)
  assert examine('memory://bucket/none.mp4').reason


def test_a_tree_elsewhere(tmp_path, memory):
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
  with pytest.raises(UserError, match='shards go there with --beam'):
    main('folder', 'memory://tree', '--out=memory://shards', '--shards')


# -- What goes wrong


def test_transient_errors_are_tried_again_and_not_for_ever(shards, monkeypatch, no_pause):
  source = open_source(shards[1])
  fs, calls = type(remote._filesystem('memory://x')), []
  whole = fs.cat_file

  def failing(times, error):
    def cat_file(self, *args, **kwargs):
      calls.append(args)
      if len(calls) <= times:
        raise error
      return whole(self, *args, **kwargs)

    calls.clear()
    monkeypatch.setattr(fs, 'cat_file', cat_file)

  failing(remote.ATTEMPTS - 1, ConnectionResetError('reset'))
  source.open(0).close()
  failing(10**9, TimeoutError('slow'))
  with pytest.raises(VideoError, match=f'TimeoutError: slow, asked {remote.ATTEMPTS} times'):
    source.open(3)
  assert len(calls) == remote.ATTEMPTS
  for error in (FileNotFoundError(errno.ENOENT, 'gone'), PermissionError(errno.EACCES, 'no')):
    failing(10**9, error)
    with pytest.raises(VideoError):
      source.open(4)
    assert len(calls) == 1  # Asked again, the answer would be the same.


def test_a_short_answer_is_an_error(shards, monkeypatch):
  source = open_source(shards[1])
  fs = type(remote._filesystem('memory://x'))
  whole = fs.cat_file
  monkeypatch.setattr(fs, 'cat_file', lambda *args, **kwargs: whole(*args, **kwargs)[:-1])
  with pytest.raises(VideoError, match='bytes came instead of'):
    source.open(0)


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
    ('gs://bucket/x', 'gcsfs', r"pip install 'vmae_jax\[gcs\]'"),
    ('s3://bucket/x', 's3fs', r"pip install 'vmae_jax\[s3\]'"),
    ('s3://bucket/x', 'fsspec', r"pip install 'vmae_jax\[s3\]'"),
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


# -- S3


@pytest.fixture
def s3(monkeypatch):
  """An S3 server on this machine with an empty bucket."""
  import s3fs
  from moto.server import ThreadedMotoServer

  server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
  server.start()
  host, port = server.get_host_and_port()
  monkeypatch.setenv('AWS_ENDPOINT_URL', f'http://{host}:{port}')
  monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'key')
  monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'secret')
  monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
  urllib.request.urlopen(f'http://{host}:{port}/moto-api/reset', data=b'').close()
  s3fs.S3FileSystem.clear_instance_cache()
  fs = s3fs.S3FileSystem()
  fs.mkdir('bucket')
  yield fs
  server.stop()
  s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.full
def test_s3(shards, s3, monkeypatch, no_pause):
  s3.put(shards[0], 'bucket/shards', recursive=True)
  s3.put(os.path.dirname(shards[0]) + '/0.mp4', 'bucket/videos/a/0.mp4')
  here, there = open_source(shards[0]), open_source('s3://bucket/shards')
  want, _ = batches(here)
  for workers in (0, 1):
    found, failures = batches(there, workers=workers)
    assert_same(want, found)
    assert not failures
  with open_source('s3://bucket/videos').open(0) as video:
    assert video.num_frames == 20
  for spec in ('s3://none/x', 's3://bucket/none'):
    with pytest.raises(UserError, match='there is no list or folder'):
      open_source(spec)
  monkeypatch.delenv('AWS_ACCESS_KEY_ID')
  monkeypatch.delenv('AWS_SECRET_ACCESS_KEY')
  monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
  type(s3).clear_instance_cache()
  with pytest.raises(UserError, match='[Cc]redentials; log in'):
    open_source('s3://bucket/shards')


@pytest.mark.full
def test_beam_writes_to_s3(tmp_path, s3):
  for i in range(5):
    path = tmp_path / f'source/{"ab"[i % 2]}/{i}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames=4 + i, height=32, width=32)
  s3.put(str(tmp_path / 'source'), 'bucket/source', recursive=True)
  options = ('--shards', '--shard-videos=2')
  main('folder', tmp_path / 'source', f'--out={tmp_path}/here', *options, '--workers=1')
  for _ in range(2):
    main('folder', 's3://bucket/source', '--out=s3://bucket/out', *options, '--beam')
  s3.invalidate_cache()
  s3.get('bucket/out/train', str(tmp_path / 'there'), recursive=True)
  assert contents(tmp_path / 'there') == contents(tmp_path / 'here/train')
  # What is not from here is not overwritten.
  s3.rm(['bucket/out/train/manifest.json'])
  with pytest.raises(UserError, match='is not empty'):
    main('folder', 's3://bucket/source', '--out=s3://bucket/out', *options, '--beam')
