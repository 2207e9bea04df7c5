"""Checkpoints: state, loader position and config, saved in the background, whole or not at all.

A checkpoint is a folder WORKDIR/checkpoints/STEP with the items `state` (the train state),
`data` (the loader's position, one integer) and `config`. Orbax writes to a temporary name and
renames at the end, so that a kill at any moment leaves the earlier ones as they were.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep_policies

from vmae_jax.errors import UserError, check_name
from vmae_jax.method.state import TrainState

WEIGHTS = {'params': 'last', 'ema': 'averaged'}  # Those that a run may hold, and what they are.


class Checkpointer:
  """Saves and restores train states in WORKDIR/checkpoints."""

  def __init__(self, workdir: str, *, keep: int, keep_every_steps: int, config: dict):
    policies = [keep_policies.LatestN(keep)]
    if keep_every_steps:
      policies.append(keep_policies.EveryNSteps(keep_every_steps))
    self._config = config
    self._manager = ocp.CheckpointManager(
      pathlib.Path(workdir).absolute() / 'checkpoints',
      item_names=('state', 'data', 'config'),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=keep_policies.AnyPreservationPolicy(policies),
        enable_async_checkpointing=True,
      ),
    )

  def save(self, step: int, state: TrainState) -> None:
    """Starts to save; returns once the state has been copied from the devices.

    A full disk or another failure to write is reported, and the run goes on: the checkpoints
    that exist stay, and the next save tries again.
    """
    if jax.default_backend() == 'cpu':
      # Orbax writes from the very buffers there, which the next step overwrites.
      state = jax.tree.map(jnp.copy, state)
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      data=ocp.args.JsonSave({'next_step': step}),
      config=ocp.args.JsonSave(self._config),
    )
    try:
      if step not in self._manager.all_steps():
        self._manager.save(step, args=items, force=True)
    except OSError as e:
      _warn(step, e)
    except ValueError as e:  # What orbax and tensorstore make of a full disk.
      _warn(step, e)

  def wait(self) -> bool:
    """Waits for the save under way; False if it failed."""
    try:
      self._manager.wait_until_finished()
    except (OSError, ValueError) as e:
      _warn(self._manager.latest_step(), e)
      return False
    return True

  def restore(self, like: TrainState) -> tuple[int, TrainState] | None:
    """The newest whole checkpoint, on the mesh of `like`, or None if there is none.

    Args:
      like: Shapes, types and shardings of the state (`jax.ShapeDtypeStruct`s).

    Raises:
      UserError: the checkpoint is of another model, or none can be read.
    """
    failures = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      item = pathlib.Path(self._manager.directory) / str(step) / 'state'
      try:
        check_same(like, _metadata(item), where=str(item))
        items = ocp.args.Composite(
          state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
      except (OSError, ValueError, KeyError, json.JSONDecodeError) as e:
        failures.append(f'{step} ({str(e).strip().splitlines()[0][:200]})')
        logging.warning('checkpoint %s cannot be read, trying the one before.', failures[-1])
        continue
      if restored.data['next_step'] != int(restored.state.step):
        failures.append(f'{step} (state and loader position disagree)')
        continue
      return step, restored.state
    if failures:
      raise UserError(
        f'none of the checkpoints in {self._manager.directory} can be read: '
        f'{"; ".join(failures)}. Move the folder away to start anew.'
      )
    return None

  def close(self) -> None:
    self.wait()
    self._manager.close()


def _warn(step, error: Exception) -> None:
  reason = str(error).strip().splitlines()[0][:300]
  logging.error('checkpoint at step %s was NOT saved: %s. The run goes on.', step, reason)


def _metadata(item: pathlib.Path) -> dict[str, Any]:
  """Path -> something with a shape, for every array of a saved tree, without reading it."""
  tree = ocp.PyTreeCheckpointHandler().metadata(item).tree
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): leaf for path, leaf in leaves if hasattr(leaf, 'shape')}


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def check_same(like: Any, found: dict[str, Any], *, where: str) -> None:
  """Raises a UserError that names parameters which differ between a model and a checkpoint."""
  leaves = jax.tree_util.tree_leaves_with_path(like)
  wanted = {_name(path): leaf for path, leaf in leaves}
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


def find_checkpoint(path: str) -> pathlib.Path:
  """The newest checkpoint of a run, or the checkpoint itself, that `path` names.

  Raises:
    UserError: there is none.
  """
  folder = pathlib.Path(path).absolute()
  if (folder / 'state').is_dir():
    return folder
  for parent in (folder / 'checkpoints', folder):
    steps = [p for p in parent.glob('*') if p.name.isdigit() and (p / 'state').is_dir()]
    if steps:
      return max(steps, key=lambda p: int(p.name))
  raise UserError(
    f'{path} holds no checkpoint: give a --workdir of a run, or one of its '
    'checkpoints/STEP folders.'
  )


def check_params(path: str, like: Any) -> pathlib.Path:
  """The state of the checkpoint that `path` names, if its parameters have the shapes of `like`.

  Raises:
    UserError: there is no checkpoint, or its parameters differ.
  """
  item = find_checkpoint(path) / 'state'
  tops = tuple(f'params/{name}/' for name in like)
  found = {
    name.removeprefix('params/'): x for name, x in _metadata(item).items() if name.startswith(tops)
  }
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
  average = any(name.startswith('ema/') for name in _metadata(folder / 'state'))
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
    UserError: there is no checkpoint, its parameters differ, or it has no such weights.
  """
  key, item = choose_weights(path, weights), check_params(path, like)
  args = ocp.args.PyTreeRestore(
    {key: like},
    restore_args=ocp.checkpoint_utils.construct_restore_args({key: like}),
    partial_restore=True,
  )
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    return reader.restore(item, args=args)[key]


def stored_params(path: str) -> dict[str, Any]:
  """Name -> something with a shape, for every parameter of a checkpoint, without reading it."""
  found = _metadata(find_checkpoint(path) / 'state')
  names = (name for name in found if name.startswith('params/'))
  return {name.removeprefix('params/'): found[name] for name in names}


def load_config(path: str) -> dict:
  """The config stored in a checkpoint."""
  item = find_checkpoint(path) / 'config'
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    return reader.restore(item)
