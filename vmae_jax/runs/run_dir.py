"""The folder of a run: its config, its environment and its results."""

import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vmae_jax import storage
from vmae_jax.errors import Unavailable, UserError, first_few, is_outage

CONFIG_FILE = 'config.json'
ENVIRONMENT_FILE = 'environment.json'
SUMMARY_FILE = 'summary.json'
MARK = 'commit_success.txt'  # Orbax's mark of a complete checkpoint in a bucket.
CLASSES_FILE = 'classes.txt'  # Names of the classes, one a line.

PACKAGES = (
  *('jax', 'jaxlib', 'libtpu', 'flax', 'optax', 'orbax-checkpoint', 'numpy'),
  *('av', 'grain', 'array-record'),
)
BUCKETS = ('gs://',)  # In which runs can be stored.
_ABSENT = object()


def prepare_run_dir(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict,
  *,
  ignore: Sequence[str] = (),
  implied: ml_collections.ConfigDict | None = None,
) -> None:
  """Makes the folder of a new run, or checks that the run in it is the same one.

  A new folder gets config.json (all values resolved, keys sorted), which is never written again.
  Each start adds `environment()` to the list in environment.json. All processes of a run check;
  only the main one writes.

  Args:
    workdir: The folder, on this machine, a mounted disk or in a bucket.
    config: The whole config.
    ignore: Keys that may change between starts of one run; a key stands for all below it.
    implied: Values of keys that a config.json may lack because it is older than the keys; such a
      run goes on with these values.

  Raises:
    UserError: the folder belongs to a run with another config, holds other files, or cannot be
      written to.
    Unavailable: it cannot be written to now, such as on a full disk.
  """
  defaults = {} if implied is None else dict(leaves(json.loads(implied.to_json())))
  now, main = json.loads(config.to_json()), jax.process_index() == 0
  workdir = os.fspath(workdir)
  path = f'{workdir}/{CONFIG_FILE}'
  with make_run_dir(workdir):
    # Listed before config.json is looked for, since the main process may write it in between.
    names = storage.names(workdir) if storage.is_folder(workdir) else []
    found = [name for name in names if not name.startswith('.')]
    if storage.is_file(path):
      _check_same(path, _read_json(path), now, ignore, defaults)
    elif found:
      raise UserError(
        f'--workdir={workdir}: holds {found[0]!r} but no {CONFIG_FILE}, so it is no run of '
        'vmae_jax; choose a new or an empty folder.'
      )
    elif main:
      _write_json(path, now)
    if main:
      remove_unfinished(workdir)  # Before more is written, as they may fill the disk.
      path = f'{workdir}/{ENVIRONMENT_FILE}'
      earlier = _read_json(path) if storage.is_file(path) else []
      _write_json(path, [*earlier, environment()])


@contextlib.contextmanager
def make_run_dir(workdir: str | os.PathLike) -> Iterator[None]:
  """Makes a run's folder; errors of writing to it in this block become one line."""
  workdir = os.fspath(workdir)
  with _one_line_errors(workdir):
    storage.make_folder(workdir)
    yield


@contextlib.contextmanager
def _one_line_errors(workdir: str) -> Iterator[None]:
  if storage.is_remote(workdir) and not workdir.startswith(BUCKETS):
    raise UserError(
      f'--workdir={workdir}: a run needs a folder or a gs:// bucket, where Orbax can save '
      'checkpoints; mount another one, and give the path of a folder in it.'
    )
  try:
    yield
  except OSError as e:
    if is_outage(e):
      raise Unavailable(f'--workdir={workdir}: {e.strerror}.') from e
    raise UserError(
      f'--workdir={workdir}: {e.strerror}; choose a folder that can be written to.'
    ) from e


def go_on_as_before(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict, earlier: Mapping[str, Any]
) -> None:
  """Sets the keys of `config` that the run in the folder lacks because it is older than they are.

  `earlier` says for each key how runs behaved before it existed. There may be no run yet.
  """
  workdir = os.fspath(workdir)
  with _one_line_errors(workdir):
    if storage.is_file(path := f'{workdir}/{CONFIG_FILE}'):
      stored = dict(leaves(_read_json(path)))
      missing = {key: value for key, value in earlier.items() if key not in stored}
      config.update_from_flattened_dict(missing)


def environment() -> dict[str, Any]:
  """What a run depends on apart from its config: versions, devices, commit, command, time."""
  devices = jax.devices()
  return {
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'command': shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
    'platform': platform.platform(),
    'python': platform.python_version(),
    'packages': versions(),
    'backend': jax.default_backend(),
    'devices': len(devices),
    'device_kinds': sorted({device.device_kind for device in devices}),
    'processes': jax.process_count(),
    'git': _git_state(),
  }


