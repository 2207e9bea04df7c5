"""A lock on a folder: one process writes there at a time, from whichever host.

The file `.lock` names its holder. Making it exclusively is what NFS, Lustre and buckets do right
where `flock` knows one host only, or is missing. While it is held, its time stamp is renewed; so
a holder of another host that has died is known by its silence, and one of this host at once.
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
SILENCE = 120.0  # Without one the holder is dead; network disks show old stamps for up to 60 s.
PAUSE = 1.0  # After taking a dead lock: two may take it at once, and the later one has it.
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: dict[str, str] = {}


@contextmanager
def held(folder: str | os.PathLike) -> Iterator[None]:
  """Holds the lock of a folder of this machine, of a network disk or of a bucket.

  Only the process that entered the block holds it: processes that it forks free nothing. Where
  the disk knows no exclusive files, a line says so and there is no lock. A process whose lock was
  taken after all, since it could not renew it, ends with code 74 lest two write.

  Raises:
    UserError: a live process holds it; says which, and since when.
    OSError: the folder is not there or cannot be written.
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
  """Frees what this process holds, which is about to end."""
  for path in list(_held):
    _free(path)


def _free(path: str) -> None:
  text = _held.pop(path, None)
  with suppress(OSError):
    if storage.read_text(path) == text:
      storage.remove(path)


def _take(path: str, text: str) -> bool:
  """Makes the file; returns whether this disk can."""
  taken = False
  while True:
    try:
      storage.create(path, text.encode())
    except FileExistsError:
      # After an answer of a bucket that got lost, it is this process's own.
      if (there := _read(path)) is None or there[0] != text:
        taken = _free_dead(path) or taken
        continue
    except OSError as e:
      if e.errno not in UNSUPPORTED:
        raise
      print(
        f'{os.path.dirname(path)}: this disk knows no exclusive files ({e.strerror}), so a second '
        'process is not kept from writing there.',
        file=sys.stderr,
      )
      return False
    if taken:
      time.sleep(PAUSE)
    with suppress(FileNotFoundError):
      if not taken or storage.read_text(path) == text:
        return True


def _free_dead(path: str) -> bool:
  """Removes the lock of a dead process; returns False if it was free by then.

  Raises:
    UserError: its holder lives.
  """
  there = _read(path)
  if there is None:
    return False
  folder, text = os.path.dirname(path), there[0]
  try:
    holder = json.loads(text)
    who = f'process {holder["pid"]} on {holder["host"]}'
    who_since = f'{who} since {holder["since"]}'
  except (ValueError, KeyError, TypeError):  # It died between making and writing it.
    holder, who = {}, 'a process unknown'
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
  """Text and stamp of the lock as the disk has them now, None if there is none."""
  try:  # Opening it asks an NFS server anew.
    return storage.read(path).decode(errors='replace'), storage.stamp(path)
  except FileNotFoundError:
    return None


def _renew(path: str, text: str, ended: threading.Event) -> None:
  """Renews the time stamp; ends the process if another one has taken the lock."""
  while not ended.wait(BEAT):
    with suppress(OSError):  # The disk is away for a while, or somebody has removed the lock.
      there = storage.read_text(path)
      if there == text:
        storage.touch(path, text.encode())
      elif there and not ended.is_set():
        folder = os.path.dirname(path)
        print(f'{folder}: another process has taken the lock; ending.', file=sys.stderr)
        sys.stderr.flush()
        os._exit(EXIT_UNAVAILABLE)


def _pids() -> str:
  """Names the space that process numbers are of: a container, in one run of a system."""
  try:
    boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:  # No Linux.
    return socket.gethostname()


def _birth(pid: int) -> str:
  """When a process was started, as numbers come again; '' where the system does not say."""
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
