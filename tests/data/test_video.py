"""Frames are exact on every kind of file, and nothing more is decoded or held for them."""

import io
import re
import tracemalloc

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data import video as module
from vmae_jax.data.frame_folder import FrameFolder
from vmae_jax.data.video import Video
from vmae_jax.errors import VideoError
from vmae_jax.prepare.encoding import Encoding, encode_video

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
# In these a packet is no frame, or a keyframe is not enough: they are decoded from the start.
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


@pytest.mark.parametrize('degrees', [0, 90, 180, 270])
@pytest.mark.parametrize('mirror', [(False, False), (True, False), (False, True), (True, True)])
def test_turned_and_mirrored(tmp_path, degrees, mirror):
  stored = np.stack(decode_all(write_video(tmp_path / 'plain.mp4', frames=3)))
  want = np.rot90(stored, degrees // 90, axes=(1, 2))  # Counterclockwise, as ffmpeg shows it.
  want = want[:, :: -1 if mirror[1] else 1, :: -1 if mirror[0] else 1]
  path = write_video(tmp_path / 'v.mp4', frames=3, rotation=degrees, mirror=mirror)
  with Video(path) as video:
    np.testing.assert_array_equal(video.read(range(3)), want)
  data = encode_video(path, Encoding(crf=1)).data
  with Video(io.BytesIO(data)) as encoded:
    assert np.abs(encoded.read(range(3)).astype(int) - want).mean() < 4


def test_the_first_packet_tells_the_build_of_x264(tmp_path):
  """Builds before 151 have a fault in 4:4:4, which a decoder mends if it has seen the build."""
  options = {'x264-params': 'keyint=10:scenecut=0:8x8dct=1'}
  path = write_video(
    tmp_path / 'v.mp4', options=options, height=96, width=128, pix_fmt='yuv444p', noise=60
  )
  new = decode_all(path)
  data = (tmp_path / 'v.mp4').read_bytes()
  (tmp_path / 'v.mp4').write_bytes(re.sub(rb'core \d{3} ', b'core 120 ', data))

  def read(video, i):
    try:
      return video.read([i])[0].tobytes()
    except VideoError:
      return b''  # No old build made this file.

  fresh, warm = [], []
  for i in range(30):
    with Video(path) as video:
      fresh.append(read(video, i))
    with Video(path) as video:
      read(video, 0)
      warm.append(read(video, i))
  assert fresh == warm
  assert fresh[11:] != [image.tobytes() for image in new[11:]]


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


def test_texts_that_refer_to_other_files(tmp_path, monkeypatch):
  write_video(tmp_path / 'other.mp4')
  monkeypatch.chdir(tmp_path)
  for text in (
    'ffconcat version 1.0\nfile other.mp4\n',
    '#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n',
    'v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n',
  ):
    (tmp_path / 'text.mp4').write_text(text)
    with pytest.raises(VideoError, match='not a video file|Invalid data'):
      Video('text.mp4')


def test_the_cover_of_a_song(tmp_path):
  with av.open(str(tmp_path / 'cover.mp4'), 'w') as container:
    sound = container.add_stream('aac', rate=44100)
    cover = container.add_stream('mjpeg', rate=1)
    cover.width, cover.height, cover.pix_fmt = 32, 32, 'yuvj420p'
    cover.disposition = Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format='rgb24')
    packets = cover.encode(frame.reformat(format='yuvj420p')) + cover.encode(None)
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), 'fltp', 'mono')
    silence.sample_rate = 44100
    container.mux(packets + sound.encode(silence) + sound.encode(None))
  with av.open(str(tmp_path / 'cover.mp4')) as container:
    assert len(container.streams.video) == 1
  with pytest.raises(VideoError, match='no video stream'):
    Video(tmp_path / 'cover.mp4')


def test_a_film(tmp_path, monkeypatch):
  path = write_video(tmp_path / 'v.mp4')
  with av.open(path) as container:
    size = sum(packet.size for packet in container.demux(video=0))
  monkeypatch.setattr(module, 'LARGEST', size)
  Video(path).close()
  monkeypatch.setattr(module, 'LARGEST', size - 1)
  with pytest.raises(VideoError, match='--cut=SECONDS'):
    Video(path)


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
      with pytest.raises(ZeroDivisionError):  # The caller's own errors stay as they are.
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


def test_what_looks_wrong(tmp_path):
  fields = write_video(tmp_path / 'f.mp4', options={'x264-params': 'interlaced=1'})
  hdr = write_video(tmp_path / 'h.mp4', options={'x264-params': 'transfer=smpte2084'})
  wide = write_video(tmp_path / 'w.mp4', options={'x264-params': 'sar=4/3'})
  for path, odd in ((fields, 'interlaced'), (hdr, 'HDR colours'), (wide, '1.33 times as wide')):
    with Video(path) as video:
      (found,) = video.check()
      assert odd in found
      assert video.read([0]).shape[1:3] == (video.height, video.width) == (48, 64)
