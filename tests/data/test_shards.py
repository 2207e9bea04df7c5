"""What is encoded, and what comes back out of shards."""

import hashlib
import io
import json
import os
import pickle
import tarfile

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from tests.data.clips_on_disk import decode_all, write_video
from tests.data.shards_on_disk import at_once, make
from vmae_jax import storage
from vmae_jax.data import synthetic
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
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError
from vmae_jax.prepare import prepare_shards, synthetic_set
from vmae_jax.prepare.encoding import Encoding, encode_video, scaled_size
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


# -- Encoding


def every_frame(data: bytes):
  with av.open(io.BytesIO(data)) as container:
    return [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]


@pytest.mark.parametrize(
  'size, short_side, wanted',
  [
    ((340, 256), 320, (340, 256)),  # Nothing is enlarged.
    ((1280, 720), 320, (568, 320)),
    ((720, 1280), 320, (320, 568)),
    ((854, 480), 256, (456, 256)),
    ((321, 241), 320, (320, 240)),
    ((1, 1), 320, (2, 2)),
  ],
)
def test_scaled_size(size, short_side, wanted):
  assert scaled_size(*size, short_side) == wanted


def test_the_picture_and_its_times_stay(tmp_path):
  times = [1000 + 40 * i + (i % 3) for i in range(30)]  # From one second on, at a varying rate.
  path = write_video(tmp_path / 'v.mp4', height=96, width=128, times=times)
  encoded = encode_video(path, Encoding(short_side=96, gop=7))
  assert (encoded.frames, encoded.width, encoded.height) == (30, 128, 96)
  assert encoded.sha256 == hashlib.sha256(encoded.data).hexdigest()
  with av.open(io.BytesIO(encoded.data)) as container:
    (stream,) = container.streams
    frames = list(container.decode(stream))
    assert [round(1000 * frame.time) for frame in frames] == [time - 1000 for time in times]
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
  assert keys[0] == 0 and max(np.diff([*keys, 30])) <= 7
  difference = np.abs(np.int32(every_frame(encoded.data)) - np.int32(decode_all(path)))
  assert difference.mean() < 12  # Of a hard test picture; another frame differs by 40 and more.
  other = np.abs(np.int32(every_frame(encoded.data)[1:]) - np.int32(decode_all(path)[:-1]))
  assert other.mean() > 2 * difference.mean()


@pytest.mark.parametrize(
  'name, codec, options',
  [
    ('v.avi', 'mpeg4', {'bf': '2'}),  # As UCF101 and HMDB51 come.
    ('v.webm', 'libvpx', {}),  # As Something-Something V2 comes.
    ('v.webm', 'libvpx-vp9', {}),
    ('v.mkv', 'ffv1', {}),
  ],
)
def test_containers_and_codecs(tmp_path, name, codec, options):
  path = write_video(tmp_path / name, frames=13, height=96, width=128, codec=codec, options=options)
  encoded = encode_video(path, Encoding(crf=10))
  assert encoded.frames == 13 and encoded.rate == pytest.approx(25, rel=0.01)
  with Video(path) as before, Video(io.BytesIO(encoded.data)) as after:
    wanted = np.int32(before.read(range(13)))
    assert np.abs(np.int32(after.read(range(13))) - wanted).mean() < 12
  with av.open(io.BytesIO(encoded.data)) as container:
    times = [frame.time for frame in container.decode(video=0)]
  np.testing.assert_allclose(np.diff(times), 0.04, atol=0.002)


def test_few_frames_refer_to_others(tmp_path):
  """Of four frames three may be left out, so a clip of every fourth frame is cheap."""
  clip = synthetic.render(0, 0, frames=48, size=64)
  synthetic_set.write_video(tmp_path / 'v.mp4', clip)
  encoded = encode_video(str(tmp_path / 'v.mp4'), Encoding(gop=12))
  with av.open(io.BytesIO(encoded.data)) as container:
    kinds = [PictureType(frame.pict_type) for frame in container.decode(video=0)]
  assert 0.6 <= np.mean([kind == PictureType.B for kind in kinds]) <= 0.75


