"""Reads checkpoints, whole or in part, and checks that they hold what was saved.

A checkpoint is a folder WORKDIR/checkpoints/STEP with the items `state` (the train state), `data`
(the loader's position, which is one integer, a digest of every array of the state, other facts
that a resumed run needs, and a checksum) and `config`.
"""

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from vmae_jax import storage
from vmae_jax.errors import Unavailable, UserError, check_name, first_few, is_outage
from vmae_jax.runs.run_dir import is_whole
from vmae_jax.types import Array, UInt32

# Otherwise Orbax would read buckets through TensorFlow, if that is installed.
os.environ.setdefault('EPATH_USE_TF', 'false')

WEIGHTS = {'params': 'last', 'ema': 'averaged'}  # Weights in a run's state, and what they are.


def one_line(e: Exception) -> str:
  """An exception's type and message; of a long one the beginning and the end."""
  text = ' '.join(f'{type(e).__name__}: {e}'.split())
  return text if len(text) <= 200 else f'{text[:97]} ... {text[-97:]}'


def named(tree: Any) -> dict[str, Any]:
  """Path such as `params/encoder/norm/scale` -> leaf."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def digests(tree: Any) -> dict[str, int]:
  """Path -> a hash, for every array of a tree, to compare what is loaded with what was saved.

  It is computed on the devices, where the state is, as a sum over the elements, which also joins
  arrays that are split over many processes. The sum is of 32-bit integers, so it is the same in any
  order and on any mesh. One changed element always changes it; several changes cancel with a chance
  of 2^-32.
  """
  # One after another: with emulated devices on a CPU, several programs whose sums wait for each
  # other can take up all threads, so that none goes on.
  return {path: int(_digest(leaf)) for path, leaf in named(tree).items()}


@jax.jit  # One program for each array: on CPUs one for the whole state holds a copy of it.
def _digest(x: Array) -> UInt32[Array, '']:
  """Sum over all elements of a hash of their bits and index: MurmurHash3's last mixing step."""
  bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * x.dtype.itemsize}'))
  index = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  h = bits.astype(jnp.uint32) ^ (index * jnp.uint32(0x9E3779B1))
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return (h ^ (h >> 16)).sum(dtype=jnp.uint32)


def checksum(data: Mapping[str, Any], config: Mapping[str, Any]) -> int:
  """Checksum of the two items of a checkpoint that are JSON."""
  return zlib.crc32(json.dumps([data, config], sort_keys=True).encode())


def without_checksum(data: Any, config: Any) -> dict[str, Any]:
  """The item `data` without its checksum.

  Raises a ValueError if the checksum is wrong; other exceptions if `data` has another form.
  """
  data = dict(data)
  if data.keys() == {'next_step'}:
    logging.warning('this checkpoint is older than digests: whether it is intact is not known.')
  elif data.pop('check') != checksum(data, config):
    raise ValueError('position or config are not what was saved')
  return data


def damage(saved: Mapping[str, int] | None, tree: Any) -> str | None:
  """Says which arrays of a tree differ from those that were saved; None if none does.

  `saved` are the stored digests, None in old checkpoints; the tree is the state or a part of it.
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
  kinds = {'missing': missing, 'not in the model': extra, 'of another shape': other}
  for what, names in kinds.items():
    if names:
      parts.append(f'{len(names)} {what}: {first_few(names, most=3, separator="; ")}')
  if parts:
    raise UserError(
      f'{where} is a checkpoint of another model: {". ".join(parts)}. '
      'Use its own config, or another --workdir.'
    )


def find_checkpoint(path: str) -> epath.Path:
  """The newest checkpoint of a run, or the checkpoint itself, that `path` names.

  Raises:
    UserError: there is none.
    Unavailable: the folder cannot be read now.
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
  """The steps of the complete checkpoints in a folder, sorted."""
  names = storage.names(folder) if storage.is_folder(folder) else []
  return sorted(int(x) for x in names if x.isdigit() and is_whole(f'{folder}/{x}'))


def unreadable(folder: epath.Path, e: Exception) -> Exception:
  """The exception to raise for a checkpoint that could not be read."""
  if is_outage(e):
    return Unavailable(f'{folder} cannot be read now: {one_line(e)}.')
  return UserError(f'{folder} is damaged: {one_line(e)}. Take an earlier checkpoint.')


def arrays_of(folder: epath.Path) -> dict[str, Any]:
  """`stored_arrays` of the state in a checkpoint's folder; errors as of `unreadable`."""
  try:
    return stored_arrays(folder / 'state')
  except Exception as e:  # Damaged bytes make exceptions of all types.
    raise unreadable(folder, e) from e


def check_params(path: str, like: Any) -> epath.Path:
  """The state of the checkpoint at `path`; a UserError if parameters are not shaped as `like`."""
  folder = find_checkpoint(path)
  item = folder / 'state'
  tops = tuple(f'params/{name}/' for name in like)
  stored = arrays_of(folder)
  found = {k.removeprefix('params/'): x for k, x in stored.items() if k.startswith(tops)}
  check_same(like, found, where=str(item))
  return item


def choose_weights(path: str, weights: str = '') -> str:
  """Which weights to read, `params` or `ema`: one rule for everything that reads runs.

  Args:
    path: A run's workdir or a checkpoint's folder.
    weights: A key of WEIGHTS; '' for the moving average, with which runs that keep one are
      tested, or the last weights if there is none.

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
  """A part of the state in a checkpoint's folder; errors as of `unreadable`.

  `like` is a subtree of the state: shapes, types and shardings of the part.
  """
  args = ocp.args.PyTreeRestore(
    like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
  )
  saved = _facts(folder)[0].get('digests')
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      loaded = reader.restore(folder / 'state', args=args)
    reason = damage(saved, loaded)
  except Exception as e:  # Damaged bytes make exceptions of all types.
    raise unreadable(folder, e) from e
  if reason:
    raise UserError(f'{folder} is damaged: {reason}. Take an earlier checkpoint.')
  return loaded


def load_config(path: str) -> dict:
  """The config stored in a checkpoint; errors as of `find_checkpoint` and `unreadable`."""
  return _facts(find_checkpoint(path))[1]


def _facts(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The items `data` (empty for converted checkpoints) and `config`."""
  try:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
      config = reader.restore(folder / 'config')
      if not (folder / 'data').exists():
        return {}, config
      return without_checksum(reader.restore(folder / 'data'), config), config
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise unreadable(folder, e) from e
