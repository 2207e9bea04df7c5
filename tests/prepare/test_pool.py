"""Tasks in processes that die, hang, or die of the task before."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from vmae_jax.prepare import pool
from vmae_jax.prepare.pool import Lost, run_all


def once(folder: Path, name: str) -> bool:
  """Whether this is the first call with this name, of any process."""
  try:
    (folder / name).touch(exist_ok=False)
  except FileExistsError:
    return False
  return True


def work(task):
  """What `task` says, in a folder where all processes see what has been done."""
  folder, what = task
  first = once(folder, what)
  if what == 'dies late':
    threading.Timer(0.2, os._exit, [9]).start()
  if what == 'slow':
    time.sleep(1.0)
  if what == 'killed once' and first:
    os.kill(os.getpid(), signal.SIGKILL)
  if what == 'hangs once' and first:
    time.sleep(600)
  if what == 'store away once' and first:
    return Lost('503')
  if what == 'store away':
    once(folder, what + ' again')
    return Lost(f'503 {os.getpid()}')
  if what == 'long':
    for _ in range(8):
      time.sleep(0.5)
      pool.renew()
  return what, os.getpid()


def do(folder, *whats, workers=1, seconds=30.0):
  tasks = [(folder, what) for what in whats]
  return {task[1]: got for task, got in run_all(work, tasks, workers=workers, seconds=seconds)}


def test_a_process_that_dies_after_its_task_costs_no_other_task(tmp_path):
  got = do(tmp_path, 'a', 'dies late', 'slow', 'b')
  assert {what: result[0] for what, result in got.items()} == {k: k for k in got} and len(got) == 4


def test_what_may_pass_is_tried_once_more(tmp_path):
  got = do(tmp_path, 'a', 'killed once', 'store away once', 'store away', 'b')
  assert isinstance(got.pop('store away'), Lost) and (tmp_path / 'store away again').exists()
  assert {what: result[0] for what, result in got.items()} == {k: k for k in got} and len(got) == 4
  assert len({result[1] for result in got.values()}) >= 3  # Each time in a new process.
  assert do(tmp_path, 'hangs once', seconds=1.0)['hangs once'][0] == 'hangs once'


def test_a_worker_that_is_dead_when_its_next_task_comes(tmp_path, monkeypatch):
  """The pipe is broken before anything is sent."""
  begin = pool._Worker.begin

  def late(worker, task, seconds, **more):
    if task[1] == 'b' and not more.get('tries'):
      worker.process.kill()
      worker.process.join()
    begin(worker, task, seconds, **more)

  monkeypatch.setattr(pool._Worker, 'begin', late)
  assert do(tmp_path, 'a', 'b')['b'][0] == 'b'


def test_finished_parts_restart_the_time_limit(tmp_path):
  """Four seconds, where two are the limit: a part is done every half second."""
  assert do(tmp_path, 'a', 'long', seconds=2.0)['long'][0] == 'long'


def test_workers_end_with_a_killed_parent(tmp_path):
  code = (
    'import sys; from pathlib import Path; from tests.prepare.test_pool import *\n'
    'def main(): list(run_all(work, [(Path(sys.argv[1]), "hangs once")], workers=1, seconds=60.0))'
  )
  code += '\nif __name__ == "__main__": main()'
  (tmp_path / 'code.py').write_text(code)
  process = subprocess.Popen(
    [sys.executable, tmp_path / 'code.py', tmp_path], env=os.environ | {'PYTHONPATH': os.getcwd()}
  )
  while not (tmp_path / 'hangs once').exists():
    time.sleep(0.02)
  pids = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
  process.kill()
  process.wait()
  end = time.monotonic() + 20
  while any(Path(f'/proc/{pid}').exists() for pid in pids) and time.monotonic() < end:
    time.sleep(0.05)
  assert pids and not any(Path(f'/proc/{pid}').exists() for pid in pids)
