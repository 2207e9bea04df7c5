"""Our own checkpoints: read for export, written from the weights of others."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from vmae_jax import config as config_lib
from vmae_jax import config_finetuning
from vmae_jax.errors import UserError
from vmae_jax.interchange.official import find_size
from vmae_jax.models.patches import token_grid
from vmae_jax.models.sizes import SIZES
from vmae_jax.runs.checkpoint import (
  WEIGHTS,
  choose_weights,
  find_checkpoint,
  load_config,
  load_part,
)
from vmae_jax.runs.run_dir import CLASSES_FILE

# What a run writes beside its checkpoints that belongs into a model card.
_RESULTS = ('summary.json', 'probe.json')


def is_run(path: str | Path) -> bool:
  """Whether `path` is a run's workdir or one of its checkpoints."""
  path = Path(path)
  return any((path / name).is_dir() for name in ('state', 'checkpoints'))


def load_run(path: str | Path, *, weights: str = '') -> tuple[dict[str, Any], dict[str, Any]]:
  """Parameters and info of a run's newest checkpoint, or of the one that `path` names.

  The info is that of `load_pretrained`; beside it: step, results (what the run wrote of them),
  and position_grid where positions are interpolated from one.

  Args:
    path: A run's workdir or a checkpoint's folder.
    weights: See `choose_weights`.

  Raises:
    UserError: there is no checkpoint, or it has no moving average.
  """
  folder = find_checkpoint(str(path))
  saved = load_config(str(path))
  tree = ocp.PyTreeCheckpointHandler().metadata(folder / 'state').tree
  weights = choose_weights(str(path), weights)
  params = _restore(folder, weights, tree[weights])
  both = bool(tree.get('ema'))
  notes = [f'its {WEIGHTS[weights]} weights are taken, not the other ones'] if both else []
  info = _info(ml_collections.ConfigDict(saved), params)
  # What a run has beside its checkpoints, a checkpoint that stands alone has in it.
  workdir = folder.parent.parent if folder.parent.name == 'checkpoints' else folder
  info |= dict(format='vmae_jax', config=saved, notes=notes, results=_results(workdir))
  if folder.name.isdigit():
    info['step'] = int(folder.name)
  info['id2label'] = _class_names(workdir)
  return params, info


