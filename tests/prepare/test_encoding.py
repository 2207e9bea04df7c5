"""What is encoded: the picture, its times, turns and colours; what is left out."""

import hashlib
import io

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data import synthetic
from vmae_jax.data.frames import encode
from vmae_jax.data.video import Video
from vmae_jax.errors import VideoError
from vmae_jax.prepare.encoding import Encoding, encode_video, scaled_size


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
  difference = np.abs(np.int32(decode_all(encoded.data)) - np.int32(decode_all(path)))
  assert difference.mean() < 12  # Of a hard test picture; another frame differs by 40 and more.
  other = np.abs(np.int32(decode_all(encoded.data)[1:]) - np.int32(decode_all(path)[:-1]))
  assert other.mean() > 2 * difference.mean()


@pytest.mark.parametrize(
  'name, codec, options',
  [
    ('v.avi', 'mpeg4', {'bf': '2'}),  # The format of UCF101 and HMDB51.
    ('v.webm', 'libvpx', {}),  # The format of Something-Something V2.
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
  (tmp_path / 'v.mp4').write_bytes(encode(clip, rate=8).getbuffer())
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
