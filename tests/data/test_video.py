"""Frames are exact on every kind of file; broken files raise and nothing else."""

import time
import tracemalloc

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data.frame_folder import FrameFolder
from vmae_jax.data.video import Video, VideoError

OPEN_GOP = {'x264-params': 'open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3'}
KINDS = {
  'constant rate': dict(name='v.mp4'),
  'B-frames, short GOPs': dict(name='v.mp4', options=dict(bf='3', g='12')),
  'open GOPs': dict(name='v.mp4', options=OPEN_GOP),
  'open GOPs, HEVC': dict(
    name='v.mp4',
    codec='libx265',
    height=128,
    width=128,
    options={'x265-params': 'keyint=8:min-keyint=8:bframes=3:log-level=none'},
  ),
  'intra refresh': dict(name='v.mp4', options={'x264-params': 'intra-refresh=1:keyint=10'}),
  'variable rate': dict(name='v.mp4', times=[20 * t + 3 * t * t for t in range(30)]),
  'late start': dict(name='v.mkv', times=[5000 + 40 * t for t in range(30)]),
  'turned left': dict(name='v.mp4', rotation=90),
  'turned right': dict(name='v.mp4', rotation=-90),
  'odd size, 4:4:4': dict(name='v.mp4', height=49, width=67, pix_fmt='yuv444p'),
  '10 bits': dict(name='v.mp4', pix_fmt='yuv420p10le'),
  'grey': dict(name='v.mkv', codec='ffv1', pix_fmt='gray'),
  'full range': dict(name='v.mp4', colour=(5, 2)),
  'MPEG-4 in AVI': dict(name='v.avi', codec='mpeg4', options=dict(bf='2')),
  'MPEG-4 in MP4': dict(name='v.mp4', codec='mpeg4', options=dict(bf='2', g='9')),
  'transport stream': dict(name='v.ts', options=dict(bf='2', g='9')),
  'VP8': dict(name='v.webm', codec='libvpx'),
  'AV1': dict(name='v.mp4', codec='libsvtav1', height=64),
  'VP9': dict(name='v.webm', codec='libvpx-vp9'),
}
# In these a packet is no frame, or a keyframe does not suffice: decoded from the start.
NEED_COUNTING = ('intra refresh', 'VP8')


@pytest.mark.parametrize('kind', KINDS)
def test_frames_are_those_of_decoding_from_the_start(kind, tmp_path, monkeypatch):
  options = dict(KINDS[kind])
  path = write_video(tmp_path / options.pop('name'), **options)
  want = decode_all(path)
  rng = np.random.default_rng(0)
  with Video(path) as video:
    if kind not in NEED_COUNTING:
      monkeypatch.setattr(video, '_decode_counting', lambda _: pytest.fail('slow way taken'))
    assert video.num_frames == len(want) == 30
    assert (video.height, video.width, 3) == want[0].shape
    singles = [[i] for i in reversed(range(30))]
    scattered = [rng.integers(0, 30, 5) for _ in range(10)]
    pairs = [[i, i + 1] for i in range(29)]
    for indices in [*singles, *pairs, *scattered, range(30), [29, 0, 0, 13]]:
      got = video.read(indices)
      for i, image in zip(indices, got, strict=True):
        np.testing.assert_array_equal(image, want[i], err_msg=f'frame {i} of {indices}')


def test_decodes_no_more_than_needed(tmp_path, monkeypatch):
  options = {'bf': '0', 'g': '10', 'x264-params': 'scenecut=0'}
  path = write_video(tmp_path / 'v.mp4', options=options)
  with Video(path) as video:
    runs = []
    decode = video._decode
    monkeypatch.setattr(
      video, '_decode', lambda packets, needed: runs.append(len(packets)) or decode(packets, needed)
    )
    video.read([2, 4, 23])
    # Frames 0 to 4 and 20 to 23; the GOP between them is left out.
    assert runs == [5, 4]


@pytest.mark.parametrize('colour', [(5, 1), (5, 2), (1, 1), (1, 2)])
def test_colours_follow_matrix_and_range(tmp_path, colour):
  path = tmp_path / 'v.mkv'
  want = np.full((32, 32, 3), (200, 60, 90), np.uint8)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=25)
    stream.width = stream.height = 32
    stream.pix_fmt = 'yuv444p'
    stream.codec_context.colorspace, stream.codec_context.color_range = colour
    frame = av.VideoFrame.from_ndarray(want, format='rgb24')
    frame = frame.reformat(format='yuv444p', dst_colorspace=colour[0], dst_color_range=colour[1])
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  with Video(path) as video:
    assert np.abs(video.read([0])[0].astype(int) - want).max() <= 4


def test_rate(tmp_path):
  with Video(write_video(tmp_path / 'v.mp4')) as video:
    assert video.rate == pytest.approx(25)
    assert video.codec == 'h264'


def test_frames_outside(tmp_path):
  with Video(write_video(tmp_path / 'v.mp4')) as video:
    for indices in ([30], [-1], []):
      with pytest.raises(IndexError):
        video.read(indices)


