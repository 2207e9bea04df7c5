"""Files that are damaged, or odd, raise or give whole frames, and nothing else."""

import io
import time

import av
import numpy as np
import pytest

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data.video import Video
from vmae_jax.errors import VideoError


def test_a_title_that_is_no_utf8(tmp_path):
  path = write_video(tmp_path / 'a.mp4', frames=3, title='TITLETITLE')
  data = (tmp_path / 'a.mp4').read_bytes()
  assert data.count(b'TITLETITLE') == 1
  (tmp_path / 'a.mp4').write_bytes(data.replace(b'TITLETITLE', b'TIT\xff\xfe\xc3TITL'))
  with Video(path) as video:
    assert video.read([0, 2]).shape == (2, 48, 64, 3)


@pytest.mark.parametrize(
  ('name', 'reason'),
  [
    ('v.mp4', r'truncated: \d+ of 30 frames'),
    ('v.mkv', r'truncated: \d+ of \d+ bytes'),
    ('v.webm', r'truncated: \d+ of \d+ bytes'),
    ('v.avi', r'truncated: \d+ of \d+ bytes'),
  ],
)
def test_truncated(tmp_path, name, reason):
  path = write_video(
    tmp_path / name,
    codec='libvpx' if name == 'v.webm' else 'libx264',
    container_options=dict(movflags='faststart') if name == 'v.mp4' else {},
  )
  data = (tmp_path / name).read_bytes()
  Video(io.BytesIO(data)).close()
  (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
  for file in (path, io.BytesIO(data[: len(data) * 2 // 3])):
    with pytest.raises(VideoError, match=reason):
      Video(file)


@pytest.mark.parametrize('b_frames', ['0', '3'])
def test_frames_predicted_from_a_damaged_one(tmp_path, b_frames):
  """They bear no mark of their own, whether shown after it or before: none of them may be read."""
  options = dict(g='15', bf=b_frames, b_strategy='0')
  path = write_video(tmp_path / 'v.mp4', height=96, width=128, options=options)
  want = decode_all(path)
  with av.open(path) as container:
    packets = [packet for packet in container.demux(video=0) if packet.size]
  hit = 4 if b_frames == '0' else 5  # A frame that others are predicted from.
  start, size = packets[hit].pos, packets[hit].size
  data = bytearray((tmp_path / 'v.mp4').read_bytes())
  data[start + size // 2 : start + size // 2 + 40] = bytes(range(40))
  (tmp_path / 'v.mp4').write_bytes(data)
  refused = 0
  for i in range(30):
    with Video(path) as video:
      try:
        got = video.read([i])[0]
      except VideoError as e:
        assert 'damaged' in str(e) or 'Invalid data' in str(e)
        refused += 1
      else:
        np.testing.assert_array_equal(got, want[i])
  assert 5 < refused <= 15
  with Video(path) as video, pytest.raises(VideoError):
    video.check()


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
    assert video.check() == []
  data = bytearray((tmp_path / 'v.mp4').read_bytes())
  middle = data.index(b'mdat') + 1500
  data[middle : middle + 400] = bytes(400)
  (tmp_path / 'v.mp4').write_bytes(data)
  with Video(path) as video, pytest.raises(VideoError):
    video.check()
