"""What lies in a checkpoint: reads all of it or a part, and whether it is what was saved.

A checkpoint is a folder WORKDIR/checkpoints/STEP with the items `state` (the train state), `data`
(the loader's position, which is one integer, a digest of every array of the state, what else the
run needs to go on, and a checksum) and `config`.
"""

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from vmae_jax import storage
from vmae_jax.errors import Unavailable, UserError, check_name, is_outage
from vmae_jax.runs.digests import digests, named
from vmae_jax.runs.run_dir import is_whole

# Else TensorFlow, where it is installed, would read buckets for Orbax.
os.environ.setdefault('EPATH_USE_TF', 'false')

WEIGHTS = {'params': 'last', 'ema': 'averaged'}  # Those that a run may hold, and what they are.


def one_line(e: Exception) -> str:
  """An exception's type and what it says: of pages, the beginning and the end."""
  text = ' '.join(f'{type(e).__name__}: {e}'.split())
  return text if len(text) <= 200 else f'{text[:97]} ... {text[-97:]}'


def checksum(data: Mapping[str, Any], config: Mapping[str, Any]) -> int:
  """Of a checkpoint's two items that are JSON."""
  return zlib.crc32(json.dumps([data, config], sort_keys=True).encode())


def without_checksum(data: Any, config: Any) -> dict[str, Any]:
  """The item `data` as it was before its checksum was added.

  Raises:
    ValueError: it is another one; other exceptions where `data` has another form.
  """
  data = dict(data)
  if data.keys() == {'next_step'}:
    logging.warning('this checkpoint is older than digests: whether it is intact is not known.')
  elif data.pop('check') != checksum(data, config):
    raise ValueError('position or config are not what was saved')
  return data


def damage(saved: Mapping[str, int] | None, tree: Any) -> str | None:
  """Which arrays of a tree are not those that were saved; None if all are, or nobody knows.

  Args:
    saved: The digests that lie beside the state.
    tree: What was loaded: the state or a part of it, each array under its path in the state.
  """
  if saved is None:
    return None
  wrong = [name for name, value in digests(tree).items() if saved.get(name) != value]
  return f'{len(wrong)} arrays are not what was saved, such as {wrong[0]}' if wrong else None


def stored_arrays(item: epath.Path) -> dict[str, Any]:
  """Path -> something with a shape, for every array of a saved tree, without reading it."""
  tree = ocp.PyTreeCheckpointHandler().metadata(item).tree
  return {name: leaf for name, leaf in named(tree).items() if hasattr(leaf, 'shape')}


def check_same(like: Any, found: dict[str, Any], *, where: str) -> None:
  """Raises a UserError that names parameters which differ between a model and a checkpoint."""
  wanted = named(like)
  missing = [k for k in wanted if k not in found]
  extra = [k for k in found if k not in wanted]
  other = [
    f'{k} is {tuple(found[k].shape)}, the model wants {tuple(wanted[k].shape)}'
    for k in wanted
    if k in found and tuple(found[k].shape) != tuple(wanted[k].shape)
  ]
  parts = []
  for what, names in (
    ('missing', missing),
    ('not in the model', extra),
    ('of another shape', other),
  ):
    if names:
      more = f' and {len(names) - 3} more' if len(names) > 3 else ''
      parts.append(f'{len(names)} {what}: {"; ".join(names[:3])}{more}')
  if parts:
    raise UserError(
      f'{where} is a checkpoint of another model: {". ".join(parts)}. '
      'Use its own config, or another --workdir.'
    )


def find_checkpoint(path: str) -> epath.Path:
  """The newest checkpoint of a run, or the checkpoint itself, that `path` names.

  Raises:
    UserError: there is none.
    Unavailable: nobody can say for now.
  """
  folder = storage.absolute(path).rstrip('/')
  try:
    if storage.is_folder(f'{folder}/state'):
      return epath.Path(folder)
    for parent in (f'{folder}/checkpoints', folder):
      if found := whole_steps(parent):
        return epath.Path(parent, str(found[-1]))
  except OSError as e:
    kind = Unavailable if is_outage(e) else UserError
    raise kind(f'{path} cannot be looked into: {one_line(e)}.') from e
  raise UserError(
    f'{path} holds no checkpoint: give a --workdir of a run, or one of its '
    'checkpoints/STEP folders.'
  )


