"""Checks before the first step that all processes of a run have the same code, config and data.

Processes that differ would hang or, worse, train without an error, although the parts that they
compute are not of the same step.
"""

import collections
import hashlib
import json
import pathlib
import socket
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from vmae_jax.data.sources import DataSet
from vmae_jax.errors import Unavailable, UserError, first_few
from vmae_jax.runs.run_dir import leaves, versions

# Keys that may differ between hosts: where files lie, and how many threads decode them.
_OF_HOST = ('data.root', 'data.threads', 'data.workers')


def check_agreement(config: ml_collections.ConfigDict, source: DataSet) -> None:
  """Compares the processes of a run, if there are several, and the videos that they train on.

  Raises:
    UserError: they differ; says which processes and in what. Every process raises it.
  """
  if jax.process_count() > 1:
    check_same(gather(describe(config, source)))


def describe(config: ml_collections.ConfigDict, source: DataSet) -> dict[str, str]:
  """What must be the same in all processes, as short texts; and `host`, which need not be."""
  about = {'host': socket.gethostname(), 'code of vmae_jax': _code()}
  about |= versions()
  for key, value in leaves(json.loads(config.to_json())):
    if key not in _OF_HOST:
      about[f'config {key}'] = json.dumps(value)
  return about | describe_data(source)


def describe_data(source: DataSet) -> dict[str, str]:
  """What the order of samples depends on, apart from the config."""
  return {
    'number of videos': str(len(source)),
    'list of videos': source.about(),
    'grain': versions()['grain'],  # Another version may shuffle differently.
  }


def check_same_data(before: Mapping[str, str], now: Mapping[str, str], *, changed: bool) -> bool:
  """Whether the data have changed since the checkpoint that a run goes on from.

  Args:
    before: `describe_data` when the checkpoint was saved; older checkpoints may lack keys.
    now: `describe_data` now.
    changed: Whether they may differ: then there is only a warning.

  Raises:
    UserError: they differ and may not.
  """
  other = [key for key in now if before.get(key, now[key]) != now[key]]
  if not other:
    return False
  differences = '; '.join(f'{key} was {before[key]}, is {now[key]}' for key in other)
  message = f'the data are not those of the checkpoint: {differences}'
  if not changed:
    raise UserError(
      f'{message}. Samples would be lost and repeated: bring the old ones back, or set '
      'data.changed=True to go on with these.'
    )
  logging.warning('%s. The run goes on with these, as data.changed says.', message)
  return True


def check_same(processes: list[dict[str, str]]) -> None:
  """Raises a UserError if processes differ; takes the result of `describe` from each."""
  differences = []
  for key in dict.fromkeys(key for about in processes for key in about if key != 'host'):
    values = [about.get(key, 'absent') for about in processes]
    usual = collections.Counter(values).most_common(1)[0][0]
    odd = [i for i, value in enumerate(values) if value != usual]
    if odd:
      names = first_few([f'{i} ({processes[i]["host"]})' for i in odd])
      differences.append(
        f'{key} is {values[odd[0]]} in process {names}, but {usual} in process '
        f'{values.index(usual)} ({processes[values.index(usual)]["host"]})'
      )
  if differences:
    raise UserError(
      f'the {len(processes)} processes of this run differ: '
      f'{first_few(differences, separator="; ")}. Start all with the same code, command and data.'
    )


def main_does(work: Callable[[], None]) -> None:
  """Calls `work` in the main process; if it raises UserError or Unavailable, all processes do."""
  failure = None
  if jax.process_index() == 0:
    try:
      work()
    except (UserError, Unavailable) as e:
      failure = e
  if failed := gather(failure and (isinstance(failure, UserError), str(failure)))[0]:
    mistake, message = failed
    raise failure or (UserError if mistake else Unavailable)(message)


def gather(about: Any) -> list[Any]:
  """Returns the `about`, of JSON types, of every process, in their order; all must call it."""
  if jax.process_count() == 1:
    return [about]
  text = np.frombuffer(json.dumps(about).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(len(text)))
  rows = multihost_utils.process_allgather(np.pad(text, (0, lengths.max() - len(text))))
  return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]


def _code() -> str:
  """A hash of the package's source files, which also shows changes that are not committed."""
  package = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes() + b'\0')
  return digest.hexdigest()[:12]
