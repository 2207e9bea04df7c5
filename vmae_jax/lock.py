"""A lock on a folder: one process at a time writes there, whichever host it runs on.

The file `.lock` names its holder. It is created exclusively, which works on NFS, Lustre and in
buckets, where `flock` covers one host only or is missing. The holder renews its time stamp: a dead
holder on another host is recognised by an old stamp, one on this host by its process number.
"""

import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from vmae_jax import storage
from vmae_jax.errors import EXIT_UNAVAILABLE, UserError

NAME = '.lock'
BEAT = 15.0  # Seconds between two renewals.
# Seconds without a renewal after which a holder counts as dead; network disks show old stamps for
# up to 60 s.
SILENCE = 120.0
PAUSE = 1.0  # Seconds after taking over a lock: two may do so at once, and the later one has it.
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: dict[str, str] = {}


@contextmanager
def held(folder: str | os.PathLike) -> Iterator[None]:
  """Holds the lock of a folder on this machine, a network disk or in a bucket.

  Only the process that entered the block holds it: forked processes do not free it. If the disk
  cannot create files exclusively, a line says so and there is no lock. A process that loses its
  lock, because it could not renew it in time, ends with code 74, so that no two write.

  Raises:
    UserError: a live process holds it; says which, and since when.
    OSError: the folder does not exist or cannot be written to.
  """
  path, pid = storage.join(os.fspath(folder), NAME), os.getpid()
  mine = {'host': socket.gethostname(), 'pid': pid, 'birth': _birth(pid), 'pids': _pids()}
  mine |= {'since': datetime.now().astimezone().isoformat(' ', 'seconds'), 'key': uuid.uuid4().hex}
  text = json.dumps(mine)
  if not _take(path, text):
    yield
    return
  ended, _held[path] = threading.Event(), text
  threading.Thread(target=_renew, args=(path, text, ended), name='lock', daemon=True).start()
  try:
    yield
  finally:
    if os.getpid() == pid:
      ended.set()
      _free(path)


def free_all() -> None:
  """Frees all locks of this process, which is about to end."""
  for path in list(_held):
    _free(path)


def _free(path: str) -> None:
  text = _held.pop(path, None)
  with suppress(OSError):
    if storage.read_text(path) == text:
      storage.remove(path)


def _take(path: str, text: str) -> bool:
  """Creates the lock; returns False if this disk cannot create files exclusively."""
  taken = False  # Whether the lock of a dead process was removed.
  while True:
    try:
      storage.create(path, text.encode())
    except FileExistsError:
      # If a bucket's answer to `create` was lost, the file is this process's own.
      if (there := _read(path)) is None or there[0] != text:
        taken = _free_dead(path) or taken
        continue
    except OSError as e:
      if e.errno not in UNSUPPORTED:
        raise
      print(
        f'{os.path.dirname(path)}: this disk cannot create files exclusively ({e.strerror}), so '
        'a second process is not kept from writing there.',
        file=sys.stderr,
      )
      return False
    if taken:
      time.sleep(PAUSE)
    with suppress(FileNotFoundError):
      if not taken or storage.read_text(path) == text:
        return True


def _free_dead(path: str) -> bool:
  """Removes the lock of a dead process; returns False if it was gone already.

  Raises:
    UserError: its holder is alive.
  """
  there = _read(path)
  if there is None:
    return False
  folder, text = os.path.dirname(path), there[0]
  try:
    holder = json.loads(text)
    who = f'process {holder["pid"]} on {holder["host"]}'
    who_since = f'{who} since {holder["since"]}'
  except (ValueError, KeyError, TypeError):  # Its holder died between creating and writing it.
    holder, who = {}, 'an unknown process'
    who_since = who
  if holder.get('pids') == _pids():
    alive = _alive(holder['pid'], holder['birth'])
  else:
    print(
      f'{folder} is locked by {who_since}: waiting up to {SILENCE:g} s for a sign of life.',
      file=sys.stderr,
      flush=True,
    )
    end = time.monotonic() + SILENCE
    while (now := _read(path)) == there and time.monotonic() < end:
      time.sleep(min(1.0, BEAT))
    if now is None:
      return False
    alive = now != there
  if alive:
    raise UserError(
      f'{folder} is in use by {who_since}: wait for it or stop it. (If it is surely gone, remove '
      f'{path}.)'
    )
  now = _read(path)
  if now is None or now[0] != text:
    return False
  storage.remove(path)
  print(f'{folder} was locked by {who_since}, which is dead: going on.', file=sys.stderr)
  return True


def _read(path: str) -> tuple[str, str] | None:
  """Text and stamp of the lock, or None if there is none."""
  try:  # Opening the file makes an NFS client ask the server instead of its cache.
    return storage.read(path).decode(errors='replace'), storage.stamp(path)
  except FileNotFoundError:
    return None


def _renew(path: str, text: str, ended: threading.Event) -> None:
  """Renews the time stamp; ends the process if another one has taken the lock."""
  while not ended.wait(BEAT):
    with suppress(OSError):  # The disk may be unavailable for a while, or the lock removed.
      there = storage.read_text(path)
      if there == text:
        storage.touch(path, text.encode())
      elif there and not ended.is_set():
        folder = os.path.dirname(path)
        print(f'{folder}: another process has taken the lock; ending.', file=sys.stderr)
        sys.stderr.flush()
        os._exit(EXIT_UNAVAILABLE)


def _pids() -> str:
  """Identifies where process numbers are valid: a container, until the machine restarts."""
  try:
    boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:  # Not Linux.
    return socket.gethostname()


def _birth(pid: int) -> str:
  """Start time of a process, as numbers are reused; 'dead' of a zombie, '' if it is unknown."""
  try:
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8', errors='replace')
  except OSError:
    return ''
  state, *others = fields.rpartition(')')[2].split()
  return 'dead' if state in 'ZX' else others[18]


def _alive(pid: int, birth: str) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:  # Another user's.
    pass
  now = _birth(pid)
  return not birth or not now or now == birth
