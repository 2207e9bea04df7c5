"""Joins the processes of one run at its start; when one ends or is lost, the others end, too."""

import atexit
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from absl import flags

from vmae_jax import lock
from vmae_jax.errors import EXIT_BUG, EXIT_UNAVAILABLE, Unavailable, UserError

WAIT = 300  # Seconds to wait until all processes have joined.
HEARTBEAT = 60  # Seconds without a sign of life after which a process counts as gone.
ASK = 2.0  # Seconds between checks whether another process has ended.
_ENDED = 'vmae_jax/ended'  # Key under which the first process that ends says why.
_GONE = 'a process of this run is gone; start the same command again on all of them'
# In messages of Gloo, NCCL and JAX's coordination service about a lost connection.
_LOST = re.compile(
  r'Gloo [\w -]+ failed|NCCL|coordination service|heartbeat|Socket closed|by peer', re.I
)

_all_joined = threading.Event()
_leaving = threading.Lock()  # Taken for good by the first thread that ends the process.
_handlers: list[Any] = []  # Keeps callbacks that ctypes would free.


def join() -> None:
  """Joins the processes of one run; call it before anything touches a device.

  JAX finds the others on TPU pods, under Slurm and under Open MPI. Elsewhere each process needs
  JAX_COORDINATOR_ADDRESS (host:port of the first one), JAX_NUM_PROCESSES and JAX_PROCESS_ID. From
  then on a process ends when another one has ended: with the code of that one if it could tell it
  (`leave`), else with 74. With absl's --only_check_args the program ends here with 0, which says
  that its flags and config can be read.

  Raises:
    UserError: the variables are wrong.
    Unavailable: the first platform of JAX_PLATFORMS is missing. JAX itself would use the CPU if
      cuda is asked for and there is no /dev/nvidia*.
  """
  if flags.FLAGS.is_parsed() and flags.FLAGS.only_check_args:
    sys.exit()
  import jax  # Not above: worker processes do not need it.

  _leave_instead_of_aborting()
  count, index = os.environ.get('JAX_NUM_PROCESSES'), os.environ.get('JAX_PROCESS_ID')
  try:
    jax.distributed.initialize(
      num_processes=count and int(count),
      process_id=index and int(index),
      initialization_timeout=WAIT,
      heartbeat_timeout_seconds=HEARTBEAT,
    )
  except ValueError as e:
    raise UserError(f'--distributed: {str(e).splitlines()[0]}') from e
  _all_joined.set()
  if joined():
    over = threading.Event()
    atexit.register(over.set)  # Runs before JAX disconnects.
    threading.Thread(target=_watch, args=(over,), name='peers', daemon=True).start()
  asked = (jax.config.jax_platforms or 'cpu').split(',')[0]
  reason = 'JAX sees none and would compute on the CPU'
  try:
    there = jax.default_backend()
  except RuntimeError as e:
    there, reason = 'cpu', str(e).splitlines()[0]
  if asked != 'cpu' and there == 'cpu':
    raise Unavailable(f'JAX_PLATFORMS asks for {asked} on {socket.gethostname()}: {reason}.')


def joined() -> bool:
  """Whether this process is one of several."""
  return _client() is not None and _state().num_processes > 1


def is_first() -> bool:
  """Whether this process is the only one of its run, or the first."""
  return not joined() or _state().process_id == 0


def leave(code: int, line: str) -> NoReturn:
  """Prints `line` and ends this process with `code` at once, and the others of its run, too."""
  _leaving.acquire()
  # In a thread, as the disk, the console or the first process may not respond.
  said = threading.Thread(target=_say, args=(code, line), daemon=True)
  said.start()
  said.join(10)
  os._exit(code)


def check(error: Exception) -> None:
  """Ends this process if an error only says that another one of the run is gone."""
  if joined() and _LOST.search(str(error)):
    leave(*(_ended() or (EXIT_UNAVAILABLE, f'unavailable: {_GONE}')))


def fail(error: Exception) -> NoReturn:
  """Ends this process and the others after an error that is not a mistake of the user."""
  check(error)
  traceback.print_exception(error)
  leave(EXIT_BUG, f'ended by {type(error).__name__}: {error}'.splitlines()[0])


def _say(code: int, line: str) -> None:
  os.write(2, f'{line}\n'.encode())
  lock.free_all()
  if joined():
    about = f'{line} (process {_state().process_id} on {socket.gethostname()})'
    try:
      _client().key_value_set(_ENDED, json.dumps([code, about]))
      if _state().process_id == 0:  # The others can only ask while it runs.
        time.sleep(2 * ASK)
    except Exception:  # Another one was first, or process 0 is gone.
      pass
  sys.stdout.flush()


def _ended() -> tuple[int, str] | None:
  """Code and reason of the first process that has ended."""
  try:
    code, line = json.loads(_client().key_value_try_get(_ENDED))
  except Exception:  # It is not there, or process 0 is gone.
    return None
  return code, line


def _watch(over: threading.Event) -> None:
  while not over.wait(ASK):
    if (ended := _ended()) and not over.is_set():
      leave(*ended)


def _leave_instead_of_aborting() -> None:
  """Ends the process with one line when JAX's client aborts it because another one is lost.

  JAX offers a callback in place of the abort, but not to Python: its argument has no Python type
  (jaxlib 0.10).
  """

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def on_abort(_):
    answers = threading.Event()
    threading.Thread(target=_ask, args=(answers,), daemon=True).start()
    if not answers.wait(5):
      missing = f'not all processes of this run have come within {WAIT} s'
      leave(EXIT_UNAVAILABLE, f'unavailable: {_GONE if _all_joined.is_set() else missing}')
    # Otherwise the abort has another cause, and continues once this returns.

  _handlers.append(on_abort)
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(on_abort, ctypes.c_void_p))


def _ask(answers: threading.Event) -> None:
  """Sets `answers` if JAX's client works; after an error its calls fail or hang."""
  try:
    _client().key_value_try_get(_ENDED)
  except Exception as e:
    if not str(e).startswith('NOT_FOUND'):
      return
  answers.set()


def _state() -> Any:
  from jax._src import distributed

  return distributed.global_state


def _client() -> Any:
  return _state().client if 'jax' in sys.modules else None
