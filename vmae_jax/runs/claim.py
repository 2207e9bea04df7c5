"""A run's folder: one run in it at a time, and the same folder in all processes of that run."""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator

import jax

from vmae_jax import lock, storage
from vmae_jax.errors import UserError
from vmae_jax.runs.agreement import gather, main_does
from vmae_jax.runs.run_dir import make_run_dir

PATIENCE = 10.0  # Seconds after which a network disk should show a new file.


@contextlib.contextmanager
def claimed(workdir: str | os.PathLike) -> Iterator[None]:
  """Makes the folder of a run and keeps other runs out of it.

  All processes of the run must call it; an error in one is raised in all.

  Raises:
    UserError: another run is at work there (says which, and since when), it cannot be written
      to, or not all processes see the same folder.
    Unavailable: it cannot be written to now, such as on a full disk.
  """
  with contextlib.ExitStack() as stack:

    def enter():
      with make_run_dir(workdir):
        stack.enter_context(lock.held(workdir))

    main_does(enter)
    if jax.process_count() > 1:
      _check_same_folder(os.fspath(workdir))
    yield


def _check_same_folder(workdir: str) -> None:
  """Raises a UserError if not all processes see what the first one writes there."""
  # A new name: a network disk may cache that a name which was looked up before is missing.
  (key, *_) = gather(uuid.uuid4().hex)
  file = f'{workdir}/.seen-{key}'
  if jax.process_index() == 0:
    storage.write(file, b'')
  gather(None)
  end = time.monotonic() + PATIENCE
  while not (seen := storage.is_file(file)) and time.monotonic() < end:
    time.sleep(0.5)
  answers = gather([socket.gethostname(), seen])
  blind = [f'{i} ({host})' for i, (host, seen) in enumerate(answers) if not seen]
  if jax.process_index() == 0:
    storage.remove(file)
  if blind:
    raise UserError(
      f'--workdir={workdir} is not the same folder in all processes of this run: '
      f'{", ".join(blind)} cannot see what process 0 writes there. Give one on a disk '
      'that all hosts share.'
    )