def whole_steps(folder: str) -> list[int]:
  """Of the whole checkpoints in a folder."""
  names = storage.names(folder) if storage.is_folder(folder) else []
  return sorted(int(x) for x in names if x.isdigit() and is_whole(f'{folder}/{x}'))


def unreadable(folder: epath.Path, e: Exception) -> Exception:
  """What is said of a checkpoint's folder that could not be read."""
  if is_outage(e):
    return Unavailable(f'{folder} cannot be read now: {one_line(e)}.')
  return UserError(f'{folder} is damaged: {one_line(e)}. Take an earlier checkpoint.')


def arrays_of(folder: epath.Path) -> dict[str, Any]:
  """`stored_arrays` of the state in a checkpoint's folder.

  Raises:
    UserError: it is damaged.
    Unavailable: it cannot be read for now.
  """
  try:
    return stored_arrays(folder / 'state')
  except Exception as e:  # Damaged bytes make exceptions of all types.
    raise unreadable(folder, e) from e


def check_params(path: str, like: Any) -> epath.Path:
  """The state of the checkpoint that `path` names, if its parameters have the shapes of `like`.

  Raises:
    UserError: there is no checkpoint, or its parameters differ.
  """
  folder = find_checkpoint(path)
  item = folder / 'state'
  tops = tuple(f'params/{name}/' for name in like)
  stored = arrays_of(folder)
  found = {k.removeprefix('params/'): x for k, x in stored.items() if k.startswith(tops)}
  check_same(like, found, where=str(item))
  return item


def choose_weights(path: str, weights: str = '') -> str:
  """Which weights of a checkpoint are meant, `params` or `ema`: one rule for all that reads runs.

  Args:
    path: A run's workdir or a checkpoint's folder.
    weights: A key of WEIGHTS; '' for the moving average, which runs that keep one are tested
      with, and the last weights of the others.

  Raises:
    UserError: there is no checkpoint, or it holds no moving average.
  """
  check_name(weights or 'params', WEIGHTS, '--weights')
  folder = find_checkpoint(path)
  average = any(name.startswith('ema/') for name in arrays_of(folder))
  if weights == 'ema' and not average:
    raise UserError(
      f'{folder} holds no moving average (optimizer.ema was 0), which weights=ema asks for.'
    )
  return weights or ('ema' if average else 'params')


def load_params(path: str, like: Any, *, weights: str = '') -> Any:
  """The parameters of a run's newest checkpoint, or of the one that `path` names.

  Args:
    path: A run's workdir or a checkpoint's folder.
    like: Shapes, types and shardings of the parameters wanted: all of them or a subtree.
    weights: See `choose_weights`.

  Raises:
    UserError: there is no checkpoint, its parameters differ, it has no such weights, or it is
      damaged.
  """
  key, item = choose_weights(path, weights), check_params(path, like)
  return load_part(item.parent, {key: like})[key]


def load_part(folder: epath.Path, like: Any) -> Any:
  """A part of the state in a checkpoint's folder.

  Args:
    folder: The checkpoint's.
    like: Shapes, types and shardings of the part; a subtree of the state.

  Raises:
    UserError: it is damaged.
  """
  args = ocp.args.PyTreeRestore(
    like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
  )
  saved = _facts(folder)[0].get('digests')
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      loaded = reader.restore(folder / 'state', args=args)
    told = damage(saved, loaded)
  except Exception as e:  # Damaged bytes make exceptions of all types.
    raise unreadable(folder, e) from e
  if told:
    raise UserError(f'{folder} is damaged: {told}. Take an earlier checkpoint.')
  return loaded


def stored_params(path: str) -> dict[str, Any]:
  """Name -> something with a shape, for every parameter of a checkpoint, without reading it."""
  found = arrays_of(find_checkpoint(path))
  names = (name for name in found if name.startswith('params/'))
  return {name.removeprefix('params/'): found[name] for name in names}


def load_config(path: str) -> dict:
  """The config stored in a checkpoint.

  Raises:
    UserError: there is no checkpoint, or it is damaged.
  """
  return _facts(find_checkpoint(path))[1]


def _facts(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The items `data` (none in converted checkpoints) and `config`."""
  try:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
      config = reader.restore(folder / 'config')
      if not (folder / 'data').exists():
        return {}, config
      return without_checksum(reader.restore(folder / 'data'), config), config
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise unreadable(folder, e) from e
