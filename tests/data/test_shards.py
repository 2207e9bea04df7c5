"""What lies in shards, and what comes back out of them."""

import hashlib
import json
import os
import pickle
import tarfile

import numpy as np
import pytest

from tests.data.clips_on_disk import decode_all, write_video
from tests.data.shards_on_disk import at_once, make
from vmae_jax import storage
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.shards import (
  Header,
  Index,
  ShardSource,
  check,
  pack,
  unpack,
)
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError, VideoError
from vmae_jax.prepare import prepare_shards
from vmae_jax.prepare.examine import examine_record
from vmae_jax.prepare.layouts import Listed


@pytest.fixture
def no_processes(monkeypatch):
  monkeypatch.setattr(prepare_shards, 'run_all', at_once)


@pytest.fixture
def shards(tmp_path, no_processes):
  """Five records in three shards; number 2 of six videos is broken."""
  videos = []
  for i in range(6):
    path = write_video(tmp_path / f'{i}.mp4', frames=20 + i, height=40, width=56 + 2 * i)
    videos.append(Listed(f'v {i}, "é"', path, label=i % 2))
  (tmp_path / '2.mp4').write_bytes(b'x')
  manifest = make(tmp_path / 'shards', videos, shard_videos=2)
  return str(tmp_path / 'shards'), manifest


# -- The format


def test_record():
  header = Header(
    id='é "a", b\n', label=-1, rate=29.97, frames=3, width=4, height=5, size=3,
    sha256=hashlib.sha256(b'xyz').hexdigest(),
  )  # fmt: skip
  assert unpack(pack(header, b'xyz')) == (header, b'xyz')
  check(header, b'xyz')
  for data in (b'xyZ', b'xyzz', b''):
    with pytest.raises(VideoError, match='checksum'):
      check(header, data)
  for record in (b'', b'abc', pack(header, b'')[:700], b'\xff' * 2000):
    with pytest.raises(VideoError, match='not a record'):
      unpack(record)


