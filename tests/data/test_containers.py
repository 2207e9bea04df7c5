"""Frames in every container, codec and kind of prediction that PyAV's FFmpeg can write."""

import zlib
from fractions import Fraction

import av
import numpy as np
import pytest

from vmae_jax.data.video import Video
from vmae_jax.prepare.encoding import encode_video

FRAMES = 18
CONTAINERS = {
  'mp4': 'mp4',
  'mov': 'mov',
  '3gp': '3gp',
  'mkv': 'matroska',
  'webm': 'webm',
  'avi': 'avi',
  'wmv': 'asf',
  'mxf': 'mxf',
  'flv': 'flv',
  'ts': 'mpegts',
  'mpg': 'mpeg',
  'nut': 'nut',
  'ogv': 'ogg',
  'wtv': 'wtv',
  'ivf': 'ivf',
  'h264': 'h264',
  'hevc': 'hevc',
}
GOP = {'g': '8', 'bf': '0'}
CODECS = {
  'H.264': ('libx264', GOP),
  'H.264, B-frames': ('libx264', {'g': '8', 'bf': '3', 'b_strategy': '0'}),
  'H.264, pyramid of B-frames': ('libx264', {'preset': 'slow', 'bf': '4', 'g': '12'}),
  'H.264, one GOP': ('libx264', {'bf': '3'}),
  'H.264, open GOPs': (
    'libx264',
    {'x264-params': 'open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3'},
  ),
  'H.264, intra refresh': ('libx264', {'x264-params': 'intra-refresh=1:keyint=8:bframes=0'}),
  'H.264, intra refresh, B-frames': (
    'libx264',
    {'x264-params': 'intra-refresh=1:keyint=8:bframes=3'},
  ),
  'H.264, fields': ('libx264', {'x264-params': 'interlaced=1:bframes=3:keyint=8'}),
  'H.264, 4:4:4': ('libx264', {'bf': '3', 'g': '8', 'pix_fmt': 'yuv444p'}),
  'HEVC': ('libx265', {'x265-params': 'keyint=8:bframes=0:log-level=none'}),
  'HEVC, open GOPs': ('libx265', {'x265-params': 'keyint=8:bframes=3:log-level=none'}),
  'HEVC, intra refresh': (
    'libx265',
    {'x265-params': 'intra-refresh=1:keyint=8:bframes=0:log-level=none'},
  ),
  'MPEG-4': ('mpeg4', GOP),
  'MPEG-4, B-frames': ('mpeg4', {'g': '8', 'bf': '2'}),
  'MPEG-2': ('mpeg2video', GOP),
  'MPEG-2, B-frames': ('mpeg2video', {'g': '8', 'bf': '2'}),
  'MPEG-1, B-frames': ('mpeg1video', {'g': '8', 'bf': '2'}),
  'VP8': ('libvpx', {'g': '8', 'auto-alt-ref': '1', 'lag-in-frames': '8', 'deadline': 'realtime'}),
  'VP9': ('libvpx-vp9', {'g': '8', 'lag-in-frames': '8', 'cpu-used': '8'}),
  'H.263': ('h263', {'g': '8'}),
  'Sorenson': ('flv', {'g': '8'}),
  'MS-MPEG-4': ('msmpeg4', {'g': '8'}),
  'WMV 2': ('wmv2', {'g': '8'}),
  'MJPEG': ('mjpeg', {'pix_fmt': 'yuvj420p'}),
  'FFV1': ('ffv1', {'g': '8'}),
}


