"""Videos that never answer and decoding processes that die do not stop the stream."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.data.clips_on_disk import write_video
from vmae_jax import patience
from vmae_jax.data import readers
from vmae_jax.data import video as video_lib
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.sources import Entry, FileSource, check_paths, open_source
from vmae_jax.errors import Unavailable, UserError
from vmae_jax.patience import Closed, NoAnswer, Patience, PatientSource

# Seconds. Only videos that never answer get a short limit: on a busy machine a thread may wait
# longer than it decodes.
LONG = 60.0
SAMPLER = ClipSampler(frames=3, size=8, stride=2, flip=True, repeats=2, seed=5)
STALLED = 2


@dataclasses.dataclass(frozen=True)
class StallingSource:
  """As `source`, but what `stalled` names is first waited for, in a read from a pipe."""

  source: FileSource
  pipe: str
  stalled: tuple[int, ...] = (STALLED,)
  class_names: tuple[str, ...] = ()

  def __len__(self):
    return len(self.source)

  def name(self, i):
    return self.source.name(i)

  def label(self, i):
    return self.source.label(i)

  def open(self, i):
    if i in self.stalled:
      with open(self.pipe, 'rb') as f:  # Waits for a writer.
        f.read()
    return self.source.open(i)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('videos')
  paths = [write_video(folder / f'{i}.mp4', frames=12 + i, height=16, width=32) for i in range(7)]
  return FileSource(tuple(Entry(path, label=i) for i, path in enumerate(paths)))


@pytest.fixture
def pipe(tmp_path):
  """A pipe that nobody writes to; whoever still reads it at the end is let go."""
  path = str(tmp_path / 'pipe')
  os.mkfifo(path)
  yield path
  answer(path)


def ask(source, i):
  return source.ask(i, lambda: source.open(i))


def answer(path):
  os.close(os.open(path, os.O_RDWR))  # Releases those who wait in open.


def start(source, **options):
  options = dict(batch_size=4, seed=1, shuffle=True, num_steps=9, threads=2, seconds=LONG) | options
  return Loader(source, SAMPLER, **options)


def read(source, **options):
  loader = start(source, **options)
  batches = [{name: np.asarray(x) for name, x in batch.items()} for batch in loader]
  loader.close()
  return batches, loader.failures


def assert_equal(some, others):
  assert len(some) == len(others) > 0
  for a, b in zip(some, others, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_stalled_video_is_replaced_as_a_broken_one(source, pipe, workers):
  entries = list(source.entries)
  entries[STALLED] = Entry('/missing.mp4', label=STALLED)
  expected, _ = read(FileSource(tuple(entries)))
  assert sum(batch['replaced'].sum() for batch in expected) > 2
  began = time.monotonic()
  # A process starts while the caller waits for its first videos.
  batches, failures = read(StallingSource(source, pipe), workers=workers, seconds=4.0)
  assert time.monotonic() - began < 60
  assert_equal(batches, expected)
  assert failures == {source.name(STALLED): 'unavailable: no answer in 4 s'}


def test_libav_stuck_in_a_pipe_is_given_up(source, pipe, monkeypatch):
  """What a file on a dead disk does: libav waits for it without Python's lock."""
  monkeypatch.setattr(video_lib.os.path, 'isfile', lambda path: True)
  monkeypatch.setattr(video_lib.os.path, 'getsize', lambda path: 1)
  with pytest.raises(NoAnswer, match='no answer in 0.3 s'):
    ask(PatientSource(FileSource((Entry(pipe),)), Patience(0.3)), 0)


def test_what_is_stuck_is_not_waited_for_again_until_it_answers(source, pipe, monkeypatch):
  monkeypatch.setattr(patience, 'TRY_FOR', 0.0)
  patient = PatientSource(StallingSource(source, pipe), Patience(4.0))
  with pytest.raises(NoAnswer):
    ask(patient, STALLED)
  threads = threading.active_count()
  began = time.monotonic()
  for _ in range(5):
    with pytest.raises(NoAnswer):
      ask(patient, STALLED)
  assert time.monotonic() - began < 3.9 and threading.active_count() == threads
  answer(pipe)
  deadline = time.monotonic() + 10
  while patient._patience._stuck and time.monotonic() < deadline:
    time.sleep(0.01)
  plain = FileSource(source.entries)  # These answer, without the pipe.
  patient._source = plain
  assert ask(patient, STALLED).num_frames == 12 + STALLED
  assert threading.active_count() == threads  # The thread that came back is used again.


def test_errors_of_a_video_come_through(source):
  patient = PatientSource(FileSource((Entry('/missing.mp4'),)), Patience(LONG))
  with pytest.raises(video_lib.VideoError, match='file is missing'):
    ask(patient, 0)


def test_too_many_stuck_videos_stop_the_run(source, pipe):
  """As where the whole mount is dead."""
  many = FileSource(source.entries * 20)
  stalling = StallingSource(many, pipe, tuple(range(len(many))))
  loader = start(stalling, threads=8, seconds=0.1)
  began = time.monotonic()
  with pytest.raises(
    Unavailable, match='two videos in a row cannot be read, last .*mp4 .no answer in 0.1 s.: is'
  ) as e:
    next(loader)
  assert time.monotonic() - began < 20 and '\n' not in str(e.value)
  loader.close()


STOPPED = """
import time
from vmae_jax.patience import Patience

def work():
  print('working', flush=True)
  for _ in range(20):
    time.sleep(0.1)
  return 'answer'

print(Patience(4.0)(0, 'a', work))
"""


