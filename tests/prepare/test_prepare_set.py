"""The command `prepare`: killed and started again, its lists, and the mistakes of users."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import at_once, contents, main
from tests.prepare.test_layouts import hmdb51_tree, kinetics_tree, ssv2_tree, ucf101_tree
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError
from vmae_jax.prepare import __main__ as prepare
from vmae_jax.prepare import prepare_shards


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
    with contextlib.suppress(FileNotFoundError):  # A shard's folder goes when it is packed.
      files = [path for path in parts.glob('shard-*/*.json') if path.parent.name not in packed]
      return len(packed) * shard + len(files)
    return done()

  for _ in range(kills):
    # The time of a start depends on the machine: kill after so many videos, and a moment later.
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
  for _ in range(2):  # Written again, as videos may have been added.
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
  (tmp_path / 'few').mkdir()
  (tmp_path / 'few/v.mp4').touch()
  with pytest.raises(UserError, match='1 of 1 videos of train cannot be used'):
    main('folder', tmp_path / 'few', f'--out={tmp_path}/none', '--shards', '--workers=1')


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


def test_files_of_something_else_are_not_overwritten(tmp_path):
  ucf101_tree(tmp_path / 'source')
  (tmp_path / 'train.txt').write_text('mine')
  with pytest.raises(UserError, match='train.txt of something else'):
    main('ucf101', tmp_path / 'source', f'--out={tmp_path}')
  assert (tmp_path / 'train.txt').read_text() == 'mine'
  main('ucf101', tmp_path / 'source', f'--out={tmp_path}/out')
  with pytest.raises(UserError, match='holds the split 1, not 2'):
    main('ucf101', tmp_path / 'source', f'--out={tmp_path}/out', '--split=2')


def test_damaged_state_is_reported(tmp_path):
  (tmp_path / 'videos').mkdir()
  (tmp_path / 'videos/v.mp4').touch()
  for path in ('prepare.json', 'train/manifest.json', 'train/.parts/plan.json'):
    for text in ('', '[]'):
      file = tmp_path / 'out' / path
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_text(text)
      with pytest.raises(UserError, match=f'{path} (is no JSON|holds no dict)') as e:
        main('folder', tmp_path / 'videos', f'--out={tmp_path}/out', '--shards', '--workers=1')
      assert '\n' not in str(e.value)
      file.unlink()


def test_no_videos_at_all(tmp_path):
  ucf101_tree(tmp_path / 'source')
  (tmp_path / 'empty').mkdir()
  lists = f'--annotations={tmp_path}/source/ucfTrainTestlist'
  with pytest.raises(UserError, match='none of the videos is in'):
    main('ucf101', tmp_path / 'empty', lists, f'--out={tmp_path}/out')


def test_a_name_that_a_list_cannot_hold(tmp_path):
  write_video(tmp_path / 'v.mp4', frames=2)
  (tmp_path / 'v.mp4').rename(tmp_path / 'a\nb.mp4')
  with pytest.raises(UserError, match='rename it'):
    main('folder', tmp_path, f'--out={tmp_path}/out')


def test_a_split_without_videos_has_no_list(tmp_path, capsys):
  """Of classes of one video nothing is held out."""
  for name in 'ab':
    (tmp_path / 'source' / name).mkdir(parents=True)
    (tmp_path / 'source' / name / '1.mp4').touch()
  main('folder', tmp_path / 'source', f'--out={tmp_path}/out', '--val=0.2')
  assert capsys.readouterr().out.endswith(f'val: 0 videos\nwrote {tmp_path}/out/train.txt\n')
  assert not (tmp_path / 'out/val.txt').exists()
