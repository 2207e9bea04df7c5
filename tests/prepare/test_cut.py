"""Films are cut into clips that hold all of their frames."""

import io
import subprocess
import sys

import av
import numpy as np
import pytest

from tests.data.clips_on_disk import decode_all, write_video
from tests.data.shards_on_disk import at_once
from vmae_jax.data.shards import ShardSource
from vmae_jax.errors import VideoError
from vmae_jax.prepare import prepare_shards, staging
from vmae_jax.prepare.encoding import Encoding, cut_film, encode_video
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.pool import Lost
from vmae_jax.prepare.prepare_shards import write_shards
from vmae_jax.prepare.staging import clip_id


def frames_of(data: bytes) -> np.ndarray:
  with av.open(io.BytesIO(data)) as container:
    return np.stack([f.to_ndarray(format='rgb24') for f in container.decode(video=0)])


@pytest.mark.parametrize(
  'name, options, seconds, counts',
  [
    ('v.mp4', dict(frames=60), 1.0, [25, 25, 10]),
    ('v.mp4', dict(frames=50), 1.0, [25, 25]),  # Nothing is left.
    ('v.mp4', dict(frames=26), 1.0, [25, 1]),
    ('v.mp4', dict(frames=20), 60.0, [20]),
    ('v.mkv', dict(frames=30, options={'g': '7', 'bf': '3'}), 0.5, [13, 12, 5]),
    # By its time stamps.
    ('v.avi', dict(frames=30, codec='mpeg4', options={'bf': '2'}), 0.4, [11, 10, 9]),
    ('v.webm', dict(frames=30, codec='libvpx'), 0.6, [15, 15]),
    # Two frames a second, then a gap of four seconds without a new frame.
    ('v.mp4', dict(frames=6, times=[0, 500, 1000, 1500, 6000, 6500]), 2.0, [4, 2]),
  ],
)
def test_all_frames_in_their_order(tmp_path, name, options, seconds, counts):
  path = write_video(tmp_path / name, height=96, width=128, **options)
  encoding = Encoding(short_side=96, crf=10)
  clips = list(cut_film(path, encoding, seconds=seconds))
  assert [clip.frames for clip in clips] == counts
  got = np.concatenate([frames_of(clip.data) for clip in clips])
  want = np.stack(decode_all(path))
  assert got.shape == want.shape
  whole = frames_of(encode_video(path, encoding).data)
  error = np.abs(np.int32(got) - want).mean(axis=(1, 2, 3))
  usual = np.abs(np.int32(whole) - want).mean(axis=(1, 2, 3))
  assert error.max() < 2 * usual.max()  # `usual` is the error of a film that is not cut.
  shifted = np.abs(np.int32(got[1:]) - want[:-1]).mean(axis=(1, 2, 3))
  assert shifted.min() > 2 * error.max()
  for clip in clips:
    with av.open(io.BytesIO(clip.data)) as container:
      assert next(container.decode(video=0)).time == 0


def test_rotation_stays(tmp_path):
  path = write_video(tmp_path / 'v.mp4', frames=10, rotation=90)
  assert [(c.width, c.height) for c in cut_film(path, Encoding(), seconds=0.2)] == [(48, 64)] * 2


@pytest.mark.parametrize('at', [0.4, 0.97])
@pytest.mark.parametrize('name', ['v.mp4', 'v.mkv', 'v.avi'])
def test_a_truncated_film_is_reported(tmp_path, name, at):
  path = tmp_path / name
  container_options = {'movflags': 'faststart'} if name == 'v.mp4' else {}
  write_video(path, frames=60, container_options=container_options, options={'g': '5'})
  data = path.read_bytes()
  path.write_bytes(data[: int(at * len(data))])
  with pytest.raises(VideoError):
    list(cut_film(str(path), Encoding(), seconds=1.0))


@pytest.mark.parametrize('content', [b'', b'x' * 1000])
def test_no_film_at_all(tmp_path, content):
  (tmp_path / 'v.mp4').write_bytes(content)
  for path in (tmp_path / 'v.mp4', tmp_path / 'none.mp4'):
    with pytest.raises(VideoError):
      list(cut_film(str(path), Encoding(), seconds=1.0))


@pytest.fixture
def store(tmp_path):
  """A film in a store, of which the test hears what is read."""
  import fsspec

  path = write_video(tmp_path / 'film.mp4', frames=60, height=240, width=320)
  fs = fsspec.filesystem('memory')
  with open(path, 'rb') as f:
    fs.pipe_file('/films/film.mp4', f.read())
  yield fs, path
  fs.rm('/films', recursive=True)


