"""Converts checkpoints between this package and other implementations."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vmae_jax import storage
from vmae_jax.errors import UserError, check_name, first_few
from vmae_jax.frozen.files import load_params, save_params
from vmae_jax.interchange import export, pretrained, selfcheck
from vmae_jax.interchange.layout import to_tensors
from vmae_jax.interchange.official import official_names
from vmae_jax.interchange.pretrained import FORMATS, Format
from vmae_jax.interchange.raft import raft_from_torch, raft_kind
from vmae_jax.interchange.runs import is_run, load_run, run_config
from vmae_jax.interchange.tensors import Checkpoint, read_checkpoint
from vmae_jax.interchange.vqgan import vqgan_from_taming, vqgan_kind

# Frozen networks, which become files of this package. Here `read` is a function (tensors) ->
# the model's config and its parameters.
FROZEN = {
  'raft': Format(raft_kind, raft_from_torch),
  'vqgan': Format(vqgan_kind, vqgan_from_taming),
}
WRITERS = {
  'huggingface': export.write_huggingface,
  'videomae': export.write_videomae,
  'orbax': export.write_orbax,
}
PARTS = ('all', 'encoder')


def convert(
  source: str | Path,
  out: str | Path,
  *,
  to: str = '',
  kind: str = '',
  part: str = 'all',
  weights: str = '',
  heads: int | None = None,
  decoder_heads: int | None = None,
) -> str:
  """Converts a checkpoint, reads the result back and compares what both compute.

  Args:
    source: A run or checkpoint of ours, a folder of transformers, or a file of PyTorch.
    out: The folder or file to write; it appears when it is complete and checked.
    to: A name in WRITERS; '' for a frozen network, which becomes a file of this package.
    kind: What the source holds, a name in FROZEN or FORMATS; '' to recognise it by its tensors.
    part: 'all', or 'encoder' to leave the rest of the model out.
    weights: `params` or `ema`; '' for the moving average of a run that has one, and for the last
      weights of a file of another implementation.
    heads: Heads of the encoder where the source does not say or is wrong.
    decoder_heads: The same for the decoder.

  Returns:
    A report: what was converted, what lies beside it, how far the outputs differ.

  Raises:
    UserError: the source cannot be read or is of no known kind, the format cannot hold it, outputs
      differ by more than `selfcheck.TOLERANCE`, or `out` cannot be written.
  """
  out = Path(out)
  check_name(part, PARTS, '--part')
  if kind:
    check_name(kind, (*FROZEN, *FORMATS), '--kind')
  if to:
    check_name(to, WRITERS, '--to')
  if storage.is_remote(str(source)) or is_run(source):
    checkpoint, (params, info) = None, load_run(source, weights=weights)
  else:
    checkpoint = read_checkpoint(source, weights=weights)
    kind = kind or pretrained.recognise(checkpoint, FROZEN | FORMATS)
    if kind in FROZEN:
      if to:
        raise UserError(f'{source} is a {kind}, which only becomes a file of vmae_jax: drop --to.')
      export.check_target(to, out)
      return _convert_frozen(checkpoint, out, kind=kind)
    params, info = pretrained.from_checkpoint(
      checkpoint, kind=kind, heads=heads, decoder_heads=decoder_heads
    )
  if not to:
    raise UserError(f'{source} is a video model: give --to={"|".join(WRITERS)}.')
  export.check_target(to, out)
  if to == 'orbax':  # Fails now, before the slow steps, if no config can describe the model.
    run_config(_as_encoder(info) | {'config': None} if part == 'encoder' else info)
  elif 'position_grid' in info:
    grid = 'x'.join(map(str, info['position_grid']))
    raise UserError(
      f'{source}: its positions are interpolated from a grid of {grid} (model.positions), and '
      f'{to} always computes them from the size of the clip: only --to=orbax keeps such a model.'
    )
  outputs = selfcheck.our_outputs(params, info)
  lines = _check_source(outputs, info, checkpoint)
  if part == 'encoder':
    params, info = _encoder_alone(params, info)
    outputs = selfcheck.our_outputs(params, info)
  elif to != 'orbax' and info['kind'] == 'pretraining' and not info['pixels']:
    # The format cannot hold its decoders: they go into the side file, and the config describes
    # them.
    info = _as_encoder(info | {'config': run_config(info)})
    outputs = {'features': outputs['features']}
  # All is written and checked in a folder beside `out`, then moved.
  folder = out.parent / f'.{out.name}.partial-{os.getpid()}'
  partial = folder / out.name
  try:
    folder.mkdir(parents=True)
    rest = WRITERS[to](partial, params, info, selfcheck.fingerprint(outputs))
    lines += _check_target(params, info, outputs, partial, to)
    size = _describe_size(params, folder)
    for path in sorted(folder.iterdir(), key=lambda path: path == partial):  # `out` comes last.
      os.replace(path, out.parent / path.name)
  except OSError as e:
    raise UserError(f'cannot write {out}: {e.strerror or e}') from e
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  first = f'{out}: {to}, {info["method"]} ({info["kind"]}), {size}, from {source}'
  if rest:
    lines.append(
      f'{len(rest)} parameters that {to} cannot hold are in {pretrained.rest_path(out)}: '
      f'{first_few(rest, most=3)}; they come back when this is converted again'
    )
  lines.append('positions: computed from the size of the clip, as always here; none are stored')
  return '\n'.join([first, *lines, *(f'note: {note}' for note in info['notes'])])


def _encoder_alone(
  params: Mapping[str, Any], info: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  info = _as_encoder(info) | {'config': None}
  if 'norm' not in params['encoder']:
    info['encoder'] = info['encoder'] | {'final_norm': False}
  if left := ', '.join(name for name in params if name != 'encoder'):
    info['notes'] = [*info['notes'], f'left out, as --part=encoder says: {left}']
  return {'encoder': params['encoder']}, info


def _as_encoder(info: Mapping[str, Any]) -> dict[str, Any]:
  changed = dict(kind='encoder', decoder=None, pixels=None, classes=None, pool=None, id2label=None)
  return {key: value for key, value in info.items() if key != 'outputs'} | changed


def _check_source(
  ours: selfcheck.Outputs, info: Mapping[str, Any], checkpoint: Checkpoint | None
) -> list[str]:
  """Compares what the source computes in PyTorch with what its parameters compute here."""
  if checkpoint is None:
    return []
  if info['format'] == 'huggingface' and selfcheck.has_transformers():
    path = checkpoint.path
    return [_against_transformers(ours, path if path.is_dir() else path.parent, info)]
  if info['format'] != 'huggingface' and selfcheck.has_torch():
    theirs = selfcheck.plain_torch_outputs(checkpoint.tensors, info)
    return [_within_tolerance('source in PyTorch', selfcheck.largest_difference(ours, theirs))]
  if stored := checkpoint.about.get('fingerprint'):
    difference = selfcheck.against_fingerprint(ours, stored)
    return [_within_tolerance('fingerprint stored in the source', difference)]
  return ['the source was not run: PyTorch is not installed, and it has no stored fingerprint']


def _check_target(
  params: Mapping[str, Any], info: Mapping[str, Any], ours: selfcheck.Outputs, path: Path, to: str
) -> list[str]:
  """Reads what was written, and runs it in PyTorch or transformers if they are installed."""
  read = load_run if to == 'orbax' else pretrained.load_pretrained
  written, _ = read(path)
  if not _same_values(jax.tree.map(np.asarray, written), dict(params)):
    raise UserError(
      f'{path.name} reads differently from what was written: is the disk full or broken?'
    )
  lines = ['read back: every value is equal']
  if to == 'huggingface' and selfcheck.has_transformers():
    lines.append(_against_transformers(ours, path, info))
  elif to != 'orbax' and selfcheck.has_torch():
    tensors, _ = to_tensors(params, info, official_names(info))
    theirs = selfcheck.plain_torch_outputs(tensors, info)
    lines.append(_within_tolerance('result in PyTorch', selfcheck.largest_difference(ours, theirs)))
  elif to != 'orbax':
    lines.append('the result was not run elsewhere: PyTorch is not installed')
  return lines


def _against_transformers(ours: selfcheck.Outputs, folder: Path, info: Mapping[str, Any]) -> str:
  as_loaded, same_eps = selfcheck.transformers_outputs(folder, info)
  line = _within_tolerance(
    f'{folder.name} in transformers', selfcheck.largest_difference(ours, same_eps)
  )
  if info['kind'] == 'encoder':
    return line
  difference = selfcheck.largest_difference(ours, as_loaded)
  return f'{line} ({difference:.1e} where its last LayerNorm keeps the eps of transformers)'


def _within_tolerance(what: str, difference: float) -> str:
  """A line for the report; raises a UserError if the difference is too large."""
  if not difference <= selfcheck.TOLERANCE:
    raise UserError(
      f'{what}: outputs on the fixed clip differ by {difference:.1e}, more than '
      f'{selfcheck.TOLERANCE:g}: nothing was written.'
    )
  return f'{what}: largest difference {difference:.1e}'


def _convert_frozen(checkpoint: Checkpoint, out: Path, *, kind: str) -> str:
  """Writes a frozen network, reads it back and compares; returns one line about it."""
  try:
    config, params = FROZEN[kind].read(checkpoint.tensors)
  except UserError as e:
    raise UserError(f'{checkpoint.path} is {e}') from e
  save_params(out, params, kind=kind, config=config)
  written, written_config = load_params(out, kind=kind)
  if not _same_values(written, params) or written_config != json.loads(json.dumps(config)):
    raise UserError(f'{out} reads differently from what was written: is the disk full or broken?')
  return f'{out}: {kind}, {_describe_size(params, out)}, from {checkpoint.path}'


def _same_values(one: Any, other: Any) -> bool:
  """Whether two trees hold the same arrays under the same names."""
  return jax.tree.structure(one) == jax.tree.structure(other) and all(
    jax.tree.leaves(jax.tree.map(np.array_equal, one, other))
  )


def _describe_size(params: Any, path: Path) -> str:
  leaves = jax.tree.leaves(params)
  files = [path] if path.is_file() else [file for file in path.rglob('*') if file.is_file()]
  megabytes = sum(file.stat().st_size for file in files) / 1e6
  count = sum(x.size for x in leaves)
  return f'{len(leaves)} tensors, {count / 1e6:.2f} M parameters, {megabytes:.1f} MB'
