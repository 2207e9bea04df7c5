"""Folders of frames, read as videos."""

import io

import numpy as np
import pytest
from PIL import Image

from vmae_jax.data.frame_folder import FrameFolder, order_frames
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError
from vmae_jax.prepare.encoding import Encoding, encode_video
from vmae_jax.prepare.examine import examine


def write_frames(folder, *, frames=6, size=(36, 48), suffix='png'):
  """Moving gradients; returns them and the folder as lists name it."""
  folder.mkdir()
  y, x = np.mgrid[: size[0], : size[1]]
  images = [np.stack([x * 2 + t * 9, y * 3 + t * 5, x + y + t], -1) for t in range(frames)]
  images = np.stack(images).astype(np.uint8)
  for t, image in enumerate(images):
    Image.fromarray(image).save(folder / f'{t:05d}.{suffix}')
  return images, f'{folder}/'


def test_reads_as_a_video(tmp_path):
  images, path = write_frames(tmp_path / 'bear')
  with FrameFolder(path) as video:
    assert (video.num_frames, video.rate, video.codec) == (6, 24.0, 'png')
    assert (video.height, video.width) == (36, 48)
    np.testing.assert_array_equal(video.read([5, 0, 5]), images[[5, 0, 5]])
    for i in (-1, 6):
      with pytest.raises(IndexError):
        video.read([i])


def test_pictures_as_they_are_shown(tmp_path):
  """Turned as a camera says (orientation 6: by 90 degrees clockwise); 16 bits a pixel."""
  exif = Image.Exif()
  exif[0x0112] = 6
  image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
  Image.fromarray(image).save(tmp_path / 'turned.png', exif=exif)
  read = FrameFolder(f'{tmp_path}/turned.png').read([0])[0]
  np.testing.assert_array_equal(read, np.rot90(image, -1))
  deep = np.array([[0, 255, 256, 30_000, 65_535]], np.uint16)
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  read = FrameFolder(f'{tmp_path}/deep.png').read([0])[0]
  assert read.tolist() == [[[x] * 3 for x in (0, 0, 1, 117, 255)]]


def test_in_a_list(tmp_path):
  images, path = write_frames(tmp_path / 'a bear')
  (tmp_path / 'list.txt').write_text('a bear/ 2 3 0\nnowhere/ 0 -1 0\n')
  source = open_source(str(tmp_path / 'list.txt'))
  check_paths(source, 0.5)
  with pytest.raises(UserError, match='1 of 2 files do not exist.*nowhere/'):
    check_paths(source, 0.4)
  with source.open(0) as video:
    np.testing.assert_array_equal(video.read(range(3)), images[2:5])
  with pytest.raises(VideoError, match='cannot read the folder: No such file'):
    source.open(1)
  found = examine(path)
  assert (found.reason, found.frames, found.rate) == ('', 6, 24.0)
  assert (found.width, found.height, found.codec) == (48, 36, 'png')
  assert found.size == sum(file.stat().st_size for file in (tmp_path / 'a bear').iterdir())


def test_in_a_list_of_raw_frames(tmp_path):
  """`folder total label`: the total is no start, and the label no count."""
  images, _ = write_frames(tmp_path / 'bear')
  write_frames(tmp_path / 'dog', frames=5)
  (tmp_path / 'list.txt').write_text('bear 6 0\ndog 4 1\n')
  source = open_source(str(tmp_path / 'list.txt'))
  check_paths(source, 0.0)
  assert [source.label(i) for i in range(2)] == [0, 1]
  with source.open(0) as video:
    np.testing.assert_array_equal(video.read(range(6)), images)
  with source.open(1) as video:
    assert video.num_frames == 4


def test_encoded(tmp_path):
  images, path = write_frames(tmp_path / 'bear', size=(64, 96), suffix='jpg')
  encoded = encode_video(path, Encoding(short_side=32, gop=4))
  assert (encoded.frames, encoded.rate, encoded.width, encoded.height) == (6, 24.0, 48, 32)
  assert encode_video(path, Encoding(short_side=32, gop=4)).data == encoded.data
  with Video(io.BytesIO(encoded.data)) as video, FrameFolder(path) as frames:
    assert video.rate == 24.0
    read = video.read(range(6)).astype(int)
    wanted = frames.read(range(6)).reshape(6, 32, 2, 48, 2, 3).mean((2, 4))
  assert np.abs(read - wanted).mean() < 4
  # Each is the frame that it was, and no neighbour of it.
  away = np.abs(read[:, None] - wanted[None]).mean((2, 3, 4))
  assert (away.argmin(1) == range(6)).all()
  with pytest.raises(VideoError, match='no file whose bytes'):
    encode_video(path, None)


def test_order(tmp_path):
  for name in ('f10.png', 'f9.PNG', 'f1.jpg', 'notes.txt', '.f2.png'):
    Image.new('RGB', (4, 4)).save(tmp_path / name, 'PNG')
  assert FrameFolder(tmp_path).names == ['f1.jpg', 'f9.PNG', 'f10.png']


def test_digits_that_are_no_numbers():
  assert order_frames(['²1.jpg', '²0.jpg', '²3.jpg']) == ['²0.jpg', '²1.jpg', '²3.jpg']


def test_some_apart(tmp_path):
  for i in (0, 5, 10):
    Image.new('RGB', (4, 4)).save(tmp_path / f'{i:05d}.png')
  assert FrameFolder(tmp_path).num_frames == 3
  Image.new('RGB', (4, 4)).save(tmp_path / '00020.png')
  with pytest.raises(VideoError, match='missing between 10 and 20 .others are 5 apart'):
    FrameFolder(tmp_path)


def test_what_cannot_be_used(tmp_path):
  with pytest.raises(VideoError, match='no frame in the folder'):
    FrameFolder(tmp_path)
  for name in ('1.png', '1.jpg'):
    Image.new('RGB', (4, 4)).save(tmp_path / name)
  with pytest.raises(VideoError, match='several pictures are called 1'):
    FrameFolder(tmp_path)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda file: file.write_bytes(b'x'), 'cannot read the frame 00002.jpg: cannot identify'),
    (lambda file: file.write_bytes(file.read_bytes()[:-40]), 'frame 00002.jpg: .*truncated'),
    (lambda file: Image.new('RGB', (4, 6)).save(file), 'not all of one size'),
  ],
)
def test_damaged_frames(tmp_path, damage, message):
  _, path = write_frames(tmp_path / 'bear', suffix='jpg')
  damage(tmp_path / 'bear/00002.jpg')
  for use in (lambda: FrameFolder(path).read([1, 2]), lambda: encode_video(path, Encoding())):
    with pytest.raises(VideoError, match=message) as e:
      use()
    assert '\n' not in str(e.value) and ' at 0x' not in str(e.value)
  assert examine(path).reason