@pytest.mark.parametrize(
  'options',
  [
    dict(rotation=90),
    dict(colour=(5, 2), pix_fmt='yuv420p'),  # BT.601, full range.
    dict(colour=(1, 1), pix_fmt='yuv444p'),  # BT.709.
    dict(height=49, width=65, pix_fmt='yuv444p'),
  ],
)
def test_turned_and_coloured_as_it_was(tmp_path, options):
  path = write_video(tmp_path / 'v.mp4', frames=4, **{'height': 80, 'width': 64} | options)
  encoded = encode_video(path, Encoding(crf=1))
  with Video(path) as before, Video(io.BytesIO(encoded.data)) as after:
    assert abs(before.height - after.height) <= 1 and abs(before.width - after.width) <= 1
    a, b = (np.int32(video.read(range(4))).mean((1, 2)) for video in (before, after))
    np.testing.assert_allclose(a, b, atol=3)  # Of 255, the mean of each colour.


def test_sound_is_left_out_and_bytes_are_always_the_same(tmp_path):
  path = write_video(tmp_path / 'v.mkv', frames=25)
  with_sound = tmp_path / 'sound.mkv'
  with av.open(path) as source, av.open(str(with_sound), 'w') as container:
    video = container.add_stream_from_template(source.streams.video[0])
    sound = container.add_stream('aac', rate=16000)
    for packet in source.demux(video=0):
      if packet.size:
        packet.stream = video
        container.mux(packet)
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), 'fltp', 'mono')
    silence.sample_rate = 16000
    container.mux(sound.encode(silence))
    container.mux(sound.encode(None))
  with av.open(str(with_sound)) as container:
    assert len(container.streams) == 2
  encoded = encode_video(str(with_sound), Encoding())
  with av.open(io.BytesIO(encoded.data)) as container:
    assert [stream.type for stream in container.streams] == ['video']
  assert encoded.frames == 25
  assert encoded.data == encode_video(str(with_sound), Encoding()).data


def test_encoding_forgets_what_it_did_before(tmp_path):
  """The same bytes every time, also with other things in memory."""
  path = write_video(tmp_path / 'v.mp4', frames=8, height=32, width=48)
  memory, found = [], set()
  for i in range(20):
    memory.append(np.full(50_000 + 4000 * i, i, np.uint8))
    found.add(encode_video(path, Encoding()).sha256)
  assert len(found) == 1


def test_keyframes_are_not_those_of_the_source(tmp_path):
  path = write_video(tmp_path / 'v.mp4', frames=12, options={'g': '1'})  # All are keyframes.
  encoded = encode_video(path, Encoding(gop=12))
  with av.open(io.BytesIO(encoded.data)) as container:
    assert sum(frame.key_frame for frame in container.decode(video=0)) < 4


def test_copy_keeps_the_bytes_and_refuses_broken_files(tmp_path):
  path = tmp_path / 'v.mp4'
  write_video(path)
  assert encode_video(str(path), None).data == path.read_bytes()
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 3])
  for encoding in (None, Encoding()):
    with pytest.raises(VideoError):
      encode_video(str(path), encoding)


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
  (tmp_path / 'whole').write_bytes(Index.write(rows))
  (tmp_path / 'a').write_bytes(Index.write(rows[:2]))
  (tmp_path / 'b').write_bytes(Index.write([(h, shard - 1, at) for h, shard, at in rows[2:]]))
  index = Index(str(tmp_path / 'whole'), 5)
  assert list(index) == headers == [pickle.loads(pickle.dumps(index))[i] for i in range(5)]
  assert len(pickle.dumps(index)) < 300
  assert [index.row(i)[['shard', 'offset']].item() for i in range(5)] == [
    (i // 2, 10**11 * i) for i in range(5)
  ]
  parts = [(Index(str(tmp_path / 'a'), 2), 0), (Index(str(tmp_path / 'b'), 3), 1)]
  assert Index.join(parts) == (tmp_path / 'whole').read_bytes()


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
    want = every_frame(source.read(i)[1])
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
  with pytest.raises(UserError, match='has no room for a copy of the index.*TMPDIR'):
    open_source(shards[0])


def test_the_folder_of_the_splits_is_none_of_them(shards, tmp_path):
  with pytest.raises(UserError, match='has the splits shards: name one, .*/shards'):
    open_source(str(tmp_path))


def test_all_videos_broken(tmp_path, no_processes):
  (tmp_path / 'a.mp4').write_bytes(b'x')
  manifest = make(tmp_path / 'shards', [Listed('a', str(tmp_path / 'a.mp4'), 0)] * 3)
  assert (manifest['records'], manifest['shards'], len(manifest['failures'])) == (0, [], 3)
  with pytest.raises(UserError, match='hold no video'):
    open_source(str(tmp_path / 'shards'))
