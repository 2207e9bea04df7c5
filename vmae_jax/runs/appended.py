"""A file that only grows, on a disk or in a bucket, where objects do not."""

import os
import time

from absl import logging

from vmae_jax import storage

MOST_LATE = 1 << 26  # Bytes that wait for room on the disk.
PAUSE = 10.0  # Seconds between two times that an object is written as a whole.


class Appended:
  """A file to append to; one that cannot be written is told once, and ends nothing.

  A file of a disk gets each write at once; what a full one does not take is kept and written
  later. An object in a bucket is written as a whole, with the next `write` once `PAUSE` seconds
  have passed, and by `flush`. `size` counts the bytes that wait, too.
  """

  def __init__(self, path: str):
    self.path, self.remote = path, storage.is_remote(path)
    self._late, self._told, self._at = bytearray(), False, time.monotonic()
    self._file = None if self.remote else open(path, 'ab', buffering=0)
    there = storage.is_file(path)
    self._whole = bytearray(storage.read(path) if self.remote and there else b'')
    self.size = len(self._whole) if self.remote else os.path.getsize(path)

  def truncate(self, size: int) -> None:
    """Cuts what follows so many bytes; before anything is written."""
    if size == self.size:
      return
    self.size = size
    if self._file is not None:
      self._file.truncate(size)
    else:
      del self._whole[size:]
      storage.write(self.path, bytes(self._whole))

  def write(self, data: bytes) -> None:
    if len(self._late) < MOST_LATE:  # All of a line or record, or nothing.
      self._late += data
      self.size += len(data)
    if not self.remote or time.monotonic() >= self._at + PAUSE:
      self.flush()

  def flush(self) -> None:
    if not self._late:
      return
    try:
      if self._file is None:
        storage.write(self.path, bytes(self._whole + self._late))
        self._whole += self._late
        self._late.clear()
      while self._late:
        del self._late[: self._file.write(self._late)]
    except OSError as e:
      if not self._told:
        logging.error('%s cannot be written: %s. The run goes on.', self.path, e.strerror)
      self._told = True
    self._at = time.monotonic()

  def close(self) -> None:
    self.flush()
    if self._file is not None:
      self._file.close()
