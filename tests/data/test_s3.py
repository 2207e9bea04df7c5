"""Shards in a bucket of a real S3 server, on this machine."""

import os
import urllib.request

import pytest

from tests.data.clips_on_disk import write_video
from tests.data.test_prepare import contents, main
from tests.data.test_remote import assert_same, batches
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError


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
