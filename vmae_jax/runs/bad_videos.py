"""The record of videos that could not be read and were replaced, beside the checkpoints."""

import csv
import os

COLUMNS = ('path', 'reason', 'first seen step')


def record(path: str, failures: dict[str, str], step: int) -> int:
  """Appends the videos that the file does not name yet; each is named once, over restarts.

  Args:
    path: The file, usually WORKDIR/bad_videos.csv; made if there is something to write.
    failures: From a video's name to the reason, as `Loader.failures`.
    step: The step that training has reached.

  Returns:
    How many were new.
  """
  if not failures:
    return 0
  known = set()
  if os.path.exists(path):
    with open(path, newline='', encoding='utf-8', errors='surrogateescape') as f:
      known = {row[0] for row in csv.reader(f) if row}
  new = [(name, reason, step) for name, reason in failures.items() if name not in known]
  if new:
    with open(path, 'a', newline='', encoding='utf-8', errors='surrogateescape') as f:
      writer = csv.writer(f)
      writer.writerows(new if known else [COLUMNS, *new])
  return len(new)
