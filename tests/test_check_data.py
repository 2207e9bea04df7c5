"""The report on a list of videos."""

import csv
import os
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import at_once
from tests.data.shards_on_disk import main as prepare
from vmae_jax import check_data, storage
from vmae_jax.check_data import _write, check, judge
from vmae_jax.data.lists import Entry
from vmae_jax.data.sources import FileSource, open_source
from vmae_jax.errors import Unavailable, UserError
from vmae_jax.prepare import examine
from vmae_jax.prepare.examine import Finding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.prepare_shards import write_shards


def _run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'vmae_jax.check_data', *arguments],
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )


@pytest.fixture
def examined(monkeypatch):
  """Examines videos in this process; lists those that were examined."""
  names = []

  def run_all(function, tasks, **_):
    for task, found in at_once(function, tasks):
      names.append(task)
      yield task, found

  monkeypatch.setattr(examine, 'run_all', run_all)
  return names


def test_lists_and_reports_of_a_bucket(tmp_path, memory, examined):
  """Lists that prepare and check_data write for a bucket, or into one, can be opened."""
  for i in range(4):
    path = write_video(tmp_path / f'{i}.mp4', frames=20 + i, height=64)
    memory.put_file(path, f'/bucket/videos/{"ab"[i % 2]}/{i}.mp4')
  memory.pipe('/bucket/videos/b/broken.mp4', b'x')
  prepare('folder', 'memory://bucket/videos', '--out=memory://bucket/lists')
  prepare('folder', 'memory://bucket/videos', f'--out={tmp_path}/lists')
  lists = ['memory://bucket/lists/train.txt', f'{tmp_path}/lists/train.txt']
  names = [f'memory://bucket/videos/{x}.mp4' for x in ('a/0', 'a/2', 'b/1', 'b/3', 'b/broken')]
  for data in (*lists, 'memory://bucket/videos'):
    source = open_source(data)
    assert [source.name(i) for i in range(len(source))] == names
    assert source.class_names == ('a', 'b')
    with source.open(2) as video:
      assert video.num_frames == 21
    for out in ('memory://bucket/checked', f'{tmp_path}/checked'):
      check(data, out, span=4)
      clean = open_source(f'{out}/clean.txt')
      assert [clean.name(i) for i in range(len(clean))] == names[:4]
      assert [clean.label(i) for i in range(4)] == [0, 0, 1, 1]
      assert clean.class_names == ('a', 'b')
      with clean.open(3) as video:
        assert video.num_frames == 23
      written = ['classes.txt', 'clean.txt', 'contact_sheet.png', 'datasheet.txt', 'report.csv']
      assert storage.names(out) == written
  assert not (tmp_path / 'memory:').exists()
  assert (
    storage.read('memory://bucket/checked/report.csv')
    == (tmp_path / 'checked/report.csv').read_bytes()
  )


@pytest.mark.parametrize('there', [False, True])
def test_an_unfinished_check_goes_on(tmp_path, memory, examined, there, capsys):
  lines = [f'{write_video(tmp_path / f"{i}.mp4", frames=5)} 0\n' for i in range(6)]
  (tmp_path / 'list.txt').write_text(''.join(lines))
  data, out = str(tmp_path / 'list.txt'), 'memory://bucket/out' if there else f'{tmp_path}/out'
  names = [line.split()[0] for line in lines]
  check(data, f'{tmp_path}/whole')
  assert examined == names
  examined.clear()

  class Killed(BaseException):
    pass

  def killed(function, tasks, **_):
    for i, task in enumerate(tasks):
      if i == 2:
        raise Killed
      yield task, function(task)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(examine, 'run_all', killed)
    patch.setattr(check_data, 'PART_SECONDS', 0)
    for _ in range(2):
      with pytest.raises(Killed):
        check(data, out)
  if not there:  # Killed while it wrote a line.
    with open(f'{out}/findings-00001.jsonl', 'a') as f:
      f.write('{"path": "')
  (tmp_path / 'other.txt').write_text(lines[0])
  with pytest.raises(UserError, match=f'unfinished check of {data}: give another folder'):
    check(str(tmp_path / 'other.txt'), out)
  capsys.readouterr()
  check(data, out)
  assert examined == names[4:]
  assert 'going on: 4 of 6 videos were examined' in capsys.readouterr().out
  for name in ('report.csv', 'clean.txt', 'datasheet.txt'):
    assert storage.read(f'{out}/{name}') == (tmp_path / 'whole' / name).read_bytes()
  assert not [name for name in storage.names(out) if name.startswith('findings')]


