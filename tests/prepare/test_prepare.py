"""Writing shards: killed at any moment, started again, and the mistakes of users."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import av
import pytest

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import at_once
from tests.prepare.test_layouts import hmdb51_tree, kinetics_tree, ssv2_tree, ucf101_tree
from vmae_jax import lock, storage
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import open_source
from vmae_jax.errors import Unavailable, UserError, VideoError
from vmae_jax.prepare import __main__ as prepare
from vmae_jax.prepare import prepare_shards, staging
from vmae_jax.prepare.encoding import Encoding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.prepare_shards import shard_names, write_shards


class Killed(BaseException):
  """Stands in for a kill."""


def contents(folder: Path) -> dict[str, bytes]:
  """Every file below a folder."""
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def videos(tmp_path):
  """Ten, of which one is broken and one disappears."""
  listed = []
  for i in range(10):
    path = write_video(tmp_path / f'{i}.mp4', frames=3 + i, height=32, width=32)
    listed.append(Listed(f'v{i}', path, i % 3))
  (tmp_path / '4.mp4').write_bytes(b'x')
  (tmp_path / '9.mp4').unlink()
  return listed


def write(videos, out, **options):
  options = {'encoding': Encoding(), 'shard_videos': 3, 'workers': 1, 'seconds': 60.0} | options
  return write_shards(videos, out, about={'split': 'train'}, classes=['a', 'b', 'c'], **options)


@pytest.fixture
def encoded(monkeypatch):
  """Encodes in this process, latest first in pairs; collects what was encoded."""
  names = []

  def run_all(function, tasks, **_):
    tasks = list(tasks)
    for i in range(0, len(tasks), 2):
      for task in reversed(tasks[i : i + 2]):
        names.append(task.video.id)
        yield task, function(task)

  monkeypatch.setattr(prepare_shards, 'run_all', run_all)
  monkeypatch.setattr(prepare_shards, 'PILOT', 1)
  return names


def test_interrupted_anywhere(videos, tmp_path, encoded, monkeypatch):
  """Stops before and after every file that gets its name, and before every video."""
  videos = [*videos[3:6], videos[9]]
  manifest = write(videos, tmp_path / 'whole', shard_videos=3)
  assert manifest['records'] == 2 and len(manifest['failures']) == 2
  assert manifest['failures'][1] == {'id': 'v9', 'reason': 'file is missing'}
  want = contents(tmp_path / 'whole')
  assert sorted(want) == [manifest['index']['name'], 'manifest.json', shard_names(4, 3)[0]]
  replace, stage = os.replace, prepare_shards.stage
  count = stop = 0

  def step():
    nonlocal count
    count += 1
    if count == stop:
      raise Killed

  def slow_replace(source, target):
    step()
    replace(source, target)
    step()

  monkeypatch.setattr(os, 'replace', slow_replace)
  monkeypatch.setattr(prepare_shards, 'stage', lambda task: (step(), stage(task))[1])
  for stop in range(1, 100):
    count = 0
    out, before = tmp_path / f'out{stop}', len(encoded)
    try:
      write(videos, out)
      break
    except Killed:
      stop_at, stop = stop, 0
      write(videos, out)
      stop = stop_at
      assert contents(out) == want, stop
      assert len(encoded) - before <= 4 + 1, stop  # What was in work.
  assert stop > 30  # Every moment had its turn.


def test_complete_shards_are_kept(videos, tmp_path, encoded):
  first = write(videos, tmp_path / 'out')
  before = len(encoded)
  assert write(videos, tmp_path / 'out') == first and len(encoded) == before


def test_what_has_failed_is_done_again(videos, tmp_path, encoded, monkeypatch):
  """Interrupted anywhere, too: what was good is taken out of the shards that are there."""
  first = write(videos, tmp_path / 'out')
  old = contents(tmp_path / 'out')
  write_video(tmp_path / '4.mp4', frames=7, height=32, width=32)
  want = write(videos[:9], tmp_path / 'whole', shard_videos=9)['hash']
  assert write(videos, tmp_path / 'out') == first and contents(tmp_path / 'out') == old
  stop = count = 0

  def slowly(function):
    def call(*arguments):
      nonlocal count
      if not arguments[0].endswith('.lock'):  # Which is let go when all is done.
        count += 1
        if count == stop:
          raise Killed
      function(*arguments)

    return call

  for name in ('replace', 'remove'):
    monkeypatch.setattr(os, name, slowly(getattr(os, name)))
  for stop in range(1, 100):
    out = tmp_path / f'out{stop}'
    shutil.copytree(tmp_path / 'out', out)
    count, before = 0, len(encoded)
    try:
      write(videos, out, retry=True)
      break
    except Killed:
      if (out / 'manifest.json').exists():
        assert len(ShardSource(str(out))) in (8, 9)  # As before, or all is done but to tidy up.
      stop_at, stop = stop, 0
      if stop_at % 2 and not (out / 'manifest.json').exists():
        manifest = write(videos, out)  # Only what was begun.
      manifest = write(videos, out, retry=True)
      stop = stop_at
      assert set(encoded[before:]) <= {'v4', 'v9'} and manifest['hash'] == want
      assert manifest['failures'] == [{'id': 'v9', 'reason': 'file is missing'}]
      source = ShardSource(str(out))
      assert [source.read(i)[0].id for i in range(9)] == [f'v{i}' for i in range(9)]
      assert not (out / '.parts').exists()
  assert stop > 15 and set(encoded[before:]) == {'v4', 'v9'}


def away(monkeypatch, ids):
  """A store that does not give these videos."""
  encode = staging.encode_video

  def encode_some(path, encoding):
    if any(path.endswith(f'/{id}.mp4') for id in ids):
      raise OSError(None, '503', path)
    return encode(path, encoding)

  monkeypatch.setattr(staging, 'encode_video', encode_some)


@pytest.mark.parametrize('shard_videos', [3, 20])
def test_an_outage_is_no_damage(videos, tmp_path, encoded, monkeypatch, shard_videos):
  """What was begun in it is done again by itself, in shards that were packed as well."""
  options = {'shard_videos': shard_videos}
  write(videos, tmp_path / 'whole', **options)
  with monkeypatch.context() as patch:
    away(patch, '01235678')
    with pytest.raises(Unavailable, match=r'4 of 10 .* such as v\d \(503\)') as e:
      write(videos, tmp_path / 'out', **options)
    assert '\n' not in str(e.value) and not (tmp_path / 'out/manifest.json').exists()
  for part in (tmp_path / 'out/.parts').glob('shard-*.json'):
    assert not part.with_suffix('').exists()  # Files of a packed shard would need room twice.
  write(videos, tmp_path / 'out', **options)
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_a_few_that_may_pass(videos, tmp_path, encoded, monkeypatch):
  write(videos, tmp_path / 'whole')
  with monkeypatch.context() as patch:
    away(patch, '06')
    first = write(videos, tmp_path / 'out')
  assert [f['id'] for f in first['failures'] if f.get('may_pass')] == ['v0', 'v6']
  assert first['records'] == 6 and write(videos, tmp_path / 'out') == first
  write(videos, tmp_path / 'out', retry=True)
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_encoded_videos_do_not_pass_through_the_main_process(videos, tmp_path):
  """So those that wait for a slow one need no memory."""
  task = staging.Task(folder=str(tmp_path), place=3, video=videos[0], encoding=None, cut=0.0)
  assert staging.stage(task) == os.path.getsize(videos[0].path)


@pytest.mark.parametrize(
  'cause, may_pass',
  [
    (OSError(5, 'Input/output error'), True),
    (OSError(None, '503, asked 4 times', 'gs://b/v.mp4'), True),
    (TimeoutError(110, 'Connection timed out'), True),
    (FileNotFoundError(2, 'No such file'), False),
    (PermissionError(13, 'Permission denied'), False),
    (OSError('image file is truncated'), False),  # Pillow, of a damaged picture.
    (av.error.InvalidDataError(1094995529, 'Invalid data'), False),
    (av.error.OSError(5, 'Input/output error'), False),  # Of a file that can be read.
    (None, False),
  ],
)
def test_failures_that_may_pass(videos, cause, may_pass, monkeypatch):
  def fails(*_):
    raise OSError(5, 'Input/output error')

  error = VideoError('of some kind')
  error.__cause__ = cause
  assert staging._may_pass(error, videos[0].path) == may_pass
  if isinstance(cause, OSError):
    assert staging._may_pass(cause, videos[0].path) == may_pass
  if isinstance(cause, av.FFmpegError):  # Of a file that cannot be read.
    monkeypatch.setattr(storage, 'open', fails, raising=False)
    assert staging._may_pass(cause, videos[0].path)


def test_other_shards_are_not_overwritten(videos, tmp_path, encoded):
  write(videos, tmp_path / 'out')
  for options in ({'encoding': Encoding(gop=30)}, {'encoding': None}, {'shard_videos': 4}):
    with pytest.raises(UserError, match='holds other shards'):
      write(videos, tmp_path / 'out', **options)
  with pytest.raises(UserError, match='holds other shards'):
    write(videos[1:], tmp_path / 'out')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/notes').touch()
  with pytest.raises(UserError, match='not empty, it has notes'):
    write(videos, tmp_path / 'full')


def test_room_is_checked_first(videos, tmp_path, encoded, monkeypatch):
  usage = namedtuple('usage', 'free')
  size = sum(os.path.getsize(video.path) for video in videos[:9])
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(size))
  with pytest.raises(UserError, match='needs about .* GB more and its disk has'):
    write(videos, tmp_path / 'copies', encoding=None)
  assert not list((tmp_path / 'copies').glob('shard-*'))
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(2 * size))
  write(videos, tmp_path / 'copies', encoding=None)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(100))
  with pytest.raises(UserError, match='needs about'):
    write(videos, tmp_path / 'encoded')


def test_a_full_disk_is_told_and_the_run_goes_on_later(videos, tmp_path, encoded, monkeypatch):
  write(videos, tmp_path / 'whole')

  def full(*_):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(staging, 'write_shard', full)
    with pytest.raises(Unavailable, match='No space left on device.*goes on from here'):
      write(videos, tmp_path / 'out')
  write(videos, tmp_path / 'out')
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_one_writer_a_folder(videos, tmp_path, encoded):
  (tmp_path / 'out').mkdir()
  with lock.held(tmp_path / 'out'):
    with pytest.raises(UserError, match='in use by process'):
      write(videos, tmp_path / 'out')


def test_shard_sizes(videos, tmp_path, encoded, monkeypatch):
  """As many videos as have SHARD_BYTES, whatever the size of the set."""
  assert shard_names(7, 3, 2) == [f'shard-0000{i}.tar' for i in (2, 3, 4)]
  few = write(videos, tmp_path / 'few', shard_videos=0)
  assert few['shard_videos'] == 64 and len(few['shards']) == 1
  sizes = [os.path.getsize(video.path) for video in videos[:9]]
  monkeypatch.setattr(prepare_shards, 'SHARD_BYTES', 2.2 * sum(sizes) / len(sizes))
  copied = write(videos, tmp_path / 'copied', shard_videos=0, encoding=None)
  assert copied['shard_videos'] == 2 and len(copied['shards']) == 5
  monkeypatch.setattr(prepare_shards, 'FEW_VIDEOS', 3)
  monkeypatch.setattr(prepare_shards, 'PILOT', 10)
  monkeypatch.setattr(prepare_shards, 'SHARD_BYTES', 3.1 * few['bytes'] / few['records'])
  before = len(encoded)
  whole = write(videos, tmp_path / 'whole', shard_videos=0)
  assert whole['shard_videos'] == 3 and len(encoded) == before + 20
  assert whole == write(videos, tmp_path / 'whole', shard_videos=0)  # Neither measured again.
  assert whole['hash'] == few['hash'] and len(encoded) == before + 20


# -- Killed for real


def start(source, out, *options):
  command = [sys.executable, '-m', 'vmae_jax.prepare', 'folder', str(source), f'--out={out}']
  return subprocess.Popen(
    [*command, '--shards', *options],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*arguments):
  process = start(*arguments)
  output, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors
  return output


@pytest.mark.slow
def test_killed_often(tmp_path):
  """Ten kills at random moments of a run, and the bytes of an unbroken one."""
  assert kill_and_resume(tmp_path, videos=1000, shard=10, kills=10, apart=100) >= 8


def test_killed(tmp_path):
  kill_and_resume(tmp_path, videos=12, shard=4, kills=1, apart=6)


def kill_and_resume(tmp_path, *, videos: int, shard: int, kills: int, apart: int):
  """Kills a run at random moments, and compares it with one that is not even parallel.

  From one kill to the next at most `apart` videos are finished, and a few more in a moment.
  Returns how many kills left some videos, but not all.
  """
  source, random_ = tmp_path / 'source', random.Random(0)
  for i in range(videos):
    path = source / f'class {i % 2}' / f'{i}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames=8 + i % 5, height=32 + 2 * (i % 7), width=48)
  options = (f'--shard-videos={shard}', '--workers=2')
  arguments = ['folder', str(source), f'--out={tmp_path}/whole', '--shards', options[0]]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(prepare_shards, 'run_all', at_once)
    prepare.main(['prepare', *arguments])
  out, between = tmp_path / 'broken', 0

  def done() -> int:
    """Videos, in shards that are packed and in others."""
    parts = out / 'train/.parts'
    packed = [path.stem for path in parts.glob('shard-*.json')]
    files = [path for path in parts.glob('shard-*/*.json') if path.parent.name not in packed]
    return len(packed) * shard + len(files)

  for _ in range(kills):
    # How long a start takes depends on the machine: so many videos later, and a moment more.
    goal = done() + random_.randrange(apart + 1)
    process = start(source, out, *options)
    while process.poll() is None and (done() < goal or not (out / 'train/.parts').exists()):
      time.sleep(0.005)
    time.sleep(random_.uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    between += 0 < done() < videos
  output = run(source, out, *options)
  assert f'{videos} videos in' in output
  lists = {name: (tmp_path / 'whole' / name).read_bytes() for name in ('train.txt', 'classes.txt')}
  assert lists == {name: (out / name).read_bytes() for name in lists}
  assert contents(out / 'train') == contents(tmp_path / 'whole/train')
  read = ShardSource(str(out / 'train'))
  assert len({header.id for header in read.headers}) == videos == len(read)
  return between


# -- The command


def main(*arguments):
  prepare.main(['prepare', *map(str, arguments)])


@pytest.mark.parametrize(
  'name, tree, options, wanted',
  [
    ('kinetics400', kinetics_tree, [], {'train': [2, 0, 0], 'val': [1], 'test': [-1]}),
    ('ssv2', ssv2_tree, [], {'train': [1, 0], 'test': [-1]}),
    ('ucf101', ucf101_tree, ['--split=3'], {'train': [0, 0, 1, 1, 2, 2], 'test': [0, 1, 2]}),
    ('hmdb51', hmdb51_tree, [], {'train': [0] * 7 + [1] * 7, 'test': [0] * 3 + [1] * 3}),
  ],
)
def test_lists(tmp_path, capsys, name, tree, options, wanted):
  tree(tmp_path / 'source')
  for _ in range(2):  # Written again, as videos may have come in between.
    main(name, tmp_path / 'source', f'--out={tmp_path}/lists', *options)
  for split, labels in wanted.items():
    source = open_source(f'{tmp_path}/lists/{split}.txt')
    assert [source.label(i) for i in range(len(source))] == labels
    assert all(os.path.isfile(source.name(i)) for i in range(len(source)))
    assert len(source.class_names) >= 2
  output = capsys.readouterr().out
  assert 'the whole data set has' in output
  missing = tmp_path / 'lists/missing.txt'
  if name == 'kinetics400':
    assert missing.read_text() == 'train gone_000000_000000_000010\n'
    assert 'train: 4 videos, 1 of them are missing, such as gone_000000' in output
  else:
    assert missing.exists() == (name == 'ssv2')


def test_copies(tmp_path, capsys):
  for name in ('train/a/1.mp4', 'train/b/1.mp4', 'val/b/2.mp4'):
    (tmp_path / 'source' / name).parent.mkdir(parents=True, exist_ok=True)
    write_video(tmp_path / 'source' / name, frames=4 + len(name))
  (tmp_path / 'source/val/b/3.mp4').write_bytes(b'x')
  main('folder', tmp_path / 'source', f'--out={tmp_path}/out', '--shards', '--copy', '--workers=1')
  output = capsys.readouterr().out
  assert '1 videos in 1 shards' in output and '1 failed, such as b/3.mp4' in output
  train, val = (ShardSource(f'{tmp_path}/out/{name}') for name in ('train', 'val'))
  assert (len(train), len(val)) == (2, 1)
  assert train.class_names == val.class_names == ('a', 'b') and val.label(0) == 1
  assert val.read(0)[1] == (tmp_path / 'source/val/b/2.mp4').read_bytes()


def test_too_many_failures_are_a_mistake(tmp_path, capsys, monkeypatch):
  """Five of eight; all else is there."""
  monkeypatch.setattr(prepare_shards, 'run_all', at_once)
  for i in range(8):
    write_video(tmp_path / f'{i}.mp4', frames=2) if i < 3 else (tmp_path / f'{i}.mp4').touch()
  options = ('folder', tmp_path, f'--out={tmp_path}/out', '--shards', '--workers=1')
  for more in ((), (), ('--retry',)):
    with pytest.raises(UserError, match='5 of 8 videos of train cannot be used, more than 5%') as e:
      main(*options, *more)
    assert '\n' not in str(e.value)
  assert len(ShardSource(f'{tmp_path}/out/train')) == 3
  for i in range(3, 5):
    write_video(tmp_path / f'{i}.mp4', frames=2)
  main(*options, '--retry')
  assert '5 videos in 1 shards' in capsys.readouterr().out


@pytest.mark.parametrize(
  'options, message',
  [
    (['--gop=12'], '--gop is for shards'),
    (['--copy'], '--copy is for shards'),
    (['--retry'], '--retry is for shards'),
    (['--append'], '--append is for shards'),
    (['--cut=3'], '--cut is for shards'),
    (['--shards', '--copy', '--cut=3'], 'leave out --cut'),
    (['--shards', '--cut=-1'], '--cut=-1'),
    (['--shards', '--copy', '--short-side=256'], 'leave out --short-side'),
    (['--shards', '--gop=0'], '--gop=0: it must be from 1'),
    (['--shards', '--crf=52'], '--crf=52: it must be from 0 to 51'),
    (['--workers=0'], '--workers must be at least 1'),
    (['--split=1'], '--split'),
  ],
)
def test_mistakes(tmp_path, options, message):
  write_video(tmp_path / 'v.mp4', frames=2)
  with pytest.raises(UserError, match=message) as e:
    main('folder', tmp_path, f'--out={tmp_path}/out', *options)
  assert '\n' not in str(e.value) and not (tmp_path / 'out').exists()


def test_what_is_not_from_here_is_not_overwritten(tmp_path):
  ucf101_tree(tmp_path / 'source')
  (tmp_path / 'train.txt').write_text('mine')
  with pytest.raises(UserError, match='train.txt that is not from here'):
    main('ucf101', tmp_path / 'source', f'--out={tmp_path}')
  assert (tmp_path / 'train.txt').read_text() == 'mine'
  main('ucf101', tmp_path / 'source', f'--out={tmp_path}/out')
  with pytest.raises(UserError, match='holds the split 1, not 2'):
    main('ucf101', tmp_path / 'source', f'--out={tmp_path}/out', '--split=2')


def test_no_videos_at_all(tmp_path):
  ucf101_tree(tmp_path / 'source')
  (tmp_path / 'empty').mkdir()
  lists = f'--annotations={tmp_path}/source/ucfTrainTestlist'
  with pytest.raises(UserError, match='none of the videos lies in'):
    main('ucf101', tmp_path / 'empty', lists, f'--out={tmp_path}/out')


def test_a_name_that_a_list_cannot_hold(tmp_path):
  write_video(tmp_path / 'v.mp4', frames=2)
  (tmp_path / 'v.mp4').rename(tmp_path / 'a\nb.mp4')
  with pytest.raises(UserError, match='rename it'):
    main('folder', tmp_path, f'--out={tmp_path}/out')