def test_no_video_in_it(tmp_path):
  (tmp_path / 'empty.mp4').touch()
  (tmp_path / 'text.mp4').write_text('not a video ' * 1000)
  with av.open(str(tmp_path / 'sound.mp4'), 'w') as container:
    stream = container.add_stream('aac', rate=44100)
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), 'fltp', 'mono')
    sound.sample_rate = 44100
    container.mux(stream.encode(sound))
    container.mux(stream.encode(None))
  for name, reason in {
    'none.mp4': 'file is missing',
    '.': 'not a file',
    'empty.mp4': 'empty file',
    'text.mp4': 'Invalid data',
    'sound.mp4': 'no video stream',
  }.items():
    with pytest.raises(VideoError, match=reason):
      Video(tmp_path / name)


def test_a_title_that_is_no_utf8(tmp_path):
  path = write_video(tmp_path / 'a.mp4', frames=3, title='TITLETITLE')
  data = (tmp_path / 'a.mp4').read_bytes()
  assert data.count(b'TITLETITLE') == 1
  (tmp_path / 'a.mp4').write_bytes(data.replace(b'TITLETITLE', b'TIT\xff\xfe\xc3TITL'))
  with Video(path) as video:
    assert video.read([0, 2]).shape == (2, 48, 64, 3)


def test_truncated(tmp_path):
  path = write_video(tmp_path / 'v.mp4', container_options=dict(movflags='faststart'))
  data = (tmp_path / 'v.mp4').read_bytes()
  (tmp_path / 'v.mp4').write_bytes(data[: len(data) * 2 // 3])
  with pytest.raises(VideoError, match=r'truncated: \d+ of 30'):
    Video(path)


def _damage(data, k, rng):
  data = bytearray(data)
  if k % 3 == 0:
    for place in rng.integers(0, len(data), rng.integers(1, 20)):
      data[place] ^= 1 << int(rng.integers(8))
  elif k % 3 == 1:
    data = data[: rng.integers(0, len(data))]
  else:
    start, length = rng.integers(0, len(data)), rng.integers(1, len(data) // 4)
    data[start : start + length] = bytes(len(data[start : start + length]))
  return bytes(data)


@pytest.mark.parametrize('name', ['v.mp4', 'v.mkv'])
def test_damaged_files_give_frames_or_an_error(tmp_path, name):
  source = write_video(
    tmp_path / name,
    options=dict(bf='2', g='10'),
    container_options=dict(fflags='bitexact'),
  )
  data = (tmp_path / name).read_bytes()
  want = np.stack(decode_all(source))
  rng = np.random.default_rng(0)
  path, errors, wrong = tmp_path / f'damaged{name}', 0, 0
  for k in range(100):
    path.write_bytes(_damage(data, k, rng))
    start = time.monotonic()
    try:
      with Video(path) as video:
        got = video.read(range(video.num_frames))
        assert got.dtype == np.uint8 and len(got) == video.num_frames
        wrong += got.shape == want.shape and np.abs(got.astype(int) - want).max() > 0
    except VideoError as e:
      errors += 1
      assert '\n' not in str(e) and str(e)
    assert time.monotonic() - start < 60
  assert errors > 50
  assert wrong < 4  # Damage that leaves a valid stream cannot be seen.


def test_check(tmp_path):
  path = write_video(tmp_path / 'v.mp4')
  with Video(path) as video:
    video.check()
  data = bytearray((tmp_path / 'v.mp4').read_bytes())
  middle = data.index(b'mdat') + 1500
  data[middle : middle + 400] = bytes(400)
  (tmp_path / 'v.mp4').write_bytes(data)
  with Video(path) as video, pytest.raises(VideoError):
    video.check()


def test_frames_are_shrunk_one_by_one(tmp_path):
  path = write_video(tmp_path / 'v.mp4', height=96, width=128)
  (tmp_path / 'f').mkdir()
  for i, image in enumerate(decode_all(path)):
    Image.fromarray(image).save(tmp_path / f'f/{i}.png')
  for video in (Video(path), FrameFolder(f'{tmp_path}/f/')):
    with video:
      indices = [7, 2, 2, 29]
      want = video.read(indices)[:, 4:20:2, 8:40:2]
      seen = []

      def shrink(image, seen=seen):
        seen.append(image.shape)
        return image[4:20:2, 8:40:2]

      np.testing.assert_array_equal(video.read(indices, shrink=shrink), want)
      assert seen == [(96, 128, 3)] * 3
      with pytest.raises(ZeroDivisionError):  # Its own errors stay what they are.
        video.read(indices, shrink=lambda image: image[1 // 0])


def test_memory_of_large_frames(tmp_path):
  """A clip of large frames takes what it returns, and a few frames on the way."""
  path = write_video(tmp_path / 'v.mp4', frames=24, height=540, width=960)
  whole = 540 * 960 * 3
  with Video(path) as video:
    tracemalloc.start()
    video.read(range(24), shrink=lambda image: image[::10, ::10])
    shrunk = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    video.read(range(24))
    full = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  assert shrunk < 4 * whole
  assert full < (24 + 4) * whole