def test_an_outage_marks_no_video_as_broken(tmp_path, memory, examined, monkeypatch, no_pause):
  path, cat_file, away = write_video(tmp_path / 'v.mp4', frames=5), memory.cat_file, [*'12345']
  for i in range(6):
    memory.put_file(path, f'/bucket/{i}.mp4')

  def failing(self, path, **options):
    if path[-5] in away:
      raise TimeoutError('slow')
    return cat_file(path, **options)

  monkeypatch.setattr(type(memory), 'cat_file', failing)
  data, out = 'memory://bucket', f'{tmp_path}/out'
  with pytest.raises(Unavailable, match=r'4 of 6 videos gave no answer, such as .*4.mp4 .unavail'):
    check(data, out)
  away[:] = '5'  # Fewer are left out and reported.
  examined.clear()
  check(data, out)
  assert examined == [f'{data}/{i}.mp4' for i in range(1, 6)]
  with open(f'{out}/report.csv', encoding='utf-8') as f:
    last = list(csv.DictReader(f))[-1]
  assert last['status'] == 'broken' and last['reason'].startswith('unavailable: TimeoutError: slow')
  assert len(open_source(f'{out}/clean.txt')) == 5


def test_killed_and_started_again(tmp_path, examined):
  """After a SIGKILL, videos that were examined are not examined again."""
  path = write_video(tmp_path / 'v.mp4', frames=100, height=240, width=320)
  for i in range(30):
    os.link(path, tmp_path / f'{i:02d}.mp4')
  data, out = tmp_path / 'list.txt', tmp_path / 'out'
  data.write_text(''.join(f'{i:02d}.mp4 0\n' for i in range(30)))
  with subprocess.Popen(
    [sys.executable, '-m', 'vmae_jax.check_data', str(data), '--workers=1', f'--out={out}'],
    stderr=subprocess.DEVNULL,
  ) as process:
    journal = out / 'findings-00000.jsonl'
    while not journal.exists() or journal.read_text().count('\n') < 4:
      assert process.poll() is None
      time.sleep(0.01)
    process.kill()
  known = journal.read_text().count('\n') - 1
  assert 3 <= known < 30
  check(str(data), str(out))
  assert examined == [f'{tmp_path}/{i:02d}.mp4' for i in range(known, 30)]
  check(str(data), f'{tmp_path}/whole')
  for name in ('report.csv', 'clean.txt', 'datasheet.txt', 'contact_sheet.png'):
    assert (out / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
  assert not journal.exists()


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, examined):
  path = write_video(tmp_path / 'v.mp4')
  (tmp_path / 'list.txt').write_text(f'{path} 0\n')
  for out, message in ((f'{path}/x', 'Not a directory'), ('nope://x', 'Protocol not known: nope')):
    with pytest.raises(UserError, match=message):
      check(str(tmp_path / 'list.txt'), out)
  (tmp_path / 'list.txt').rename(tmp_path / 'clean.txt')
  with pytest.raises(UserError, match='would overwrite the list'):
    check(str(tmp_path / 'clean.txt'), str(tmp_path))
  assert not examined


def test_folders_of_frames_stay_folders(tmp_path):
  path = f'{tmp_path}/bear/'
  source = FileSource((Entry(path, tail=' -1'),))
  _write(str(tmp_path), source, {path: Finding(path, frames=90, rate=24.0)}, 4)
  assert (tmp_path / 'clean.txt').read_text() == f'{path} -1\n'


def test_report(tmp_path):
  folder, out = tmp_path / 'my videos', tmp_path / 'out'
  folder.mkdir()
  write_video(folder / 'good 1.mp4', frames=30, height=64)
  (folder / 'twin.mp4').write_bytes((folder / 'good 1.mp4').read_bytes())
  write_video(folder / 'short.mp4', frames=5, height=64)
  write_video(folder / 'tiny.mp4', frames=30, height=16)
  (folder / 'broken.mp4').write_bytes(b'x')
  lines = ['good 1.mp4,0', 'broken.mp4,1', 'short.mp4,1', 'none.mp4,1', 'tiny.mp4,0', 'twin.mp4,0']
  (folder / 'list.csv').write_text('\n'.join(lines))
  (folder / 'classes.txt').write_text('run\nwalk\n')
  done = _run(str(folder / 'list.csv'), f'--out={out}', '--frames=4', '--stride=5', '--workers=2')
  assert done.returncode == 0, done.stderr
  assert '2 ok, 1 odd, 1 short, 2 broken' in done.stdout
  assert f'odd: {folder}/tiny.mp4: ' in done.stdout
  assert f'short: {folder}/short.mp4: 5 frames, a clip spans 20' in done.stdout
  assert 'same content: ' in done.stdout and 'duplicates of other files: 1' in done.stdout
  with open(out / 'report.csv', newline='') as f:
    rows = {os.path.basename(row['path']): row for row in csv.DictReader(f)}
  status = {name: row['status'] for name, row in rows.items()}
  assert status == {
    'good 1.mp4': 'ok',
    'broken.mp4': 'broken',
    'short.mp4': 'short',
    'none.mp4': 'broken',
    'tiny.mp4': 'odd',
    'twin.mp4': 'ok',
  }
  good = rows['good 1.mp4']
  assert (good['frames'], good['rate'], good['seconds']) == ('30', '25.0', '1.2')
  assert good['hash'] == rows['twin.mp4']['hash'] != rows['tiny.mp4']['hash']
  clean = open_source(str(out / 'clean.txt'))
  names = [os.path.basename(clean.name(i)) for i in range(len(clean))]
  assert names == ['good 1.mp4', 'short.mp4', 'tiny.mp4', 'twin.mp4']
  assert [clean.label(i) for i in range(4)] == [0, 1, 0, 0]
  assert clean.class_names == ('run', 'walk')
  assert all(os.path.isfile(clean.name(i)) for i in range(4))
  assert (out / 'clean.txt').read_text().startswith(f'{folder}/good 1.mp4,0\n')
  assert 'classes: 2, of 1 to 3' in (out / 'datasheet.txt').read_text()
  assert Image.open(out / 'contact_sheet.png').width > 800