def test_the_time_in_which_the_process_was_stopped_does_not_count():
  child = subprocess.Popen([sys.executable, '-c', STOPPED], stdout=subprocess.PIPE, text=True)
  assert child.stdout.readline() == 'working\n'
  os.kill(child.pid, signal.SIGSTOP)
  time.sleep(5)
  os.kill(child.pid, signal.SIGCONT)
  assert child.communicate(timeout=60)[0] == 'answer\n' and child.returncode == 0


def test_closing_does_not_wait_for_what_is_stuck(source, pipe):
  stalling = StallingSource(source, pipe, tuple(range(len(source))))
  loader = start(stalling, seconds=100.0)
  time.sleep(0.3)
  began = time.monotonic()
  loader.close()
  assert time.monotonic() - began < 5 and not loader._thread.is_alive()
  with pytest.raises(Closed):
    loader._patience(0, 'a', lambda: 0)


@pytest.fixture
def dead(monkeypatch):
  """A folder of a dead mount: nobody says whether a file is in it."""
  gate, isfile = threading.Event(), os.path.isfile
  monkeypatch.setattr(
    os.path, 'isfile', lambda path: gate.wait() if '/dead/' in str(path) else isfile(path)
  )
  yield '/dead'
  gate.set()


@pytest.mark.parametrize('files', [3, 100])
def test_a_dead_mount_is_reported_at_the_start(dead, files):
  before = {*threading.enumerate()}
  began = time.monotonic()
  with pytest.raises(
    Unavailable, match='give no answer in 0.3 s, such as /dead/.*mp4: is the'
  ) as e:
    check_paths(FileSource(tuple(Entry(f'{dead}/{i}.mp4') for i in range(files))), 1.0, seconds=0.3)
  assert time.monotonic() - began < 20 and '\n' not in str(e.value)
  # Only stuck threads are left, which do not keep the process from ending.
  left = {*threading.enumerate()} - before
  assert left and all(thread.name == 'patience' and thread.daemon for thread in left)


@pytest.mark.parametrize('spec', ['/dead/list.txt', '/dead'])
def test_a_list_or_folder_on_a_dead_mount_is_reported(spec, monkeypatch):
  gate, isdir = threading.Event(), os.path.isdir
  monkeypatch.setattr(
    os.path, 'isdir', lambda path: gate.wait(10) if str(path).startswith('/dead') else isdir(path)
  )
  try:
    with pytest.raises(Unavailable, match=f'^{spec}: no answer in 0.2 s; is the disk or network'):
      open_source(spec, seconds=0.2)
  finally:
    gate.set()


def test_a_few_files_that_give_no_answer_are_as_missing_ones(source, dead):
  before = {*threading.enumerate()}
  paths = [*(entry.path for entry in source.entries), f'{dead}/a.mp4', '/nowhere/b.mp4']
  some = FileSource(tuple(map(Entry, paths)))
  check_paths(some, 2 / 9, seconds=2.0)
  with pytest.raises(Unavailable, match='1 of 9 files give no answer in 2 s, such as /dead/a.mp4'):
    check_paths(some, 1 / 9, seconds=2.0)
  with pytest.raises(UserError, match='1 of 9 files do not exist, .*: /nowhere/b.mp4. Is'):
    check_paths(some, 0.0, seconds=2.0)
  deadline = time.monotonic() + 10
  while len({*threading.enumerate()} - before) > 3 and time.monotonic() < deadline:
    time.sleep(0.01)
  # Each call leaves one stuck thread; the others have ended.
  assert len({*threading.enumerate()} - before) == 3


def children():
  return [p for p in multiprocessing.active_children() if p.is_alive()]


def kill_one(before):
  """Kills a process that is not among `before`."""
  new = [p for p in children() if p.pid not in before]
  os.kill(new[0].pid, signal.SIGKILL)


def test_killed_processes_are_started_again_up_to_a_limit(source, monkeypatch):
  monkeypatch.setattr(readers, 'MOST_DEATHS', 1)
  expected, _ = read(source, num_steps=24)
  before = {p.pid for p in children()}
  loader = start(source, num_steps=10**6, workers=2)
  batches = []
  for step in range(24):
    batches.append({name: np.asarray(x) for name, x in next(loader).items()})
    if step == 3:
      kill_one(before)
  assert_equal(batches, expected)
  assert len(loader._readers.deaths) == 1
  kill_one(before)
  began = time.monotonic()
  with pytest.raises(UserError, match='died .exit code -9., now 2 times within') as e:
    for _ in range(10**4):
      next(loader)
  assert time.monotonic() - began < 60 and '\n' not in str(e.value)
  loader.close()


def test_late_means_longer_than_all_but_a_thousandth():
  waiting = Patience(LONG)
  for i in range(2000):
    assert waiting._late == (float('inf') if i < 1025 else 0.01)
    waiting._note(1.0 if i == 7 else 0.01)


def test_the_limit_holds_after_a_call_has_been_repeated(monkeypatch):
  """Waits of a millisecond each would add up to far more on a busy machine."""
  waits = []

  class Counted(patience._Call):
    def __init__(self, function):
      super().__init__(function)
      wait = self.ended.wait
      self.ended.wait = lambda seconds: waits.append(seconds) or wait(seconds)

  monkeypatch.setattr(patience, '_Call', Counted)
  waiting, answer = Patience(0.3), threading.Event()
  waiting._late = 0.1
  with pytest.raises(NoAnswer):
    waiting(0, 'a video', answer.wait, hedge=True)
  answer.set()
  waiting.close()
  assert waits == pytest.approx([0.1, 0.2])