def test_index(tmp_path):
  """Rows and ids, also put together out of two; nothing but the path goes to processes."""
  headers = [
    Header(
      id=f'{"é" * i}{i}', label=i - 1, rate=25 / (i + 1), frames=i, width=2 * i, height=3 * i,
      size=10**10 + i, sha256=hashlib.sha256(bytes(i)).hexdigest(),
    ) for i in range(5)
  ]  # fmt: skip
  rows = [(header, i // 2, 10**11 * i) for i, header in enumerate(headers)]
  index = Index.of(Index.pair(*row) for row in rows)
  assert list(index) == headers == [pickle.loads(pickle.dumps(index))[i] for i in range(5)]
  assert index[-1] == headers[4] and index[1:3] == (headers[1], headers[2])
  assert len(pickle.dumps(index)) < 300
  assert [index.rows(i, i + 1)[['shard', 'offset']].item() for i in range(5)] == [
    (i // 2, 10**11 * i) for i in range(5)
  ]
  parts = [(rows[:2], 0), ([(h, shard - 1, at) for h, shard, at in rows[2:]], 1)]
  joined = Index.joined((Index.of(Index.pair(*x) for x in part), first) for part, first in parts)
  assert storage.read(joined.path) == storage.read(index.path)


def test_a_shard_is_a_tar_file(shards):
  """The library of Python reads it, and finds the videos where the index says."""
  folder, manifest = shards
  source = ShardSource(folder)
  found = []
  for shard in manifest['shards']:
    path = f'{folder}/{shard["name"]}'
    with tarfile.open(path) as tar, open(path, 'rb') as f:
      assert hashlib.sha256(f.read()).hexdigest() == shard['sha256']
      for about, video in zip(*[iter(tar.getmembers())] * 2, strict=True):
        header = json.load(tar.extractfile(about))
        assert (about.name, video.name) == (f'{header["id"]}.json', f'{header["id"]}.mp4')
        f.seek(video.offset_data)
        found.append((header, f.read(video.size)))
  assert [header['id'] for header, _ in found] == [header.id for header in source.headers]
  assert [data for _, data in found] == [source.read(i)[1] for i in range(len(source))]


def test_only_the_video_is_read(shards, monkeypatch):
  source, asked = ShardSource(shards[0]), []
  read = storage.read
  monkeypatch.setattr(storage, 'read', lambda *a: (asked.append(a[1:]), read(*a))[1])
  data = source.read(1)[1]
  [(begin, end)] = asked
  assert end - begin == len(data) == source.headers[1].size


# -- Reading


def test_source(shards, tmp_path):
  folder, manifest = shards
  source = open_source(folder)
  assert isinstance(source, ShardSource) and len(source) == 5
  kept = [0, 1, 3, 4, 5]
  assert [source.label(i) for i in range(5)] == [k % 2 for k in kept]
  assert source.name(2) == f'{folder}:v 3, "é"'
  assert source.class_names == ('a', 'b')
  assert manifest['failures'][0]['id'] == 'v 2, "é"' and manifest['failures'][0]['reason']
  assert (manifest['videos'], manifest['records']) == (6, 5)
  assert manifest['records_of_class'] == [2, 3]
  assert [shard['records'] for shard in manifest['shards']] == [2, 1, 2]
  assert manifest['frames'] == sum(20 + k for k in kept)
  for i, k in enumerate(kept):
    with source.open(i) as video:
      assert (video.num_frames, video.height, video.width) == (20 + k, 40, 56 + 2 * k)
      assert source.headers[i].frames == 20 + k and source.headers[i].rate == 25


def test_frames_are_exact(shards):
  """Single frames, in any order, against a plain decode of all."""
  source = open_source(shards[0])
  for i in range(len(source)):
    want = decode_all(source.read(i)[1])
    with source.open(i) as video:
      for places in ([0], [19], [17, 3, 3, 11], range(20), range(2, 20, 4)):
        np.testing.assert_array_equal(video.read(places), np.stack([want[k] for k in places]))


def test_loader_reads_shards_as_it_reads_files(tmp_path, no_processes):
  for k in range(4):
    write_video(tmp_path / f'{k}.mp4', frames=20)
  videos = [Listed(str(k), str(tmp_path / f'{k}.mp4'), k % 2) for k in range(4)]
  make(tmp_path / 'shards', videos, encoding=None, shard_videos=3)
  (tmp_path / 'list.txt').write_text(''.join(f'{v.path} {v.label}\n' for v in videos))
  batches = []
  for data, workers in (('list.txt', 0), ('shards', 0), ('shards', 1)):
    source = open_source(str(tmp_path / data))
    sampler = ClipSampler(frames=4, size=32, stride=2, flip=True)
    loader = Loader(
      source, sampler, batch_size=4, seed=0, shuffle=True, num_steps=2, threads=2, workers=workers
    )
    batches.append([{k: np.asarray(x) for k, x in batch.items()} for batch in loader])
    assert not loader.failures
    loader.close()
  listed, *sharded = batches
  for one, *others in zip(listed, *sharded, strict=True):
    for name in one:
      np.testing.assert_array_equal(*(other[name] for other in others))
      # Shards say how large their pictures are: boxes too large for a list's are resized elsewhere.
      apart = np.abs(one[name].astype(int) - others[0][name])
      assert apart.max() <= (name == 'video') and apart.mean() < 0.001


def test_a_source_travels_to_other_processes(shards):
  source = open_source(shards[0])
  source.read(0)
  assert pickle.loads(pickle.dumps(source)).read(4) == source.read(4)


# -- Damage


def test_examined(shards):
  found = examine_record(open_source(shards[0]), 0)
  assert (found.reason, found.codec, found.frames) == ('', 'h264', 20)


def test_another_file_in_place_of_a_shard(shards):
  folder, manifest = shards
  first, _, last = (f'{folder}/{shard["name"]}' for shard in manifest['shards'])
  source = open_source(folder)
  os.replace(last, first)
  with pytest.raises(VideoError, match='checksum|cannot be read'):
    source.read(0)


def test_a_flipped_byte_costs_its_record_only(shards):
  folder, manifest = shards
  path = f'{folder}/{manifest["shards"][0]["name"]}'
  record = ShardSource(folder).read(1)[1]
  with open(path, 'r+b') as f:
    f.seek(f.read().index(record) + 100)
    f.write(bytes([record[100] ^ 1]))
  source = open_source(folder)
  reasons = [examine_record(source, i).reason for i in range(5)]
  assert reasons[1] == 'its checksum is wrong' and not any(reasons[2:])
  with pytest.raises(VideoError):
    source.open(1)
  source.open(0).close()


@pytest.mark.parametrize(
  'harm, message',
  [
    (lambda p, m: (p / m['shards'][1]['name']).unlink(), 'damaged.*No such file'),
    (lambda p, m: (p / m['shards'][1]['name']).write_bytes(b'x'), 'another size'),
    (lambda p, m: (p / m['index']['name']).unlink(), 'damaged.*No such file'),
    (lambda p, m: (p / m['index']['name']).write_bytes(b'x'), 'index-.* is not the one'),
    (lambda p, m: (p / 'manifest.json').write_text('{'), 'damaged'),
    (lambda p, m: (p / 'manifest.json').write_text(json.dumps(m | {'version': 9})), 'version 9'),
    (lambda p, m: ((p / '.parts').mkdir(), (p / 'manifest.json').unlink()), 'not complete'),
  ],
)
def test_damaged_folders(shards, tmp_path, harm, message):
  harm(tmp_path / 'shards', shards[1])
  with pytest.raises(UserError, match=message) as e:
    open_source(shards[0])
  assert '\n' not in str(e.value)


def test_no_room_for_the_index_is_no_damage(shards, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(storage, 'fetch', full)
  with pytest.raises(UserError, match='has no room for a table of the videos.*TMPDIR'):
    open_source(shards[0])


def test_the_folder_of_the_splits_is_no_split(shards, tmp_path):
  with pytest.raises(UserError, match='has the splits shards: name one, such as .*/shards'):
    open_source(str(tmp_path))


def test_all_videos_broken(tmp_path, no_processes):
  (tmp_path / 'a.mp4').write_bytes(b'x')
  manifest = make(tmp_path / 'shards', [Listed('a', str(tmp_path / 'a.mp4'), 0)] * 3)
  assert (manifest['records'], manifest['shards'], len(manifest['failures'])) == (0, [], 3)
  with pytest.raises(UserError, match='hold no video'):
    open_source(str(tmp_path / 'shards'))