def test_a_film_elsewhere(store, monkeypatch, tmp_path):
  """It is read piece by piece; where the store fails in its midst, another try may do."""
  fs, path = store
  here = list(cut_film(path, Encoding(), seconds=0.5))
  monkeypatch.setattr(type(fs), 'cat_file', None)  # Which would read all of it.
  assert list(cut_film('memory://films/film.mp4', Encoding(), seconds=0.5)) == here

  class Failing(io.BytesIO):
    def read(self, size=-1):
      if self.tell() > 60_000:
        raise RuntimeError('503')
      return super().read(size)

  with open(path, 'rb') as f:
    data = f.read()
  monkeypatch.setattr(type(fs), 'open', lambda *_, **__: Failing(data))
  video = Listed('film', 'memory://films/film.mp4', 0)
  task = staging.Task(folder=str(tmp_path), place=0, video=video, encoding=Encoding(), cut=0.5)
  assert isinstance(staging.stage(task), Lost)


def test_names():
  assert clip_id('b/film.MKV', 12) == 'b/film@00012.MKV'
  assert clip_id('v_abc.def_000001', 3) == 'v_abc.def_000001@00003'


def write(videos, out, **options):
  options = {'shard_videos': 2, 'cut': 0.4, 'workers': 1, 'seconds': 60.0} | options
  return write_shards(videos, out, about={}, classes=['a', 'b'], encoding=Encoding(), **options)


@pytest.fixture
def films(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare_shards, 'run_all', at_once)
  videos = []
  for i in range(3):
    path = write_video(tmp_path / f'{i}.mp4', frames=12 + 10 * i)
    videos.append(Listed(f'{i}.mp4', path, i % 2))
  return videos


def test_shards_of_clips(films, tmp_path):
  manifest = write(films, tmp_path / 'out')
  names = [(f'0@0000{i}.mp4', 0) for i in range(2)]
  names += [(f'1@0000{i}.mp4', 1) for i in range(3)] + [(f'2@0000{i}.mp4', 0) for i in range(4)]
  source = ShardSource(str(tmp_path / 'out'))
  assert [(h.id, h.label) for h in source.headers] == names
  assert manifest['frames'] == 12 + 22 + 32 and manifest['cut'] == 0.4
  assert [shard['records'] for shard in manifest['shards']] == [5, 4]
  for i in range(len(source)):
    with source.open(i) as video:
      assert video.num_frames == source.headers[i].frames
  assert write(films, tmp_path / 'one', shard_videos=0)['shard_videos'] == 1


def test_a_damaged_film_leaves_no_clips(films, tmp_path):
  """And is done again, mended, while the clips of the other one of its shard stay."""
  want = write(films, tmp_path / 'whole')['hash']
  whole = (tmp_path / '1.mp4').read_bytes()
  write_video(tmp_path / '1.mp4', frames=22, container_options={'movflags': 'faststart'})
  (tmp_path / '1.mp4').write_bytes((tmp_path / '1.mp4').read_bytes()[:-300])
  manifest = write(films, tmp_path / 'out')
  assert manifest['records'] == 6 and manifest['failures'][0]['id'] == '1.mp4'
  (tmp_path / '1.mp4').write_bytes(whole)
  assert write(films, tmp_path / 'out', retry=True)['hash'] == want


def test_clips_that_are_there_stay(films, tmp_path, monkeypatch):
  """A film goes on behind its last clip; it is decoded from its start."""
  (tmp_path / 'files').mkdir()
  task = staging.Task(
    folder=str(tmp_path / 'files'), place=0, video=films[2], encoding=Encoding(), cut=0.4
  )
  assert staging.stage(task) > 0
  files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'files').iterdir()}
  assert len(files) == 5
  for name in ('0.json', '0-3'):
    (tmp_path / 'files' / name).unlink()
  last = (tmp_path / 'files/0-2').read_bytes()
  staging.stage(task)
  assert (tmp_path / 'files/0-2').read_bytes() == last
  again = {path: path.stat().st_mtime_ns for path in (tmp_path / 'files').iterdir()}
  assert {path.name for path in files if again[path] != files[path]} == {'0.json', '0-3'}


MEMORY = """
import resource, sys
from vmae_jax.prepare.encoding import Encoding, cut_film
for path in sys.argv[1:]:
  frames = sum(clip.frames for clip in cut_film(path, Encoding(short_side=64), seconds=1.0))
  print(frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_film(tmp_path):
  """Of 75 MB of packets (noise does not compress) none is held longer than its clip."""
  rng = np.random.default_rng(0)
  noise = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(8)]
  for name, frames in (('short.avi', 30), ('long.avi', 250)):
    with av.open(str(tmp_path / name), 'w') as container:
      stream = container.add_stream('mjpeg', rate=25, options={'qmin': '1', 'qmax': '2'})
      stream.width, stream.height, stream.pix_fmt = 640, 480, 'yuvj420p'
      for i in range(frames):
        frame = av.VideoFrame.from_ndarray(noise[i % 8], format='rgb24')
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
  assert (tmp_path / 'long.avi').stat().st_size > 60e6
  command = [sys.executable, '-c', MEMORY, tmp_path / 'short.avi', tmp_path / 'long.avi']
  output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
  (_, before), (frames, after) = [map(int, line.split()) for line in output.splitlines()]
  assert frames == 250 and after - before < 20_000, output  # Kilobytes.
