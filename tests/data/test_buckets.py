"""Shards in buckets of servers on this machine that speak S3's and Google's protocols."""

import os
import urllib.request

import pytest

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import contents, main
from tests.test_storage import assert_same, batches
from vmae_jax.check_data import check
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.errors import UserError


@pytest.fixture
def s3(monkeypatch):
  """A server of S3's protocol with an empty bucket."""
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


@pytest.fixture(params=['s3', 'gs'])
def bucket(request):
  """An empty bucket and its URL."""
  return request.getfixturevalue(request.param), f'{request.param}://bucket'


@pytest.mark.full
def test_a_bucket_is_read(shards, bucket, no_pause):
  fs, url = bucket
  fs.put(shards[0], 'bucket/shards', recursive=True)
  fs.put(os.path.dirname(shards[0]) + '/0.mp4', 'bucket/videos/a/0.mp4')
  here, there = open_source(shards[0]), open_source(f'{url}/shards')
  want, _ = batches(here)
  for workers in (0, 1):
    found, failures = batches(there, workers=workers)
    assert_same(want, found)
    assert not failures
  with open_source(f'{url}/videos').open(0) as video:
    assert video.num_frames == 20
  for spec in (f'{url[:2]}://none/x', f'{url}/none'):
    with pytest.raises(UserError, match='there is no list or folder'):
      open_source(spec)


@pytest.mark.full
def test_missing_credentials_are_reported(s3, monkeypatch, no_pause):
  monkeypatch.delenv('AWS_ACCESS_KEY_ID')
  monkeypatch.delenv('AWS_SECRET_ACCESS_KEY')
  monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
  type(s3).clear_instance_cache()
  with pytest.raises(UserError, match='[Cc]redentials; log in'):
    open_source('s3://bucket/shards')


@pytest.mark.full
def test_beam_writes_to_a_bucket(tmp_path, bucket):
  fs, url = bucket
  for i in range(5):
    path = tmp_path / f'source/{"ab"[i % 2]}/{i}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames=4 + i, height=32, width=32)
  fs.put(str(tmp_path / 'source'), 'bucket/source', recursive=True)
  options = ('--shards', '--shard-videos=2')
  main('folder', tmp_path / 'source', f'--out={tmp_path}/here', *options, '--workers=1')
  for _ in range(2):
    main('folder', f'{url}/source', f'--out={url}/out', *options, '--beam')
  fs.invalidate_cache()
  fs.get('bucket/out/train', str(tmp_path / 'there'), recursive=True)
  assert contents(tmp_path / 'there') == contents(tmp_path / 'here/train')
  # What is not from here is not overwritten.
  fs.rm(['bucket/out/train/manifest.json'])
  with pytest.raises(UserError, match='is not empty'):
    main('folder', f'{url}/source', f'--out={url}/out', *options, '--beam')


@pytest.mark.full
def test_lists_of_a_bucket(tmp_path, bucket):
  """What prepare and check_data write for a bucket, into a bucket or here, opens."""
  fs, url = bucket
  for i in range(4):
    path = write_video(tmp_path / f'{i}.mp4', frames=20 + i, height=64)
    fs.put(path, f'bucket/videos/{"ab"[i % 2]}/{i}.mp4')
  fs.pipe('bucket/videos/a/broken.mp4', b'x')
  names = [f'{url}/videos/{name}.mp4' for name in ('a/0', 'a/2', 'a/broken', 'b/1', 'b/3')]
  main('folder', f'{url}/videos', f'--out={url}/lists')
  main('folder', f'{url}/videos', f'--out={tmp_path}/lists')
  for data in (f'{url}/lists/train.txt', f'{tmp_path}/lists/train.txt', f'{url}/videos'):
    source = open_source(data)
    assert [source.name(i) for i in range(5)] == names and source.class_names == ('a', 'b')
    check_paths(source, 0.0)
    with source.open(3) as video:
      assert video.num_frames == 21
  for out in (f'{url}/checked', f'{tmp_path}/checked'):
    check(f'{url}/lists/train.txt', out, span=4)
    fs.invalidate_cache()
    clean = open_source(f'{out}/clean.txt')
    assert [clean.name(i) for i in range(4)] == [name for name in names if 'broken' not in name]
    assert [clean.label(i) for i in range(4)] == [0, 0, 1, 1] and clean.class_names == ('a', 'b')
    with clean.open(2) as video:
      assert video.num_frames == 21
  assert fs.cat('bucket/checked/report.csv') == (tmp_path / 'checked/report.csv').read_bytes()
  assert not [name for name in fs.ls('bucket/checked', detail=False) if 'findings' in name]
  fs.pipe('bucket/lists/more.txt', b'../videos/a/0.mp4 0\nnone.mp4 1\n')
  with pytest.raises(UserError, match=f'1 of 2 files do not exist.*: {url}/lists/none.mp4'):
    check_paths(open_source(f'{url}/lists/more.txt'), 0.1)