def test_shards(tmp_path):
  """A record whose bytes changed on the disk is found; shards get no clean list."""
  videos = []
  for i in range(3):
    path = write_video(tmp_path / f'{i}.mp4', frames=30, height=64, width=64 + 2 * i)
    videos.append(Listed(f'v{i}', path, label=i % 2))
  options = dict(about={}, classes=['run', 'walk'], encoding=None, workers=1, seconds=60.0)
  shards, out = tmp_path / 'shards', tmp_path / 'out'
  manifest = write_shards(videos, shards, **options)
  path = shards / manifest['shards'][0]['name']
  content = path.read_bytes()
  data = (tmp_path / '1.mp4').read_bytes()
  at = content.index(data) + 40
  path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
  done = _run(str(shards), f'--out={out}', '--hashes')
  told = f'error: {shards}: 1 shards are not the files that were written ({path.name})'
  assert done.returncode == 2 and told in done.stderr and not out.exists()
  done = _run(str(shards), f'--out={out}', '--frames=4', '--stride=5', '--workers=1')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('2 ok, 0 odd, 0 short, 1 broken\nbroken: ')
  with open(out / 'report.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  assert [row['path'] for row in rows] == [f'{shards}:v{i}' for i in range(3)]
  assert [row['status'] for row in rows] == ['ok', 'broken', 'ok']
  assert (rows[2]['frames'], rows[2]['width'], rows[2]['codec']) == ('30', '68', 'h264')
  assert (out / 'classes.txt').read_text() == 'run\nwalk\n'
  assert (out / 'contact_sheet.png').exists() and not (out / 'clean.txt').exists()


def test_mistakes(tmp_path):
  done = _run(str(tmp_path / 'none.csv'), f'--out={tmp_path}')
  assert done.returncode == 2
  assert done.stderr.startswith('error: there is no list') and done.stderr.count('\n') == 1


@pytest.mark.parametrize(
  'entry, found, status',
  [
    (Entry('a'), dict(), 'ok'),
    (Entry('a', start=40), dict(), 'short'),
    (Entry('a', count=63), dict(), 'short'),
    (Entry('a', start=36, count=99), dict(), 'ok'),
    (Entry('a', start=100), dict(), 'broken'),
    (Entry('a'), dict(reason='no'), 'broken'),
    (Entry('a'), dict(rate=0.0), 'odd'),
    (Entry('a'), dict(rate=1000.0), 'odd'),
    (Entry('a'), dict(width=2000), 'odd'),
    (Entry('a'), dict(width=24, height=24), 'ok'),  # As the demo's.
    (Entry('a'), dict(width=16, height=16), 'odd'),
  ],
)
def test_judge(entry, found, status):
  whole = dict(frames=100, rate=25.0, width=320, height=240) | found
  assert judge(entry, Finding('a', **whole), span=64)[0] == status


def test_look(tmp_path):
  """All files are looked for and nothing is decoded; a picture is not a broken video."""
  for i in range(3):
    (tmp_path / f'{i}.mp4').touch()
  (tmp_path / 'a.txt').write_text('0.mp4\n1.mp4\n2.mp4\n')
  command = [sys.executable, '-m', 'vmae_jax.check_data', f'{tmp_path}/a.txt', '--look']
  done = subprocess.run(command, capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (0, 'all is there: 3 videos\n'), done.stderr
  (tmp_path / '1.mp4').unlink()
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2 and '1 of 3 files do not exist' in done.stderr
