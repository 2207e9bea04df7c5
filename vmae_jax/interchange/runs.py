"""Our own checkpoints: read for export, and written from weights of other implementations."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from vmae_jax import config as config_lib
from vmae_jax import config_finetuning, storage
from vmae_jax.errors import UserError
from vmae_jax.interchange.layout import model_info
from vmae_jax.interchange.official import find_size
from vmae_jax.models.patches import token_grid
from vmae_jax.models.sizes import SIZES
from vmae_jax.runs import checkpoint
from vmae_jax.runs.run_dir import CLASSES_FILE

# Files of a run whose numbers go into a model card.
_RESULTS = ('summary.json', 'probe.json')


def is_run(path: str | Path) -> bool:
  """Whether `path` is a run's workdir or one of its checkpoints."""
  return any(storage.is_folder(f'{path}/{name}') for name in ('state', 'checkpoints'))


def load_run(path: str | Path, *, weights: str = '') -> tuple[dict[str, Any], dict[str, Any]]:
  """Parameters and info of a run's newest checkpoint, or of the one that `path` names.

  The info is that of `load_pretrained` with more entries: step, weights (the kind that was read),
  results (name of a result file -> its contents), and position_grid if positions are interpolated
  from a grid.

  Args:
    path: A run's workdir or a checkpoint's folder.
    weights: See `checkpoint.choose_weights`.

  Raises:
    UserError: there is no checkpoint, or it has no moving average.
  """
  folder = checkpoint.find_checkpoint(str(path))
  saved = checkpoint.load_config(str(path))
  tree = ocp.PyTreeCheckpointHandler().metadata(folder / 'state').tree
  weights = checkpoint.choose_weights(str(path), weights)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), {weights: tree[weights]}
  )
  params = jax.tree.map(np.asarray, checkpoint.load_part(folder, like)[weights])
  taken = f'its {checkpoint.WEIGHTS[weights]} weights are taken, not the other ones'
  notes = [taken] if tree.get('ema') else []
  info = _info(ml_collections.ConfigDict(saved), params)
  # A run's other files are in its workdir, those of an exported checkpoint in its own folder.
  workdir = folder.parent.parent if folder.parent.name == 'checkpoints' else folder
  info |= dict(format='vmae_jax', config=saved, weights=weights, notes=notes, results={})
  for name in _RESULTS:
    with contextlib.suppress(OSError, ValueError):  # A run that is not finished has none.
      info['results'][name] = json.loads(storage.read_text(f'{workdir}/{name}'))
  with contextlib.suppress(OSError):  # Without this file, classes have only numbers.
    names = storage.read_text(f'{workdir}/{CLASSES_FILE}').splitlines()
    info['id2label'] = dict(enumerate(names))
  if folder.name.isdigit():
    info['step'] = int(folder.name)
  return params, info


def save_run(
  out: Path, params: Mapping[str, Any], config: Mapping[str, Any], names: Sequence[str] = ()
) -> None:
  """Writes a checkpoint for `--config.init_from=OUT`; it appears when it is complete.

  `names` are those of the classes, in their order.
  """
  items = ocp.args.Composite(
    state=ocp.args.StandardSave({'params': params}), config=ocp.args.JsonSave(dict(config))
  )
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
    writer.save(out.absolute(), args=items)
  for mark in out.rglob('commit_success.txt'):
    mark.write_text('')  # Orbax only needs the file to exist; what it writes has a private path.
  if names:
    (out / CLASSES_FILE).write_text(''.join(f'{name}\n' for name in names), encoding='utf-8')


def run_config(info: Mapping[str, Any]) -> dict[str, Any]:
  """The config of the run that the weights come from, or one made to describe them.

  Raises:
    UserError: no config can describe them.
  """
  if info['config']:
    return info['config']
  encoder = info['encoder']
  size = find_size(encoder)
  if size is None or SIZES[size]['heads'] != encoder['heads']:
    raise UserError(
      f'no size has an encoder of width {encoder["width"]}, depth {encoder["depth"]}, '
      f'{encoder["heads"]} heads and {encoder["mlp"]} hidden units: add a line to '
      'vmae_jax/models/sizes.py and convert again.'
    )
  return describe(info, size)


def describe(info: Mapping[str, Any], size: str) -> dict[str, Any]:
  """A config that describes `info`; `size` is the encoder's name in SIZES."""
  decoder, classes = info['decoder'], info['classes']
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


# The heads in configs/mme.py for the released script.
MME_HEADS = {
  'shape': dict(target='hog', options=dict(norm='none'), loss='mse', weight=54.0),
  'motion': dict(
    target='trajectory', options=dict(normalise='patch_std', eps=1e-6), loss='mse', weight=16.0
  ),
}


def _info(config: ml_collections.ConfigDict, params: Mapping[str, Any]) -> dict[str, Any]:
  """The info of `load_pretrained`, from a run's config and the shapes of its parameters."""
  model, data, size = config.model, config.data, SIZES[config.model.size]
  info = model_info(
    kind='encoder',
    method=config.get('method', 'videomae'),
    encoder={key: value for key, value in size.items() if key != 'decoder'},
    patch=tuple(model.patch),
    channels=len(data.mean),
    eps=model.eps,
    frames=data.frames,
    size=data.size,
    mean=tuple(data.mean),
    std=tuple(data.std),
  )
  if 'classifier' in params:
    info |= dict(
      kind='classification',
      classes=params['classifier']['kernel'].shape[1],
      pool='mean' if 'fc_norm' in params else 'first',
    )
  elif 'norm' not in params['encoder']:
    info['encoder']['final_norm'] = False
  for name, head in config.get('heads', {}).items():
    if head.target == 'pixels' and 'from_encoder' in params.get(head.decoder, {}):
      kernel = params[head.decoder]['blocks']['block']['mlp']['fc1']['kernel']
      decoder = dict(zip(('depth', 'width', 'mlp'), kernel.shape, strict=True))
      own = config.get('decoders', {}).get(head.decoder, {})
      decoder['heads'] = own.get('heads') or model.decoder_heads or size['decoder']['heads']
      info |= dict(kind='pretraining', decoder=decoder, pixels=(head.decoder, name))
      info['normalised_targets'] = head.options.get('normalise', 'patch') == 'patch'
      break
  grid = token_grid((data.frames, data.size, data.size), tuple(model.patch))
  trained_grid = tuple(model.get('position_grid', grid))
  if model.get('positions') == 'interpolate' and trained_grid != grid:
    info['position_grid'] = trained_grid
  return info