def _restore(folder: Path, key: str, tree: Any) -> dict[str, Any]:
  """A part of a saved state as NumPy arrays."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  like = {
    key: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
  }
  return jax.tree.map(np.asarray, load_part(folder, like)[key])


def save_run(
  out: Path,
  params: Mapping[str, Any],
  config: Mapping[str, Any],
  names: Sequence[str] = (),
) -> None:
  """Writes a checkpoint that `--config.init_from=OUT` takes; it appears when it is whole.

  Args:
    out: Its folder.
    params: Of the model.
    config: Of the run.
    names: Of the classes, in their order.
  """
  items = ocp.args.Composite(
    state=ocp.args.StandardSave({'params': params}), config=ocp.args.JsonSave(dict(config))
  )
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
    writer.save(out.absolute(), args=items)
  for mark in out.rglob('commit_success.txt'):  # Orbax asks whether it is there; it holds a path.
    mark.write_text('')
  if names:
    (out / CLASSES_FILE).write_text(''.join(f'{name}\n' for name in names), encoding='utf-8')


def run_config(info: Mapping[str, Any]) -> dict[str, Any]:
  """The config of the run that the weights come from, or one that describes them.

  Raises:
    UserError: no config can describe them.
  """
  if info['config']:
    return info['config']
  encoder, decoder = info['encoder'], info['decoder']
  size = find_size(encoder)
  if size is None or SIZES[size]['heads'] != encoder['heads']:
    raise UserError(
      f'no size has an encoder of width {encoder["width"]}, depth {encoder["depth"]}, '
      f'{encoder["heads"]} heads and {encoder["mlp"]} hidden units: add a line to '
      'vmae_jax/models/sizes.py and convert again.'
    )
  classes = info['classes']
  c = config_finetuning.default() if classes else config_lib.default()
  c.model.size, c.model.patch, c.model.eps = size, tuple(info['patch']), info['eps']
  c.data.frames, c.data.size = info['frames'], info['size']
  c.data.mean, c.data.std = tuple(info['mean']), tuple(info['std'])
  if classes:
    c.data.classes, c.model.pool = classes, info['pool']
    return c.to_dict()
  c.method = info['method']
  if decoder:
    c.model.decoder_width, c.model.decoder_depth = decoder['width'], decoder['depth']
    c.model.decoder_heads, c.model.decoder_mlp = decoder['heads'], decoder['mlp']
  c.heads.pixels.options.normalise = 'patch' if info['normalised_targets'] else 'none'
  if not info['pixels']:
    del c.heads.pixels
  for head, (owner, _, hidden, activation) in info.get('outputs', {}).items():
    c.heads[head] = MME_HEADS[head] | dict(decoder=owner, hidden=hidden, activation=activation)
    c.masking.ratio = 0.7
    c.tracking.steps = info.get('trajectory_length', c.tracking.steps)
  return c.to_dict()


# As configs/mme.py has them for the released script.
MME_HEADS = {
  'shape': dict(target='hog', options=dict(norm='none'), loss='mse', weight=54.0),
  'motion': dict(
    target='trajectory', options=dict(normalise='patch_std', eps=1e-6), loss='mse', weight=16.0
  ),
}


def _info(config: ml_collections.ConfigDict, params: Mapping[str, Any]) -> dict[str, Any]:
  """As `load_pretrained` says, from a run's config and the shapes of its parameters."""
  size, data = SIZES[config.model.size], config.data
  encoder = {key: value for key, value in size.items() if key != 'decoder'}
  encoder |= {} if 'norm' in params['encoder'] else {'final_norm': False}
  kind, pixels, classes, pool, normalised = 'encoder', None, None, None, True
  if 'classifier' in params:
    pool = 'mean' if 'fc_norm' in params else 'first'
    kind, classes = 'classification', params['classifier']['kernel'].shape[1]
    encoder.pop('final_norm', None)
  for name, head in config.get('heads', {}).items():
    if head.target == 'pixels' and 'from_encoder' in params[head.decoder]:
      kind, pixels = 'pretraining', (head.decoder, name)
      normalised = head.options.get('normalise', 'patch') == 'patch'
      break
  decoder = _decoder(params[pixels[0]], config, size) if pixels else None
  info = dict(
    kind=kind,
    method=config.get('method', 'videomae'),
    encoder=encoder,
    decoder=decoder,
    pixels=pixels,
    patch=tuple(config.model.patch),
    channels=len(data.mean),
    eps=config.model.eps,
    frames=data.frames,
    size=data.size,
    mean=tuple(data.mean),
    std=tuple(data.std),
    normalised_targets=normalised,
    classes=classes,
    pool=pool,
    id2label=None,
  )
  grid = token_grid((data.frames, data.size, data.size), tuple(config.model.patch))
  there = tuple(config.model.get('position_grid', grid))
  if config.model.get('positions') == 'interpolate' and there != grid:
    info['position_grid'] = there
  return info


def _decoder(params: Mapping[str, Any], config, size: Mapping[str, Any]) -> dict[str, Any]:
  block = flatten_dict(params, sep='/')
  depth, width, mlp = block['blocks/block/mlp/fc1/kernel'].shape
  heads = config.model.decoder_heads or size['decoder']['heads']
  return dict(width=width, depth=depth, heads=heads, mlp=mlp)


def _class_names(folder: Path) -> dict[int, str] | None:
  """Number -> name of the classes; None where its data have numbers alone."""
  try:
    return dict(enumerate((folder / CLASSES_FILE).read_text(encoding='utf-8').splitlines()))
  except OSError:
    return None


def _results(workdir: Path) -> dict[str, Any]:
  """File -> what is in it, of a run."""
  found = {}
  for name in _RESULTS:
    try:
      found[name] = json.loads((workdir / name).read_text(encoding='utf-8'))
    except (OSError, ValueError):
      continue  # A run that still goes on has none.
  return found
