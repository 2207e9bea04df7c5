"""Folders, windows and what can be wrong with them (lists: test_lists)."""

import errno
import io
import os

import pytest

from tests.data.clips_on_disk import decode_all, write_video
from tests.data.shards_on_disk import main as prepare
from vmae_jax import storage
from vmae_jax.check_data import check
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError, VideoError, may_pass
from vmae_jax.prepare.layouts import Tree


def _list(tmp_path, text, name='list.csv'):
  path = tmp_path / name
  path.write_text(text)
  return str(path)


def test_no_such_thing(tmp_path):
  with pytest.raises(UserError, match='no list or folder'):
    open_source(str(tmp_path / 'none.csv'))
  (tmp_path / 'binary.csv').write_bytes(b'\xff\xfe\x00\x80')
  with pytest.raises(UserError, match='cannot read .*binary.csv: '):
    open_source(str(tmp_path / 'binary.csv'))
  with pytest.raises(UserError, match='synthetic:train and synthetic:val'):
    open_source('synthetic:test')


def test_synthetic():
  source = open_source('synthetic:val')
  with source.open(0) as video:
    assert video.read([0]).shape == (1, video.height, video.width, 3)


def test_folder_of_classes(tmp_path):
  for name in ('b/2.MP4', 'b/1.avi', 'a/deep/3.webm', 'a/notes.txt', 'b/._1.avi', '0.mkv'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  source = open_source(str(tmp_path))
  names = [source.name(i)[len(str(tmp_path)) + 1 :] for i in range(len(source))]
  assert names == ['0.mkv', 'a/deep/3.webm', 'b/1.avi', 'b/2.MP4']
  assert [source.label(i) for i in range(4)] == [-1, 0, 1, 1]
  assert source.class_names == ('a', 'b')


def _tree(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
  return str(folder)


def test_hidden_folders_are_no_classes(tmp_path):
  names = ['b/1.mp4', '.Trash-1000/1.mp4', '.ipynb_checkpoints/1.mp4', 'b/.old/1.mp4', 'a/1.mp4']
  source = open_source(_tree(tmp_path, *names))
  assert source.class_names == ('a', 'b') and len(source) == 2


def test_hidden_folders_of_a_bucket_are_no_classes(memory):
  for name in ('b/1.mp4', '.Trash-1000/1.mp4', 'b/.old/1.mp4', 'b/.2.mp4', 'a/1.mp4'):
    memory.pipe(f'/bucket/.hidden/{name}', b'')
  source = open_source('memory://bucket/.hidden')
  assert source.class_names == ('a', 'b') and len(source) == 2


def test_links(tmp_path):
  """A link back ends; one to another folder is a class of its own, as ever."""
  _tree(tmp_path / 'data', 'a/1.mp4', 'b/2.mp4')
  _tree(tmp_path / 'else', '3.mp4')
  for name, target in (
    ('data', tmp_path / 'data'),  # What `ln -s data link` makes, called twice.
    ('self', '.'),
    ('a/up', '..'),
    ('b/a', '../a'),
    ('c', tmp_path / 'else'),
  ):
    (tmp_path / 'data' / name).symlink_to(target)
  (tmp_path / 'link').symlink_to(tmp_path / 'data')
  source = open_source(str(tmp_path / 'link'))
  names = [source.name(i).removeprefix(f'{tmp_path}/link/') for i in range(len(source))]
  assert names == ['a/1.mp4', 'b/2.mp4', 'b/a/1.mp4', 'c/3.mp4']
  assert source.class_names == ('a', 'b', 'c')


def test_a_folder_that_cannot_be_read_is_no_lost_class(tmp_path, monkeypatch):
  _tree(tmp_path, 'a/1.mp4', 'b/2.mp4')
  scandir = os.scandir

  def failing(path):
    if str(path).endswith('/a'):
      raise PermissionError(errno.EACCES, 'Permission denied', path)
    return scandir(path)

  with monkeypatch.context() as patch:  # Tests may run as root, who may read everything.
    patch.setattr(os, 'scandir', failing)
    for function in (open_source, Tree):
      with pytest.raises(UserError, match=f'cannot read .*{tmp_path}/a: Permission denied'):
        function(str(tmp_path))
  (tmp_path / 'c').symlink_to('/nowhere')
  with pytest.raises(UserError, match=f'cannot read {tmp_path}/c: a link that leads nowhere'):
    open_source(str(tmp_path))


@pytest.mark.parametrize(
  'folders, splits',
  [
    ('train val', 'train, val'),
    ('Train Validation other', 'Train, Validation'),
    ('train_256 val_256', 'train_256, val_256'),
    ('videos_test videos_train', 'videos_test, videos_train'),
    ('train', 'train'),
    ('car plane train', ''),
    ('train_ride test_tube', ''),
  ],
)
def test_splits_are_no_classes(tmp_path, memory, folders, splits):
  names = [f'{folder}/c{i}/1.mp4' for folder in folders.split() for i in (0, 1)]
  for name in names:
    memory.pipe(f'/bucket/data/{name}', b'')
  for spec in (_tree(tmp_path / 'data', *names), 'memory://bucket/data'):
    if splits:
      first = splits.split(',')[0]
      with pytest.raises(
        UserError, match=f'has the splits {splits}: name one, such as {spec}/{first}'
      ):
        open_source(spec)
      assert open_source(f'{spec}/{first}').class_names == ('c0', 'c1')
    else:
      assert open_source(spec).class_names == tuple(sorted(folders.split()))


def test_folders_of_a_bucket_are_listed_once(memory, monkeypatch):
  """Whatever lies beside the videos."""
  for i in range(100):
    memory.pipe(f'/bucket/{i}.mp4', b'')
    memory.pipe(f'/bucket/{i}.json', b'{}')
  asked = []
  attempt = storage._attempt
  monkeypatch.setattr(storage, '_attempt', lambda *args: (asked.append(args), attempt(*args))[1])
  assert len(open_source('memory://bucket')) == 100
  assert len(asked) == 4  # What it is, whether it holds shards (two), and what lies below it.


@pytest.mark.parametrize(
  'name, why',
  [
    (b'caf\xe9.mp4', 'is not in UTF-8'),
    (b'two\nlines.mp4', 'contains a line break'),
    (b'a\r.mp4', 'a line'),
  ],
)
def test_names_that_no_list_can_hold(tmp_path, name, why):
  """Told at the start by all who open data, as tables at the end cannot hold them, too."""
  folder = _tree(tmp_path, 'c0/1.mp4', f'c0/{os.fsdecode(name)}')
  path = f'{folder}/c0/{os.fsdecode(name)}'
  for opened in (
    lambda: open_source(folder),
    lambda: open_source(path),
    lambda: check(folder, str(tmp_path / 'out')),
    lambda: prepare('folder', folder, f'--out={tmp_path}/lists'),
  ):
    with pytest.raises(UserError, match=why) as e:
      opened()
    assert '\n' not in str(e.value) and str(e.value).encode()
  assert not (tmp_path / 'out').exists()


def test_the_home_folder(tmp_path, monkeypatch):
  """No shell replaces it in --config.data.train=~/videos."""
  _tree(tmp_path, 'videos/1.mp4')
  (tmp_path / 'list.txt').write_text('1.mp4 0\n')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert open_source('~/videos').name(0) == f'{tmp_path}/videos/1.mp4'
  assert open_source('~/list.txt', root='~/videos').name(0) == f'{tmp_path}/videos/1.mp4'


def test_a_name_that_begins_as_a_protocol(tmp_path, monkeypatch):
  write_video(tmp_path / '12:30.mp4', frames=4)
  monkeypatch.chdir(tmp_path)
  with open_source('12:30.mp4').open(0) as video:
    assert video.num_frames == 4


def test_folder_without_videos(tmp_path):
  (tmp_path / 'notes.txt').touch()
  with pytest.raises(UserError, match='no video in the folder'):
    open_source(str(tmp_path))


def test_odd_names_go_through_lists(tmp_path):
  """prepare and check_data write what opens again: all names that a folder holds."""
  write_video(tmp_path / 'v.mp4', frames=4)
  names = [
    '#1.mp4',
    '"q".mp4',
    ' a 12.mp4',
    'b .mp4',
    'c,3.mp4',
    'd\u2028e.mp4',
    'f\x85.mp4',
    'g\\.mp4',
  ]
  names += ['~h.mp4', 'ä.mp4', "i' 0 -1.mp4", 'j.mp4 x/1.mp4', 'k\x0c\t.mp4', '0,l.mp4']
  for name in names:
    (tmp_path / 'videos/c 0' / name).parent.mkdir(parents=True, exist_ok=True)
    os.link(tmp_path / 'v.mp4', tmp_path / 'videos/c 0' / name)
  wanted = open_source(f'{tmp_path}/videos')
  assert len(wanted) == len(names)
  prepare('folder', tmp_path / 'videos', f'--out={tmp_path}/lists')
  check(f'{tmp_path}/lists/train.txt', f'{tmp_path}/checked', workers=1)
  for path in ('lists/train.txt', 'checked/clean.txt'):
    found = open_source(f'{tmp_path}/{path}')
    assert sorted(x[:4] for x in found.entries) == sorted(x[:4] for x in wanted.entries)
    for i in range(len(found)):
      found.open(i).close()


def test_one_video(tmp_path):
  path = write_video(tmp_path / 'v.MP4', frames=5)
  source = open_source(path)
  assert len(source) == 1 and source.name(0) == path and source.label(0) == -1
  with source.open(0) as video:
    assert video.num_frames == 5


def test_a_failing_disk_is_distinguished_from_a_damaged_file(tmp_path, monkeypatch):
  """libav says the same of both."""
  path = write_video(tmp_path / 'a.mp4', frames=20)
  with open(path, 'r+b') as file:
    file.truncate(os.path.getsize(path) * 2 // 3)
  source = open_source(path)
  with pytest.raises(VideoError) as e:
    source.open(0)
  assert not may_pass(e.value)

  class Failing(io.FileIO):
    def read(self, size=-1):
      raise OSError(errno.EIO, 'Input/output error', path)

  monkeypatch.setattr(storage, 'open', lambda name, mode: Failing(name), raising=False)
  with pytest.raises(VideoError, match='Input/output error') as e:
    source.open(0)
  assert may_pass(e.value)


def test_window(tmp_path):
  want = decode_all(write_video(tmp_path / 'v.mp4'))
  path = _list(tmp_path, 'v.mp4 10 8 0\nv.mp4 25 -1 0\nv.mp4 25 99 0\nv.mp4 30 -1 0\n')
  source = open_source(path)
  for i, (start, frames) in enumerate([(10, 8), (25, 5), (25, 5)]):
    with source.open(i) as video:
      assert video.num_frames == frames and (video.height, video.width) == (48, 64)
      assert video.rate == pytest.approx(25)
      for k in (0, frames - 1):
        assert (video.read([k])[0] == want[start + k]).all()
      for k in (-1, frames):
        with pytest.raises(IndexError):
          video.read([k])
  with pytest.raises(VideoError, match='starts at frame 30, the video has 30'):
    source.open(3)