def versions() -> dict[str, str]:
  """The versions of the packages that a run depends on, 'absent' for those not installed."""
  found = {}
  for name in PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = 'absent'
  return found


def write_summary(workdir: str | os.PathLike, summary: Mapping[str, Any]) -> None:
  """Writes the results of a run to summary.json, replacing an earlier one; NaN as null."""
  valid = json.loads(json.dumps(summary), parse_constant=lambda _: None)  # JSON has no NaN.
  _write_json(f'{os.fspath(workdir)}/{SUMMARY_FILE}', valid)


def remove_unfinished(workdir: str | os.PathLike) -> None:
  """Removes what is left of saves that failed or were interrupted by the end of a process."""
  folder = f'{os.fspath(workdir)}/checkpoints'
  for name in storage.names(folder) if storage.is_folder(folder) else ():
    path = f'{folder}/{name}'
    # In a bucket, where folders cannot be renamed, a step is complete once Orbax has marked it.
    unmarked = storage.is_remote(folder) and name.isdigit() and not is_whole(path)
    if unmarked and _committed(path):  # It was copied from a disk.
      for item in ('', '/config', '/data', '/state'):
        storage.write(f'{path}{item}/{MARK}', b'')
    elif unmarked or '.orbax-checkpoint-tmp' in name:
      with contextlib.suppress(OSError):
        storage.remove(path)


def _committed(step: str) -> bool:
  """Whether Orbax has completed a checkpoint, which it notes before it renames or marks it."""
  try:
    return bool(json.loads(storage.read(f'{step}/_CHECKPOINT_METADATA'))['commit_timestamp_nsecs'])
  except (OSError, ValueError, KeyError, TypeError):
    return False


def is_whole(step: str) -> bool:
  """Whether the checkpoint in a folder is complete."""
  saved = storage.is_folder(f'{step}/state')
  return saved and (not storage.is_remote(step) or storage.is_file(f'{step}/{MARK}'))


def _write_json(path: str, value: Any) -> None:
  storage.write_text(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def _read_json(path: str) -> Any:
  try:
    return json.loads(storage.read_text(path))
  except ValueError as e:
    raise UserError(f'{path} is not JSON ({e}): repair it or choose another --workdir.') from e


def _check_same(path: str, stored: dict, now: dict, ignore: Sequence[str], implied: dict) -> None:
  differences = differing(stored, now, ignore, implied)
  if differences:
    list_only = all(difference.startswith('data.train ') for difference in differences)
    hint = ', or set data.changed=True' if list_only else ''
    if all(difference.startswith(('steps ', 'epochs ')) for difference in differences):
      hint = '; for a longer run start another one from its weights (--config.init_from)'
    raise UserError(
      f'{path}: the run there has another config: {first_few(differences, separator="; ")}. Choose '
      f'another --workdir, or start with the old values to go on with that run{hint}.'
    )


def differing(stored: dict, now: dict, ignore: Sequence[str], implied: dict) -> list[str]:
  """A line for each key in which two configs differ, except those that `ignore` names.

  `implied` has the values of keys, such as 'log.every_steps', that an older `stored` may lack.
  """
  stored, now = dict(leaves(stored)), dict(leaves(now))
  found = []
  for key in sorted(stored.keys() | now.keys()):
    ignored = any(f'{key}.'.startswith(f'{prefix}.') for prefix in ignore)
    before, after = stored.get(key, implied.get(key, _ABSENT)), now.get(key, _ABSENT)
    if before != after and not ignored:
      found.append(f'{key} was {_show(before)}, is {_show(after)}')
  return found


def leaves(config: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields ('a.b', value) for all values of nested dicts; an empty dict is a value."""
  if isinstance(config, dict) and (config or not prefix):
    for key, value in config.items():
      yield from leaves(value, f'{prefix}.{key}' if prefix else key)
  else:
    yield prefix, config


def _show(value: Any) -> str:
  return 'absent' if value is _ABSENT else json.dumps(value)


def _git_state() -> dict[str, Any] | None:
  """Commit of the checkout that holds this file, and whether tracked files were changed.

  None without git and for an installed package, even one inside another project's checkout.
  """

  def git(*args: str) -> str:
    command = ['git', '-C', str(Path(__file__).parent), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

  try:
    git('ls-files', '--error-unmatch', Path(__file__).name)
    commit = git('rev-parse', 'HEAD')
    return {'commit': commit, 'dirty': bool(git('status', '--porcelain', '--untracked-files=no'))}
  except (OSError, subprocess.CalledProcessError):
    return None