def write(path, container, codec, options):
  """Moving gradients; returns whether this container takes this codec."""
  options = dict(options)
  pix_fmt = options.pop('pix_fmt', 'yuv420p')
  y, x = np.mgrid[:144, :176]
  try:
    with av.open(str(path), 'w', format=container) as file:
      stream = file.add_stream(codec, rate=25, options=options)
      stream.width, stream.height, stream.pix_fmt = 176, 144, pix_fmt
      for t in range(FRAMES):
        rgb = np.stack([x * 3 + t * 7, y * 4 + t * 5, (x + y) * 2 + t * 11], -1) % 256
        frame = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format='rgb24')
        frame = frame.reformat(format=pix_fmt)
        frame.pts, frame.time_base = t, Fraction(1, 25)
        file.mux(stream.encode(frame))
      file.mux(stream.encode(None))
  except (av.FFmpegError, ValueError):
    return False
  return True


def copy(source, path, container):
  """Puts the packets of a file into another container; returns whether that takes them."""
  try:
    with av.open(str(source)) as old, av.open(str(path), 'w', format=container) as new:
      stream = new.add_stream_from_template(old.streams.video[0])
      for packet in old.demux(video=0):
        if packet.size:
          packet.stream = stream
          new.mux(packet)
  except (av.FFmpegError, ValueError):
    return False
  return True


def hashed(image):
  return zlib.crc32(np.ascontiguousarray(image).tobytes())


def decode(path):
  """Hashes of a full sequential decode; empty where a frame is not whole, or nothing decodes."""
  try:
    with av.open(str(path)) as file:
      file.streams.video[0].codec_context.thread_count = 1
      frames = list(file.decode(video=0))
  except (av.FFmpegError, IndexError, AttributeError):
    return []
  if any(frame.is_corrupt for frame in frames):
    return []
  return [hashed(frame.to_ndarray(format='rgb24')) for frame in frames]


def check_reading(path, want):
  rng = np.random.default_rng(0)
  with Video(path) as video:
    assert video.num_frames == len(want), path.name
    assert list(map(hashed, video.read(range(len(want))))) == want, path.name
    video.check()
  for i in (1, 7, 9, 16):
    with Video(path) as video:
      assert hashed(video.read([i])[0]) == want[i], (path.name, i)
  with Video(path) as video:
    for _ in range(4):
      indices = rng.integers(0, len(want), 4)
      assert [*map(hashed, video.read(indices))] == [want[i] for i in indices], path.name


@pytest.mark.parametrize('kind', CODECS)
def test_frames_are_those_of_a_full_decode(kind, tmp_path):
  tried = 0
  for suffix, container in CONTAINERS.items():
    path = tmp_path / f'v.{suffix}'
    if write(path, container, *CODECS[kind]) and len(want := decode(path)) == FRAMES:
      check_reading(path, want)
      tried += 1
  assert tried >= 3, 'too few files that hold all frames'


@pytest.mark.parametrize(
  'kind',
  [kind for kind in CODECS if 'B-frames' in kind or 'open' in kind],
)
def test_copied_into_other_containers(kind, tmp_path):
  tried = 0
  for source in ('avi', 'wmv', 'mxf', 'mp4', 'ts', 'h264'):
    first = tmp_path / f'first.{source}'
    if not write(first, CONTAINERS[source], *CODECS[kind]):
      continue
    for suffix in ('mp4', 'mkv', 'avi', 'ts'):
      path = tmp_path / f'from_{source}.{suffix}'
      if copy(first, path, CONTAINERS[suffix]) and len(want := decode(path)) == FRAMES:
        with Video(path) as video:
          assert list(map(hashed, video.read(range(len(want))))) == want, path.name
        for i in (3, 12):
          with Video(path) as video:
            assert hashed(video.read([i])[0]) == want[i], (path.name, i)
        tried += 1
  assert tried >= 3, 'too few files that hold all frames'


@pytest.mark.parametrize('suffix', ['avi', 'wmv', 'mxf', 'mp4'])
def test_shards_keep_the_bytes_and_the_order(suffix, tmp_path):
  path = tmp_path / f'v.{suffix}'
  assert write(path, CONTAINERS[suffix], *CODECS['H.264, B-frames'])
  kept = tmp_path / 'kept'
  kept.write_bytes(encode_video(str(path), None).data)
  check_reading(kept, decode(path))
