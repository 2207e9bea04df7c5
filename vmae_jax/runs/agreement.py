"""Whether all processes of a run have the same code, config and data, asked before the first step.

Processes that differ would hang or, worse, train on without a word: each computes its own part of
what it takes for the same step.
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

# What each host may have to itself: where its files lie and how many threads decode them.
_OWN = ('data.root', 'data.threads', 'data.workers')


def check_agreement(config: ml_collections.ConfigDict, source: DataSet) -> None:
  """Compares the processes of a run, if there are several, and the videos that they train on.

  Raises:
    UserError: they differ; names the processes and in what. Every process raises it.
  """
  if jax.process_count() > 1:
    check_same(gather(describe(config, source)))


def describe(config: ml_collections.ConfigDict, source: DataSet) -> dict[str, str]:
  """What must be the same in all processes, each a short text; and this one's `host`."""
  about = {'host': socket.gethostname(), 'code of vmae_jax': _code()}
  about |= versions()
  for key, value in leaves(json.loads(config.to_json())):
    if key not in _OWN:
      about[f'config {key}'] = json.dumps(value)
  return about | describe_data(source)


def describe_data(source: DataSet) -> dict[str, str]:
  """What the order of samples depends on, beside the config."""
  return {
    'number of videos': str(len(source)),
    'list of videos': source.about(),
    'grain': versions()['grain'],  # Its shuffling is no promise.
  }


def check_same_data(before: Mapping[str, str], now: Mapping[str, str], *, changed: bool) -> bool:
  """Whether the data of a run that goes on, by `describe_data`, are others than it has seen.

  Args:
    before: When the checkpoint was saved; empty in older ones.
    now: As they are now.
    changed: Whether they may differ: then that is only told.

  Raises:
    UserError: they differ, and may not.
  """
  other = [key for key in now if before.get(key, now[key]) != now[key]]
  if not other:
    return False
  differences = '; '.join(f'{key} was {before[key]}, is {now[key]}' for key in other)
  told = f'the data are not those of the checkpoint: {differences}'
  if not changed:
    raise UserError(
      f'{told}. Samples would be lost and repeated: bring the old ones back, or set '
      'data.changed=True to go on with these.'
    )
  logging.warning('%s. The run goes on with these, as data.changed says.', told)
  return True


def check_same(processes: list[dict[str, str]]) -> None:
  """Raises a UserError where processes differ, each of which says what `describe` says."""
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
    told = first_few(differences, separator='; ')
    raise UserError(
      f'the {len(processes)} processes of this run differ: {told}. Start all with the same code, '
      'command and data.'
    )


def main_does(work: Callable[[], None]) -> None:
  """Lets the main process do something; a UserError or Unavailable of it is raised in all."""
  failure = None
  if jax.process_index() == 0:
    try:
      work()
    except (UserError, Unavailable) as e:
      failure = e
  if told := gather(failure and (isinstance(failure, UserError), str(failure)))[0]:
    raise failure or (UserError if told[0] else Unavailable)(told[1])


def gather(about: Any) -> list[Any]:
  """What all processes say, in their order; of types that JSON has. All must call it."""
  if jax.process_count() == 1:
    return [about]
  text = np.frombuffer(json.dumps(about).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(len(text)))
  rows = multihost_utils.process_allgather(np.pad(text, (0, lengths.max() - len(text))))
  return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]


def _code() -> str:
  """A hash of the package's source files, which differs also where nothing is committed."""
  package = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes() + b'\0')
  return digest.hexdigest()[:12]
