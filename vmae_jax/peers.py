"""The processes of one run: joined at the start; when one ends or is gone, so do the others."""

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

WAIT = 300  # Seconds until all processes have come.
HEARTBEAT = 60  # Seconds without a sign of life after which a process counts as gone.
ASK = 2.0  # Seconds from one question to the next whether another process has ended.
_ENDED = 'vmae_jax/ended'  # Where the first process that ends says why.
_GONE = 'a process of this run is gone; start the same command again on all of them'
# What Gloo, NCCL and JAX's coordination service say of a lost connection.
_LOST = re.compile(
  r'Gloo [\w -]+ failed|NCCL|coordination service|heartbeat|Socket closed|by peer', re.I
)

_came = threading.Event()  # Set once all processes have.
_leaving = threading.Lock()  # Taken for good by the first thread that ends the process.
_handlers: list[Any] = []  # ctypes frees what nobody holds.


def join() -> None:
  """Joins the processes of one run; call it before anything touches a device.

  JAX finds the others on TPU pods, under Slurm and under Open MPI. Elsewhere each process is
  told by JAX_COORDINATOR_ADDRESS (host:port of the first one), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID. From then on a process ends when another one has: with its code where that one
  could say it (`leave`), else with that of what is unavailable. With absl's --only_check_args the
  verb ends here with 0, which says that its flags and config can be read.

  Raises:
    Unavailable: the first device of JAX_PLATFORMS is not there. JAX itself takes the CPU where
      cuda is asked for and no /dev/nvidia* is seen.
  """
  if flags.FLAGS.is_parsed() and flags.FLAGS.only_check_args:
    sys.exit()
  import jax  # Not above: entry points' worker processes need none.

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
  _came.set()
  if joined():
    over = threading.Event()
    atexit.register(over.set)  # Runs before JAX leaves the others.
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
  """Whether this process does what one of a run is to do."""
  return not joined() or _state().process_id == 0


def leave(code: int, line: str) -> NoReturn:
  """Says why and ends this process at once, whatever its threads do, and the others with it."""
  _leaving.acquire()
  # A thread of its own: the disk, the console or the first process may be what is away.
  said = threading.Thread(target=_say, args=(code, line), daemon=True)
  said.start()
  said.join(10)
  os._exit(code)


def check(error: Exception) -> None:
  """Ends this process if an error only says that another one of the run is gone."""
  if joined() and _LOST.search(str(error)):
    leave(*(_ended() or (EXIT_UNAVAILABLE, f'unavailable: {_GONE}')))


def fail(error: Exception) -> NoReturn:
  """Ends this process and the others after an error that is none of the user's."""
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
      if _state().process_id == 0:  # With it goes what the others ask.
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
  """Lets JAX's client, which aborts the process when another one is gone, end it in one line.

  JAX offers a callback in place of the abort, but none that Python can write: its argument has
  no form in Python (jaxlib 0.10).
  """

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def on_abort(_):
    answers = threading.Event()
    threading.Thread(target=_ask, args=(answers,), daemon=True).start()
    if not answers.wait(5):
      missing = f'not all processes of this run have come within {WAIT} s'
      leave(EXIT_UNAVAILABLE, f'unavailable: {_GONE if _came.is_set() else missing}')
    # The abort has another reason. Once this returns, it goes its way.

  _handlers.append(on_abort)
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(on_abort, ctypes.c_void_p))


def _ask(answers: threading.Event) -> None:
  """Sets `answers` if JAX's client is at work: once it has met an error, it fails or hangs."""
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
