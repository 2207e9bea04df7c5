"""The table of videos that could not be read and were replaced, and when these are too many."""

import csv
import io
import math
import re
from itertools import islice

from vmae_jax import storage
from vmae_jax.errors import UNAVAILABLE
from vmae_jax.runs.appended import Appended

CHANCE = 1e-9  # Of stopping a run without cause; so small because it is tested at every step.
COLUMNS = ('path', 'reason', 'first seen step')


def too_many(bad: int | float, visits: int | float, *, videos: int, share: float) -> bool:
  """Whether more than a share of the videos is broken, beyond what chance explains.

  Each epoch visits every video once, so whole epochs leave nothing to chance. In the rest the
  number of broken ones is hypergeometric, which spreads less than a binomial, for which the
  Chernoff bound holds: P(bad >= q n) <= exp(-n KL(q || share)).

  Args:
    bad: Visits that met a broken video.
    visits: All visits.
    videos: Videos in the data set.
    share: Share of the videos that may be broken.
  """
  epochs, n = divmod(visits, videos)
  bad -= epochs * math.floor(share * videos)
  if bad <= share * n or share >= 1:
    return False
  if bad > n or share <= 0:
    return True
  q = bad / n
  divergence = q * math.log(q / share)
  if q < 1:
    divergence += (1 - q) * math.log((1 - q) / (1 - share))
  return n * divergence > -math.log(CHANCE)


def count_unavailable(workdir: str) -> int:
  """How many videos in the tables of all processes gave no answer instead of being damaged."""
  tables = [x for x in storage.names(workdir) if re.fullmatch(r'bad_videos(-\d+)?\.csv', x)]
  rows = [row for table in tables for row in _rows(f'{workdir}/{table}')]
  return sum(len(row) > 1 and row[1].startswith(UNAVAILABLE) for row in rows)


def _rows(path: str) -> list[list[str]]:
  text = storage.read(path).decode(errors='surrogateescape')
  return [row for row in csv.reader(io.StringIO(text, newline='')) if row]


class BadVideos:
  """A table of videos that could not be read; each is named once, also over restarts.

  The file, usually WORKDIR/bad_videos.csv, is made once there is something to write.
  """

  def __init__(self, path: str):
    self._path, self._seen = path, 0  # Number of failures that `record` has seen.
    self._file: Appended | None = None
    self._known = {row[0] for row in _rows(path)} if storage.is_file(path) else set()

  def record(self, failures: dict[str, str], step: int) -> int:
    """Appends the videos that the file does not name yet; returns how many were new.

    `failures` is that of `Loader`, which only grows; `step` is where training is.
    """
    rows = [(*failure, step) for failure in islice(failures.items(), self._seen, None)]
    new = [row for row in rows if row[0] not in self._known]
    if new:
      text = io.StringIO(newline='')
      csv.writer(text).writerows(new if self._known else [COLUMNS, *new])
      self._file = self._file or Appended(self._path)
      self._file.write(text.getvalue().encode(errors='surrogateescape'))
      self._known.update(row[0] for row in new)
    self._seen += len(rows)
    return len(new)

  def flush(self) -> None:
    """Writes what waits, see `Appended`."""
    if self._file is not None:
      self._file.flush()
