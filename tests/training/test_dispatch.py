"""The host never waits for the step that it has just started."""

import json
import subprocess
import sys

from tests import started

# Every way from a device's array to a number or a NumPy array goes through `_value`.
WATCHED = """
import json, sys, threading
import jax
from vmae_jax.config_file import load_config
from vmae_jax.training import loop, pretraining
from vmae_jax.runs import run_log

events, steps = [], {}
Array = type(jax.numpy.zeros(()))
value, wait = Array._value, Array.block_until_ready

def note(kind, array):
  if threading.current_thread() is threading.main_thread():
    events.append([kind, steps.get(id(array))])

def read(self):
  note('read', self)
  return value.fget(self)

def block(self):
  note('wait', self)
  return wait(self)

class Log(run_log.RunLog):
  def dispatched(self, step, metrics, loader):
    events.append(['dispatched', step])
    kept.append(metrics)  # So that no other array gets its id.
    steps.update({id(x): step for x in metrics.values()})
    super().dispatched(step, metrics, loader)

kept, loop.RunLog = [], Log
Array._value, Array.block_until_ready = property(read), block
config = load_config('configs/videomae.py:smoke')
config.steps, config.log.every_steps, config.model.decoder_depth, config.batch_size = 6, 1, 1, 4
config.checkpoint.every_steps = config.log.pictures_every_steps = 100
pretraining.train(config, sys.argv[1])
print(json.dumps(events))
"""


def test_metrics_are_read_one_step_late_and_nothing_else(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', WATCHED, str(tmp_path / 'run')],
    env=started.environment(),
    cwd=started.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  events = json.loads(done.stdout.splitlines()[-1])
  starts = [i for i, event in enumerate(events) if event[0] == 'dispatched']
  assert [events[i][1] for i in starts] == [1, 2, 3, 4, 5, 6]
  for step, (start, end) in enumerate(zip(starts, starts[1:], strict=False), start=1):
    # Between the starts of two steps: the metrics of the step before the first of them.
    between = events[start + 1 : end]
    assert {tuple(event) for event in between} <= {('read', step - 1)}, between
    assert bool(between) == (step > 1)
