"""A file to append to, on a disk or in a bucket, whose objects cannot be appended to."""

import os
import time

from absl import logging

from vmae_jax import storage

MOST_WAITING = 1 << 26  # Bytes that are kept until the disk has room; more are dropped.
PAUSE = 10.0  # Seconds between two writes of a whole object.


class Appended:
  """A file to append to; if it cannot be written, one line says so and the run goes on.

  On a disk each write happens at once; what a full disk does not take is kept and written later.
  An object in a bucket is written as a whole, by the first `write` after `PAUSE` seconds and by
  `flush`. `size` includes the bytes that wait.
  """

  def __init__(self, path: str):
    self.path, self.remote = path, storage.is_remote(path)
    self._waiting, self._logged, self._at = bytearray(), False, time.monotonic()
    self._file = None if self.remote else open(path, 'ab', buffering=0)
    there = storage.is_file(path)
    self._whole = bytearray(storage.read(path) if self.remote and there else b'')
    self.size = len(self._whole) if self.remote else os.path.getsize(path)

  def truncate(self, size: int) -> None:
    """Cuts the file to this many bytes; call it before the first write."""
    if size == self.size:
      return
    self.size = size
    if self._file is not None:
      self._file.truncate(size)
    else:
      del self._whole[size:]
      storage.write(self.path, bytes(self._whole))

  def write(self, data: bytes) -> None:
    if len(self._waiting) < MOST_WAITING:  # Takes a whole line or record, or none of it.
      self._waiting += data
      self.size += len(data)
    if not self.remote or time.monotonic() >= self._at + PAUSE:
      self.flush()

  def flush(self) -> None:
    if not self._waiting:
      return
    try:
      if self._file is None:
        storage.write(self.path, bytes(self._whole + self._waiting))
        self._whole += self._waiting
        self._waiting.clear()
      while self._waiting:
        del self._waiting[: self._file.write(self._waiting)]
    except OSError as e:
      if not self._logged:
        logging.error('%s cannot be written: %s. The run goes on.', self.path, e.strerror)
      self._logged = True
    self._at = time.monotonic()

  def close(self) -> None:
    self.flush()
    if self._file is not None:
      self._file.close()
