"""Saves a run's checkpoints in the background, and finds the one to go on from.

Orbax writes to a temporary name and renames it at the end; in a bucket, where nothing can be
renamed, it marks complete checkpoints. So a kill at any moment leaves the earlier ones intact.
"""

import contextlib
import logging as standard_logging
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep_policies

from vmae_jax import storage
from vmae_jax.errors import Unavailable, UserError, is_outage, of_a_store
from vmae_jax.runs.agreement import gather, main_does
from vmae_jax.runs.checkpoint import (
  check_same,
  checksum,
  damage,
  digests,
  one_line,
  stored_arrays,
  without_checksum,
)
from vmae_jax.runs.run_dir import MARK, is_whole, remove_unfinished

# The third failure in a row ends the run: a short outage fails the save in progress and perhaps
# the next. One that lasts three times `checkpoint.every_steps` will hardly end by itself, while the
# work since the last checkpoint, which can be lost with the process, grows.
MOST_FAILED = 3
_excepthook = sys.excepthook


class Restored(NamedTuple):
  """A checkpoint: its step, its state, and the `extra` that was saved with it."""

  step: int
  state: Any
  extra: dict[str, Any]


class Checkpointer:
  """Saves and restores train states (or any tree with a `step`) in WORKDIR/checkpoints.

  All processes of a run must call each method but `close`, and get the same outcome.

  Raises:
    UserError: files cannot be written there, or folders cannot be renamed.
    Unavailable: they cannot now, such as on a full disk.
  """

  def __init__(self, workdir: str, *, keep: int, keep_every_steps: int, config: dict):
    policies = [keep_policies.LatestN(keep)]
    if keep_every_steps:
      policies.append(keep_policies.EveryNSteps(keep_every_steps))
    self._config, self._workdir = config, storage.absolute(workdir)
    self._folder = epath.Path(self._workdir, 'checkpoints')
    main_does(lambda: _test_saving(f'{self._folder}'))
    # Failures also come as exceptions, which are logged here in one line.
    for name in ('absl', 'asyncio'):
      standard_logging.getLogger(name).addFilter(_drop_errors_of_orbax)
    sys.excepthook = _drop_closed_loop_errors
    self._manager = ocp.CheckpointManager(
      self._folder,
      item_names=('state', 'data', 'config'),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=keep_policies.AnyPreservationPolicy(policies),
        enable_async_checkpointing=True,
      ),
    )
    self._saving = self._saved = None  # The step that is being saved, and the last one on disk.
    self._failure: Exception | None = None  # Of the step that is being saved.
    self._failed = 0  # Number of saves in a row that have failed.
    self._reason = ''  # Why the last of them has failed.

  def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
    """Starts to save; returns once the state, after `step` steps, has been copied from the devices.

    A full disk or another failure of the store is logged, and the run goes on: existing
    checkpoints stay, and the next save tries again. `restore` returns `extra`, of JSON types.

    Raises:
      Unavailable: it is the third save in a row that has failed, even at a second attempt.
    """
    self.wait()
    if self._failed >= MOST_FAILED - 1:
      self.save_last(step, state, extra)
    else:
      self._start(step, state, extra)

  def save_last(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
    """Returns once the checkpoint is on disk; a failed save is tried once more.

    Raises:
      Unavailable: the second attempt has failed, too.
    """
    for _ in range(2):
      if self._saving != step:
        self.wait()
        self._start(step, state, extra)
      if self.wait():
        return
    steps = self._manager.all_steps()
    raise Unavailable(
      f'the checkpoint of step {step} cannot be saved in {self._folder}: {self._reason}. '
      f'{f"The newest one is that of step {max(steps)}" if steps else "There is none"}; start '
      'the same command again once this is mended.'
    )

  def _start(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
    if step == self._saved:
      return
    data = {**extra, 'next_step': step, 'digests': digests(state)}
    if jax.default_backend() == 'cpu':
      # On CPUs Orbax writes from the buffers themselves, which the next step overwrites.
      state = jax.tree.map(jnp.copy, state)
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      data=ocp.args.JsonSave(data | {'check': checksum(data, self._config)}),
      config=ocp.args.JsonSave(self._config),
    )
    self._saving, self._failure = step, None
    try:
      self._manager.save(step, args=items, force=True)
    except Exception as e:
      self._failure = _write_failure(e)

  def wait(self) -> bool:
    """Waits for the save in progress; if it has failed, logs why and returns False."""
    if self._saving is None:
      return True
    step = self._saving
    try:
      self._manager.wait_until_finished()
    except Exception as e:
      self._failure = _write_failure(e)
    failure, self._saving, self._failure = self._failure, None, None
    if failure is None and jax.process_index() == 0 and not is_whole(f'{self._folder}/{step}'):
      failure = FileNotFoundError('it is not there although no error was reported')
    reasons = [reason for reason in gather(failure and one_line(failure)) if reason]
    if not reasons:
      self._saved, self._failed = step, 0
      return True
    self._reason, self._failed = reasons[0], self._failed + 1
    logging.error('the checkpoint of step %s was NOT saved: %s.', step, self._reason)
    self._tidy(lambda: remove_unfinished(self._workdir))
    return False

  def _tidy(self, change) -> None:
    """Calls `change` in the main process; then all processes list the folder again."""
    main_does(change)
    self._manager.reload()

  def restore(self, like: Any) -> Restored | None:
    """The newest intact checkpoint, or None if there are no checkpoints.

    Newer ones that are damaged, or hold other values than were saved, are logged, and their folders
    renamed to STEP.damaged. `like` gives shapes, types and shardings of the state
    (`jax.ShapeDtypeStruct`s).

    Raises:
      UserError: the checkpoint is of another model, or none can be read.
      Unavailable: one cannot be read now; going on from an older one would lose work.
    """
    failures: dict[int, Exception] = {}
    for step in gather(sorted(self._manager.all_steps(), reverse=True))[0]:
      restored = failure = None
      try:
        restored = self._read(step, like)
      except Exception as e:  # Damaged bytes make exceptions of all types.
        failure = e
      errors = list(filter(None, gather(failure and (one_line(failure), is_outage(failure)))))
      # An outage for one process comes first: damage that others see may be a part of it.
      reason, outage = max(errors, key=lambda error: error[1], default=(None, False))
      if outage:
        raise Unavailable(
          f'the checkpoint of step {step} in {self._folder} cannot be read now: {reason}. Start '
          'the same command again, or move that folder away to go on from the one before.'
        )
      if reason is None:
        reason = damage(restored.extra.pop('digests', None), restored.state)
      if reason is None:
        break
      failures[step] = failure or ValueError(reason)  # Other processes send only the message.
      logging.warning('the checkpoint of step %s cannot be used: %s.', step, reason)
    else:
      if failures:
        raise self._none_readable(failures)
      return None
    if failures:
      logging.warning('step %s is used; the newer ones are renamed to STEP.damaged.', restored.step)
      self._tidy(lambda: [_set_aside(f'{self._folder}/{step}') for step in failures])
    self._saved = restored.step
    return restored

  def _read(self, step: int, like: Any) -> Restored:
    item = self._folder / str(step) / 'state'
    check_same(like, stored_arrays(item), where=str(item))
    args = {name: ocp.args.JsonRestore() for name in ('data', 'config')}
    args['state'] = ocp.args.StandardRestore(like)
    found = self._manager.restore(step, args=ocp.args.Composite(**args))
    extra = without_checksum(found.data, found.config)
    if extra.pop('next_step') != int(found.state.step):
      raise ValueError('state and loader position disagree')
    return Restored(step, found.state, extra)

  def _none_readable(self, failures: Mapping[int, Exception]) -> Exception:
    for e in failures.values():
      if isinstance(e, UserError):
        return e
    reasons = '; '.join(f'{step} ({one_line(e)})' for step, e in failures.items())
    return UserError(
      f'none of the checkpoints in {self._folder} can be read: {reasons}. Move the folder away to '
      'start from scratch.'
    )

  def close(self) -> None:
    """Waits for the save in progress, and logs a failure. No process waits for another."""
    try:
      self._manager.close()
    except Exception as e:
      logging.error('the checkpoint of step %s was NOT saved: %s.', self._saving, one_line(e))


def _drop_errors_of_orbax(record: standard_logging.LogRecord) -> bool:
  logged = 'orbax' in record.pathname or 'never retrieved' in record.getMessage()
  return not (logged and record.levelno >= standard_logging.ERROR)


def _drop_closed_loop_errors(kind, value, trace) -> None:
  # tensorstore prints this for each array that was being written when a save failed.
  if str(value) != 'Event loop is closed':
    _excepthook(kind, value, trace)


def _write_failure(e: Exception) -> Exception:
  """Returns an exception that is a failure to write; raises any other, which is a bug."""
  if isinstance(e, OSError) or is_outage(e) or of_a_store(e):
    return e
  # tensorstore's codes, such as NOT_FOUND or DATA_LOSS; these three mean a wrong call.
  code = re.match(r'([A-Z]+(_[A-Z]+)*): ', str(e))
  if code and code[1] not in ('INVALID_ARGUMENT', 'UNIMPLEMENTED', 'OUT_OF_RANGE'):
    return e
  raise e


def _test_saving(folder: str) -> None:
  """Writes and renames as a save does; raises a UserError or Unavailable if that fails."""
  part = f'{folder}/.trial'
  try:
    if storage.is_remote(folder):  # Through tensorstore, which writes the arrays.
      store = tensorstore.KvStore.open(f'{folder}/').result()
      store.write('.trial', bytes(4096)).result()
    else:
      storage.remove(part)  # Left by a process that was killed here.
      storage.make_folder(f'{part}/before')
      storage.write(f'{part}/before/file', bytes(4096))
      storage.move(f'{part}/before', f'{part}/after')
    storage.remove(part)
  except Exception as e:
    with contextlib.suppress(Exception):
      storage.remove(part)
    raise (Unavailable if is_outage(e) else UserError)(
      f'no checkpoint can be saved in {folder}, where files must be written and folders renamed: '
      f'{one_line(e)}.'
    ) from e


def _set_aside(step: str) -> None:
  storage.remove(f'{step}.damaged')
  if storage.is_remote(step):  # Objects move one by one: without the mark it is no checkpoint.
    storage.remove(f'{step}/{MARK}')
  storage.move(step, f'{step}.damaged')
