"""The record of videos that could not be read and were replaced, beside the checkpoints."""

import csv
import math
import os
from itertools import islice

CHANCE = 1e-9  # Of stopping a run in vain; it is asked after each step.
COLUMNS = ('path', 'reason', 'first seen step')


def too_many(bad: int | float, visits: int | float, *, videos: int, share: float) -> bool:
  """Whether more than a share of the videos is broken, beyond what chance explains.

  Each epoch visits every video once, so that whole epochs leave nothing to chance. Of the rest
  the number of broken ones is at most binomial (hypergeometric, which spreads less), for which
  the Chernoff bound holds: P(bad >= q n) <= exp(-n KL(q || share)).

  Args:
    bad: Visits that met a broken video.
    visits: All of them.
    videos: In the data set.
    share: That may be broken.
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
    new = [row for row in rows if row[0] not in self._known]
    if new:
      with open(self._path, 'a', newline='', encoding='utf-8', errors='surrogateescape') as f:
        csv.writer(f).writerows(new if self._known else [COLUMNS, *new])
      self._known.update(row[0] for row in new)
    self._seen += len(rows)  # What a full disk did not take comes again.
    return len(new)
