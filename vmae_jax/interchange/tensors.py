"""Tensors of PyTorch checkpoints, read without running anything that is in them."""

import argparse
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from vmae_jax.errors import UserError
from vmae_jax.frozen.files import FORMAT
from vmae_jax.types import Num

Tensors = Mapping[str, Num[np.ndarray, '...']]

# Under which checkpoints keep their tensors, and what wrappers of a model put before each name.
_WRAPPERS = ('state_dict', 'model', 'module', 'params', 'model_state')
_PREFIXES = ('module.', '_orig_mod.', 'model.')

_HF_WHOLE = ('model.safetensors', 'pytorch_model.bin')
_DEEPSPEED = 'mp_rank_00_model_states.pt'


class Checkpoint(NamedTuple):
  """What a file or folder holds.

  Attributes:
    tensors: Name -> array; fractions are float32, whatever they were stored as.
    about: What this package wrote beside them; {} in files of others.
    arguments: Options of the training script that are stored with them; {} if none are.
    notes: Lines for the report.
  """

  tensors: dict[str, np.ndarray]
  about: dict[str, Any]
  arguments: dict[str, Any]
  notes: list[str]


def read_checkpoint(path: str | Path) -> Checkpoint:
  """Reads a checkpoint of PyTorch.

  Args:
    path: A .safetensors file, what `torch.save` wrote, a folder of transformers (whole or in
      shards) or of DeepSpeed.

  Raises:
    UserError: it is missing, damaged, holds classes, holds no tensors by name, or PyTorch is
      needed and missing.
  """
  path = Path(path)
  files = [path] if path.is_file() else _files(path)
  state, arguments, about, notes = {}, {}, {}, []
  for file in files:
    if file.suffix == '.safetensors':
      found, metadata = _read_safetensors(file)
      about |= _parse(metadata.get(FORMAT), file)
    else:
      found = _read_torch(file)
      if isinstance(found, Mapping):
        arguments = _arguments(found.get('args'))
        about |= _parse(found.get(FORMAT), file)
        if 'model_ema' in found:
          notes.append(f'{file.name} also holds averaged weights (model_ema); they are not taken')
    state |= _unwrap(found, file)
  for prefix in _PREFIXES * 2:  # As in module._orig_mod.encoder...
    if all(name.startswith(prefix) for name in state):
      state = {name.removeprefix(prefix): value for name, value in state.items()}
  if others := [name for name, value in state.items() if not hasattr(value, 'shape')]:
    raise UserError(
      f'{path} holds what is no tensor: {", ".join(map(str, others[:5]))}; give a file that '
      f'holds a state_dict, alone or as {", ".join(_WRAPPERS)}.'
    )
  stored = sorted({str(value.dtype).removeprefix('torch.') for value in state.values()})
  if stored != ['float32']:
    notes.append(f'stored as {", ".join(stored)}')
  return Checkpoint({k: _to_numpy(k, v, path) for k, v in state.items()}, about, arguments, notes)


def _files(path: Path) -> list[Path]:
  """The files of tensors in a folder."""
  if not path.is_dir():
    raise UserError(f'there is no file {path}.')
  for name in _HF_WHOLE:
    if (path / name).is_file():
      return [path / name]
    if (path / f'{name}.index.json').is_file():
      return _shards(path / f'{name}.index.json')
  if (path / 'latest').is_file() and not (path / _DEEPSPEED).is_file():  # DeepSpeed's.
    path = path / Path((path / 'latest').read_text(errors='replace').strip()).name
  found = sorted(path.glob('*mp_rank_*_model_states.pt'))
  if found == [path / _DEEPSPEED]:
    return found
  if found:
    raise UserError(
      f'{path} holds a model in {len(found)} parts ({found[0].name}, ...): join them with '
      "DeepSpeed's zero_to_fp32.py first."
    )
  raise UserError(
    f'{path} holds no weights that are known here: there is no {_HF_WHOLE[0]}, {_HF_WHOLE[1]}, '
    f'index of either, or {_DEEPSPEED}.'
  )


def _shards(index: Path) -> list[Path]:
  try:
    names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    files = [index.parent / Path(name).name for name in names]  # Nothing outside the folder.
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise UserError(f'{index} is no index of shards or a damaged one: get it again.') from e
  if missing := [file.name for file in files if not file.is_file()]:
    raise UserError(f'{index.parent} lacks {", ".join(missing)}, which {index.name} names.')
  return files


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
  try:
    with safe_open(path, framework='numpy') as f:
      return {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}
  except (OSError, SafetensorError, ValueError, TypeError) as e:
    raise UserError(f'{path} is no safetensors file or a damaged one ({e}).') from e


def _read_torch(path: Path) -> Any:
  try:
    import torch
  except ImportError as e:
    raise UserError(
      f'reading {path} needs PyTorch: pip install torch (for this command alone), or convert '
      'the file to .safetensors elsewhere.'
    ) from e
  try:
    archive = zipfile.is_zipfile(path)
    if archive and any(x.compress_type for x in zipfile.ZipFile(path).infolist()):
      raise UserError(f'{path} is a packed archive, which PyTorch never writes: get it again.')
    # Mapped, so that no tensor is in memory before its shape has been looked at.
    with torch.serialization.safe_globals([argparse.Namespace]):
      return torch.load(path, map_location='cpu', weights_only=True, mmap=archive)
  except UserError:
    raise
  except Exception as e:  # Of many classes, whatever is wrong with the file.
    classes = sorted(set(re.findall(r'GLOBAL (\S+)', str(e))))
    if classes:
      raise UserError(
        f'{path} holds objects of {", ".join(classes)}, which are not loaded, as a file of '
        'classes can run any code. If you trust it, strip it where that class is installed: '
        f"""python -c "import torch; torch.save(torch.load('{path}', weights_only=False)"""
        """['state_dict'], 'stripped.pth')"."""
      ) from e
    # Torch's own text would tell to unpickle whatever the file holds.
    raise UserError(
      f'{path} is no PyTorch checkpoint or a damaged one ({type(e).__name__}): get it again.'
    ) from e


def _unwrap(state: Any, path: Path) -> dict[str, Any]:
  for key in _WRAPPERS:
    if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
      state = state[key]
  if not isinstance(state, Mapping) or not state:
    raise UserError(f'{path} holds no tensors by name: give a file that holds a state_dict.')
  return dict(state)


def _arguments(arguments: Any) -> dict[str, Any]:
  if isinstance(arguments, argparse.Namespace):
    arguments = vars(arguments)
  return dict(arguments) if isinstance(arguments, Mapping) else {}


def _parse(text: Any, path: Path) -> dict[str, Any]:
  try:
    about = json.loads(text) if isinstance(text, str) else {}
  except ValueError as e:
    raise UserError(f'{path}: what vmae_jax wrote into it is damaged: get it again.') from e
  return about if isinstance(about, dict) else {}


def _to_numpy(name: str, value: Any, path: Path) -> np.ndarray:
  if hasattr(value, 'detach'):
    value = value.detach()
    if value.is_sparse or value.numel() * value.element_size() > value.untyped_storage().nbytes():
      raise UserError(f'{path}: {name} claims more values than are stored: get the file again.')
    # NumPy has no bfloat16 that torch knows of.
    value = (value.float() if value.is_floating_point() else value).numpy()
  floating = jnp.issubdtype(value.dtype, jnp.floating)
  return value.astype(np.float32, copy=False) if floating else value
