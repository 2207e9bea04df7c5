"""DAVIS, from its folders to lists and shards."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.data.shards_on_disk import at_once
from tests.evaluation.test_sequences import lose, write_davis
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.frame_folder import FrameFolder
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import Entry, FileSource, check_paths, open_source
from vmae_jax.errors import UserError
from vmae_jax.evaluation.sequences import write_mask
from vmae_jax.prepare import __main__ as prepare
from vmae_jax.prepare import prepare_shards
from vmae_jax.prepare.davis import davis2017
from vmae_jax.prepare.layouts import Tree


@pytest.fixture
def davis(tmp_path):
  """Two sequences to train on and two to test, in a folder as the archive makes it."""
  write_davis(tmp_path / 'DAVIS', split='train', names=('bear', 'boat'), frames=5)
  return write_davis(tmp_path / 'DAVIS', names=('cow', 'dog'), frames=4)


def main(*arguments):
  prepare.main(['prepare', 'davis2017', *map(str, arguments)])


def test_lists(davis, tmp_path, capsys):
  main(tmp_path, f'--out={tmp_path}/out')
  output = capsys.readouterr().out
  assert 'train: 2 videos (the whole data set has 60); 10 frames, 4 objects' in output
  assert 'val: 2 videos (the whole data set has 30); 8 frames, 4 objects' in output
  assert not (tmp_path / 'out/damaged.txt').exists()
  source = open_source(f'{tmp_path}/out/train.txt')
  check_paths(source, 0.0)
  assert [source.name(i) for i in range(2)] == [
    f'{davis}/JPEGImages/480p/bear/',
    f'{davis}/JPEGImages/480p/boat/',
  ]
  assert [source.label(i) for i in range(2)] == [-1, -1]
  clips = ClipSampler(frames=4, size=16, stride=1)(source, epoch=0, sample=1)
  assert clips['video'].shape == (1, 4, 16, 16, 3) and not clips['replaced']


def test_shards(davis, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(prepare_shards, 'run_all', at_once)
  lose('JPEGImages/480p/dog/00003.jpg')(davis)
  for _ in range(2):
    main(davis, f'--out={tmp_path}/out', '--shards', '--short-side=16', '--gop=2')
    assert '1 failed, such as dog (truncated: 1 masks have no frame' in capsys.readouterr().out
  train, val = (ShardSource(f'{tmp_path}/out/{name}') for name in ('train', 'val'))
  assert [header.id for header in train.headers] == ['bear', 'boat']
  assert (len(val), train.label(0), train.headers[0].rate) == (1, -1, 24.0)
  with train.open(1) as video:
    assert (video.num_frames, video.rate, video.height) == (5, 24.0, 16)
  (failure,) = json.loads((tmp_path / 'out/val/manifest.json').read_text())['failures']
  assert failure['id'] == 'dog' and 'such as 00003.png' in failure['reason']


def test_in_a_bucket(davis, memory):
  memory.put(str(davis), '/bucket/DAVIS', recursive=True)
  memory.rm('/bucket/DAVIS/JPEGImages/480p/dog/00003.jpg')
  layout = davis2017(Tree('memory://bucket/DAVIS'))
  assert layout.splits['train'].about == '10 frames, 4 objects'
  cow, dog = layout.splits['val'].videos
  assert cow.path == 'memory://bucket/DAVIS/JPEGImages/480p/cow/' and 'truncated' in dog.damage
  source = FileSource((Entry(cow.path), Entry('memory://bucket/nowhere/')))
  check_paths(source, 0.5)
  with pytest.raises(UserError, match='1 of 2 files do not exist'):
    check_paths(source, 0.0)
  with source.open(0) as video, FrameFolder(davis / 'JPEGImages/480p/cow') as here:
    np.testing.assert_array_equal(video.read([0, 3]), here.read([0, 3]))


def repaint(path, image):
  return lambda root: image.save(root / path)


def cut(path):
  return lambda root: (root / path).write_bytes((root / path).read_bytes()[:-40])


GREY = Image.fromarray(np.full((24, 32), 200, np.uint8))


@pytest.mark.parametrize(
  ('damage', 'reason'),
  [
    (lose('JPEGImages/480p/dog/00001.jpg'), 'frames are missing between 0 and 2'),
    (lose('JPEGImages/480p/dog/00003.jpg'), 'truncated: 1 masks have no frame, such as 00003.png'),
    (lose('Annotations/480p/dog/00000.png'), 'there is no mask 00000.png, of the first frame'),
    (lose('Annotations/480p/dog/00002.png'), '4 frames, but 3 masks: there is no 00002.png'),
    (cut('JPEGImages/480p/dog/00003.jpg'), 'cannot read the frame 00003.jpg: '),
    (cut('Annotations/480p/dog/00003.png'), 'cannot read the mask 00003.png: '),
    (repaint('JPEGImages/480p/dog/00003.jpg', Image.new('RGB', (4, 4))), 'not all of one size'),
    (repaint('Annotations/480p/dog/00003.png', Image.new('P', (4, 6))), '00003.png is 4 x 6, its'),
    (repaint('Annotations/480p/dog/00003.png', Image.new('RGB', (32, 24))), 'colours (mode RGB)'),
    (repaint('Annotations/480p/dog/00003.png', GREY), '00003.png has shades of grey'),
    (repaint('Annotations/480p/dog/00000.png', Image.new('P', (32, 24))), 'has no object'),
  ],
)
def test_damaged_sequences_are_reported_and_left_out(davis, tmp_path, capsys, damage, reason):
  damage(davis)
  main(davis, f'--out={tmp_path}/out')
  line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith('val:'))
  assert '1 damaged, such as dog (' in line and reason in line
  assert line.endswith('; 4 frames, 2 objects')
  (cow,) = (tmp_path / 'out/val.txt').read_text().splitlines()
  assert cow == f'{davis}/JPEGImages/480p/cow/ -1'
  (told,) = (tmp_path / 'out/damaged.txt').read_text().splitlines()
  assert told.startswith('val dog: ') and reason in told


def test_a_sequence_that_is_not_there(davis, tmp_path, capsys):
  shutil.rmtree(davis / 'JPEGImages/480p/dog')
  main(davis, f'--out={tmp_path}/out')
  assert 'val: 2 videos' in (output := capsys.readouterr().out)
  assert '1 of them are missing, such as dog' in output
  assert (tmp_path / 'out/missing.txt').read_text() == 'val dog\n'


def test_masks_of_first_frames_alone(davis):
  """As test-dev has them."""
  os.rename(davis / 'ImageSets/2017/val.txt', davis / 'ImageSets/2017/test-dev.txt')
  (davis / 'ImageSets/2017/train.txt').unlink()
  for name in ('cow', 'dog'):
    for i in (1, 2, 3):
      lose(f'Annotations/480p/{name}/0000{i}.png')(davis)
  layout = davis2017(Tree(davis))
  assert list(layout.splits) == ['test-dev']
  assert [(v.id, v.damage) for v in layout.splits['test-dev'].videos] == [('cow', ''), ('dog', '')]
  assert layout.splits['test-dev'].about == '8 frames, 4 objects'


def test_void_pixels_are_no_object(davis):
  mask = np.zeros((24, 32), np.uint8)
  mask[0], mask[1:9, 4:12], mask[20:] = 255, 1, 7
  for i in range(4):
    write_mask(davis / f'Annotations/480p/dog/0000{i}.png', mask)
  assert davis2017(Tree(davis)).splits['val'].about == '8 frames, 4 objects'


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lose('ImageSets/2017/val.txt'), '/ImageSets/2017/val.txt does not exist, but train.txt does'),
    (lambda root: shutil.rmtree(root / 'ImageSets'), 'has none of the lists train, val'),
    (lambda root: (root / 'ImageSets/2017/val.txt').write_text('\n'), 'names no sequence'),
    (lambda root: shutil.copytree(root, root / 'copy'), 'both have the split train'),
    (lambda root: shutil.rmtree(root / 'JPEGImages'), 'none of the videos is in'),
  ],
)
def test_mistakes(davis, tmp_path, damage, message):
  damage(davis)
  with pytest.raises(UserError, match=message) as e:
    main(davis, f'--out={tmp_path}/out')
  assert '\n' not in str(e.value) and not (tmp_path / 'out').exists()


def test_there_is_nothing_to_copy(davis, tmp_path):
  with pytest.raises(UserError, match='--copy'):
    main(davis, f'--out={tmp_path}/out', '--shards', '--copy')
