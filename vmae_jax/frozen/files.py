"""Files of frozen networks (tokenizers, flow estimators), one safetensors file each."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vmae_jax.errors import UserError

FORMAT = 'vmae_jax'


def save_params(
  path: str | Path, params: Mapping[str, Any], *, kind: str, config: Mapping[str, Any]
) -> None:
  """Writes parameters and what is needed to build their model; a UserError if it cannot be written.

  The file appears, or replaces another one, only when it is complete. Keys are paths in the tree,
  such as `encoder/conv/bias`. `kind` is the network, such as 'vqgan', and `config` its fields,
  which are stored as JSON.
  """
  path = Path(path)
  # safetensors saves only arrays in C order correctly.
  tensors = {k: np.asarray(v, order='C') for k, v in flatten_dict(params, sep='/').items()}
  # One entry, since safetensors writes several in any order: equal networks make equal files.
  metadata = {FORMAT: json.dumps({'kind': kind, 'config': dict(config)}, sort_keys=True)}
  partial = path.with_name(f'.{path.name}.partial-{os.getpid()}')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial, metadata)
    os.replace(partial, path)
  except (OSError, SafetensorError) as e:
    raise UserError(f'cannot write {path}: {e}') from e
  finally:
    partial.unlink(missing_ok=True)


def read_kind(path: str | Path) -> str:
  """The kind of network in a file that `save_params` wrote; '' for any other file."""
  try:
    with safe_open(path, framework='numpy') as f:
      return json.loads((f.metadata() or {}).get(FORMAT, '{}')).get('kind', '')
  except (OSError, SafetensorError, ValueError):
    return ''


def load_params(path: str | Path, *, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """The tree of NumPy arrays and the config that `save_params` wrote.

  Raises:
    UserError: there is no such file, it is damaged, or it is of another format or kind.
  """
  if not Path(path).is_file():
    raise UserError(f'there is no file {path}.')
  try:
    with safe_open(path, framework='numpy') as f:
      metadata = f.metadata() or {}
      if FORMAT not in metadata:
        raise UserError(
          f'{path} is a safetensors file, but not one of vmae_jax: if it is a checkpoint of a '
          f'known format, convert it with python -m vmae_jax.convert {path} --out=FILE.'
        )
      about = json.loads(metadata[FORMAT])
      if about['kind'] != kind:
        raise UserError(f'{path} holds a {about["kind"]}, not a {kind}: give another file.')
      config = about['config']
      tensors = {name: f.get_tensor(name) for name in f.keys()}
  except (OSError, SafetensorError, KeyError, ValueError) as e:
    raise UserError(
      f'{path} is no safetensors file or a damaged one ({e}): make or copy it again.'
    ) from e
  return unflatten_dict(tensors, sep='/'), config
