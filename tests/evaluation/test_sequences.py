"""DAVIS's folders, folders of frames, videos and masks."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.errors import UserError
from vmae_jax.evaluation.sequences import (
  first_mask,
  open_davis,
  open_frames,
  palette,
  read_mask,
  write_mask,
)


def write_davis(root, *, split='val', names=('cow', 'dog'), frames=4, size=(24, 32)):
  """A tiny data set in DAVIS's layout: squares on noise that move a pixel a frame."""
  rng = np.random.default_rng(0)
  lists = root / 'ImageSets' / '2017'
  lists.mkdir(parents=True, exist_ok=True)
  (lists / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
  for name in names:
    pictures, masks = (root / kind / '480p' / name for kind in ('JPEGImages', 'Annotations'))
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    background = rng.integers(60, 90, (*size, 3))
    for t in range(frames):
      frame, mask = background.copy(), np.zeros(size, np.uint8)
      for i, (y, colour) in enumerate([(2, (220, 40, 40)), (14, (40, 40, 230))], 1):
        place = np.s_[y : y + 8, 4 + t : 12 + t]
        frame[place], mask[place] = colour, i
      Image.fromarray(frame.astype(np.uint8)).save(pictures / f'{t:05d}.jpg', quality=95)
      write_mask(masks / f'{t:05d}.png', mask)
  return root


def test_davis(tmp_path):
  cow, dog = open_davis(write_davis(tmp_path), 'val')
  assert (cow.name, dog.name) == ('cow', 'dog')
  assert cow.frames == ('00000', '00001', '00002', '00003')
  assert cow.read([3, 0]).shape == (2, 24, 32, 3) and cow.read([1]).dtype == np.uint8
  assert cow.mask == cow.truth[0] and len(cow.truth) == 4
  assert first_mask(dog.mask).max() == 2


def test_davis_without_ground_truth(tmp_path):
  write_davis(tmp_path)
  for path in (tmp_path / 'Annotations/480p/dog').glob('0000[123].png'):
    path.unlink()
  cow, dog = open_davis(tmp_path, 'val')
  assert cow.truth and not dog.truth and dog.mask.name == '00000.png'


def lose(path):
  return lambda root: (root / path).unlink()


@pytest.mark.parametrize(
  'damage, parts',
  [
    (lose('ImageSets/2017/val.txt'), ['val.txt does not exist', 'splits there: none']),
    (lambda root: (root / 'ImageSets/2017/val.txt').write_text('\n'), ['names no sequence']),
    (lambda root: shutil.rmtree(root / 'JPEGImages/480p/dog'), ['no folder', 'dog']),
    (lose('JPEGImages/480p/dog/00001.jpg'), ['missing between 0 and 2']),
    (lose('JPEGImages/480p/dog/00003.jpg'), ['00003.png has no frame', 'missing']),
    (lose('Annotations/480p/dog/00000.png'), ['00000.png does not exist', 'first frame']),
    (lose('Annotations/480p/dog/00002.png'), ['00002.png does not exist, but 3']),
  ],
)
def test_davis_damaged(damage, parts, tmp_path):
  damage(write_davis(tmp_path))
  with pytest.raises(UserError) as error:
    open_davis(tmp_path, 'val')
  assert [part for part in parts if part not in str(error.value)] == [], error.value


def test_another_split(tmp_path):
  with pytest.raises(UserError, match='train.txt does not exist .splits there: val'):
    open_davis(write_davis(tmp_path), 'train')


def test_folders_that_cannot_be_used(tmp_path):
  for name in ('1.png', '1.jpg'):
    Image.new('RGB', (4, 4)).save(tmp_path / name)
  with pytest.raises(UserError, match='several pictures are called 1'):
    open_frames(str(tmp_path), 'mask.png')
  (tmp_path / '1.jpg').unlink()
  (tmp_path / '2.png').write_bytes(b'x')
  clip = open_frames(str(tmp_path), 'mask.png')
  with pytest.raises(UserError, match='cannot read the frame .*2.png'):
    clip.read([1])
  Image.new('RGB', (4, 6)).save(tmp_path / '2.png')
  with pytest.raises(UserError, match='not all of one size'):
    clip.read([0, 1])


def test_video(tmp_path):
  path = write_video(tmp_path / 'a clip.mp4', frames=70)
  clip = open_frames(path, 'mask.png')
  assert clip.name == 'a clip' and clip.mask == pathlib.Path('mask.png') and not clip.truth
  assert len(clip.frames) == 70 and clip.frames[69] == '00069'
  wanted = [69, 0, 31, 32, 33]
  np.testing.assert_array_equal(clip.read(wanted), np.stack(decode_all(path))[wanted])


def test_no_video(tmp_path):
  with pytest.raises(UserError, match='nothing: file is missing'):
    open_frames(str(tmp_path / 'nothing'), 'mask.png')


def test_palette():
  assert palette()[[0, 1, 2, 3, 8, 255]].tolist() == [
    [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0], [224, 224, 192]
  ]  # fmt: skip


def test_masks(tmp_path):
  path = tmp_path / 'mask.png'
  mask = np.array([[0, 1, 2], [255, 0, 7]], np.uint8)
  write_mask(path, mask)
  with Image.open(path) as image:
    assert image.mode == 'P' and image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
  np.testing.assert_array_equal(read_mask(path), mask)
  np.testing.assert_array_equal(first_mask(path), [[0, 1, 2], [0, 0, 7]])


def test_black_and_white_is_one_object(tmp_path):
  mask = np.array([[0, 255], [255, 0]], np.uint8)
  for mode in ('L', '1'):
    Image.fromarray(mask).convert(mode).save(tmp_path / 'mask.png')
    np.testing.assert_array_equal(first_mask(tmp_path / 'mask.png'), mask // 255)


@pytest.mark.parametrize(
  'image, part',
  [
    (Image.new('RGB', (4, 4)), 'holds colours .mode RGB'),
    (Image.new('L', (4, 4)), 'has no object'),
    (Image.fromarray(np.arange(256, dtype=np.uint8)[None]), 'objects up to 254, at most 32'),
  ],
)
def test_masks_that_cannot_be_used(image, part, tmp_path):
  image.save(tmp_path / 'mask.png')
  with pytest.raises(UserError, match=part):
    first_mask(tmp_path / 'mask.png')


def test_no_mask(tmp_path):
  with pytest.raises(UserError, match='cannot read the mask .*nothing.png: No such file'):
    read_mask(tmp_path / 'nothing.png')
