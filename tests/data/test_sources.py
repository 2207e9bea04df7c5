"""Lists, folders and what can be wrong with them."""

import pytest

from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.data.video import VideoError
from vmae_jax.errors import UserError


def _list(tmp_path, text, name='list.csv'):
  path = tmp_path / name
  path.write_text(text)
  return str(path)


@pytest.mark.parametrize(
  'line, name, label, start, count',
  [
    ('a.mp4 7', 'a.mp4', 7, 0, -1),
    ('a.mp4 -1', 'a.mp4', -1, 0, -1),
    ('a.mp4,7', 'a.mp4', 7, 0, -1),
    ('a.mp4, 7', 'a.mp4', 7, 0, -1),
    ('a.mp4\t7', 'a.mp4', 7, 0, -1),
    ('a.mp4', 'a.mp4', -1, 0, -1),
    ('a.mp4 0 -1', 'a.mp4', -1, 0, -1),
    ('a.mp4 10 64 3', 'a.mp4', 3, 10, 64),
    ('a.mp4,10,64,3', 'a.mp4', 3, 10, 64),
    ('my clip 2, part 3.mp4 7', 'my clip 2, part 3.mp4', 7, 0, -1),
    ('my clip 2.mp4', 'my clip 2.mp4', -1, 0, -1),
    ('"clip 12" 7', 'clip 12', 7, 0, -1),
    ('"a, b.mp4",7', 'a, b.mp4', 7, 0, -1),
    ('  a.mp4 7  ', 'a.mp4', 7, 0, -1),
  ],
)
def test_forms_of_a_line(tmp_path, line, name, label, start, count):
  source = open_source(_list(tmp_path, f'# a comment\n\n{line}\n{line}\n'))
  assert len(source) == 2
  (entry, _) = source.entries
  assert entry.path == source.name(0) == str(tmp_path / name)
  assert (entry.label, entry.start, entry.count) == (label, start, count)
  assert source.label(0) == label and source.class_names == ()
  # The line can be made again from the path and its tail.
  quote = '"' if entry.tail.startswith('"') else ''
  assert f'{quote}{name}{entry.tail}' == line.strip()


def test_root_and_absolute_paths(tmp_path):
  path = _list(tmp_path, '/data/a.mp4 0\nb/c.mp4 1\n')
  source = open_source(path, root='/videos')
  assert [source.name(i) for i in range(2)] == ['/data/a.mp4', '/videos/b/c.mp4']


def test_class_names(tmp_path):
  path = _list(tmp_path, 'a.mp4 0\nb.mp4 1\n')
  _list(tmp_path, 'run\nwalk\n', 'classes.txt')
  assert open_source(path).class_names == ('run', 'walk')
  _list(tmp_path, 'run\n', 'classes.txt')
  with pytest.raises(UserError, match='label 1, but .* only 1 classes'):
    open_source(path)


@pytest.mark.parametrize(
  'text, message',
  [
    ('', 'names no video'),
    ('# nothing\n\n', 'names no video'),
    ('a.mp4 1\nb.mp4\n', 'line 2: 0 numbers after the path, but 1'),
    ('a.mp4 1\nb.mp4 0 -1 2\n', 'line 2: 3 numbers after the path, but 1'),
    ('a.mp4 -2\n', 'line 1: .* is none of'),
    ('a.mp4 0 0 1\n', 'line 1: .* is none of'),
    ('a.mp4 -1 4 1\n', 'line 1: .* is none of'),
    ('"a.mp4 1\n', 'line 1: .* is none of'),
  ],
)
def test_mistakes_in_a_list(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as e:
    open_source(_list(tmp_path, text))
  assert '\n' not in str(e.value)


def test_no_such_thing(tmp_path):
  with pytest.raises(UserError, match='no list or folder'):
    open_source(str(tmp_path / 'none.csv'))
  (tmp_path / 'binary.csv').write_bytes(b'\xff\xfe\x00\x80')
  with pytest.raises(UserError, match='cannot read the list'):
    open_source(str(tmp_path / 'binary.csv'))
  with pytest.raises(UserError, match='synthetic:train, synthetic:val'):
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


def test_folder_without_videos(tmp_path):
  (tmp_path / 'notes.txt').touch()
  with pytest.raises(UserError, match='no video in the folder'):
    open_source(str(tmp_path))


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


def test_missing_files(tmp_path):
  path = _list(tmp_path, ''.join(f'{i}.mp4 0\n' for i in range(10)))
  for i in range(2, 10):
    (tmp_path / f'{i}.mp4').touch()
  source = open_source(path)
  check_paths(source, 0.2)
  with pytest.raises(UserError, match='2 of 10 files do not exist.*0.mp4.*1.mp4'):
    check_paths(source, 0.1)
  nothing = open_source(path, root='/nowhere')
  with pytest.raises(UserError, match=r'10 of 10 .*/nowhere/4.mp4, \.\.\.') as e:
    check_paths(nothing, 1.0)
  assert '5.mp4' not in str(e.value)
  check_paths(open_source('synthetic:val'), 0.0)
