"""The record of videos that could not be read and were replaced, beside the checkpoints."""

import csv
import os
from itertools import islice

COLUMNS = ('path', 'reason', 'first seen step')


class BadVideos:
  """A table of videos that could not be read; each is named once, over restarts.

  Args:
    path: The file, usually WORKDIR/bad_videos.csv; made if there is something to write.
  """

  def __init__(self, path: str | os.PathLike):
    self._path, self._seen = path, 0  # How many of the failures.
    self._known: set[str] = set()
    if os.path.exists(path):
      with open(path, newline='', encoding='utf-8', errors='surrogateescape') as f:
        self._known = {row[0] for row in csv.reader(f) if row}

  def record(self, failures: dict[str, str], step: int) -> int:
    """Appends the videos that the file does not name yet.

    Args:
      failures: From a video's name to the reason, as `Loader.failures`, which only grows.
      step: The step that training has reached.

    Returns:
      How many were new.
    """
    if len(failures) == self._seen:
      return 0
    rows = [(*failure, step) for failure in islice(failures.items(), self._seen, None)]
    self._seen += len(rows)
    new = [row for row in rows if row[0] not in self._known]
    if new:
      with open(self._path, 'a', newline='', encoding='utf-8', errors='surrogateescape') as f:
        csv.writer(f).writerows(new if self._known else [COLUMNS, *new])
      self._known.update(row[0] for row in new)
    return len(new)
