"""Tensors of PyTorch checkpoints, read without running any code in them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from vmae_jax.errors import UserError, check_name
from vmae_jax.frozen.files import FORMAT
from vmae_jax.interchange.layout import rename
from vmae_jax.interchange.torch_file import Inert, read_torch_file

# Keys under which checkpoints store their tensors, and averages of them.
_WRAPPERS = ('state_dict', 'model', 'module', 'params', 'model_state')
_AVERAGED = ('model_ema', 'state_dict_ema', 'ema_state_dict', 'ema')
# Prefixes that wrappers of a model add to each name.
_PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.', 'network.', 'student.', 'backbone.')
_HEADS = ('head.', 'fc_norm.', 'cls_head.')
# mmaction2's names of VideoMAE's layers -> the official ones.
_MMACTION2 = (
  (r'patch_embed\.projection\.', 'patch_embed.proj.'),
  (r'\.mlp\.layers\.0\.0\.', '.mlp.fc1.'),
  (r'\.mlp\.layers\.1\.', '.mlp.fc2.'),
  (r'cls_head\.fc_cls\.', 'head.'),
)
# Patterns of names that only other architectures have -> what they are.
_OTHERS = (
  (r'^(target_encoder|predictor)$', 'a V-JEPA of Meta (facebookresearch/jepa or vjepa2)'),
  (r'attn\.(pool_q|norm_q|rel_pos_h)', 'an MViT'),
  (
    r'(^|\.)pos_embed_(spatial|temporal)$|attn\.q\.weight$',
    "Meta's MAE-ST (facebookresearch/mae_st)",
  ),
  (r'clip_(pos_embed|projector|decoder)|attn\.q_norm', 'an InternVideo2 (OpenGVLab/InternVideo)'),
  (r'relative_position_bias_table', 'a Swin transformer'),
  (r'temporal_attn|(^|\.)time_embed$', 'a TimeSformer'),
  (r'(^|\.)cls_token$', 'a vision transformer with a class token'),
)

_HF_WHOLE = ('model.safetensors', 'pytorch_model.bin')
_DEEPSPEED = 'mp_rank_00_model_states.pt'


class Checkpoint(NamedTuple):
  """What a file or folder holds."""

  path: Path
  tensors: dict[str, np.ndarray]  # Floats of any precision become float32.
  about: dict[str, Any]  # What this package stored with them; {} in other files.
  arguments: dict[str, Any]  # The stored options of the training script; {} if there are none.
  notes: list[str]  # Lines for the report.

  def exported(self, part: str) -> dict[str, Any]:
    """What our export stored about its encoder or decoder; {} in other files."""
    return self.about.get('info', {}).get(part) or {}

  def exported_info(self) -> dict[str, Any]:
    """What our export stored because shapes of tensors do not show it; {} in other files."""
    info = self.about.get('info', {})
    same = ('method', 'frames', 'size', 'eps', 'normalised_targets')
    found = {key: info[key] for key in same if key in info}
    found |= {key: tuple(info[key]) for key in ('mean', 'std', 'pixels') if info.get(key)}
    if info.get('id2label'):  # Keys of JSON are strings.
      found['id2label'] = {int(k): v for k, v in info['id2label'].items()}
    return found


# The result of a format's reader: parameters, info, tensors that were not used, and notes.
Read = tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray], list[str]]


def read_checkpoint(path: str | Path, *, weights: str = '') -> Checkpoint:
  """Reads a checkpoint of PyTorch; PyTorch need not be installed.

  Args:
    path: A .safetensors file, a file of `torch.save`, or a folder of transformers (one file or
      shards) or of DeepSpeed.
    weights: 'ema' takes the averaged weights that are stored beside the last ones.

  Raises:
    UserError: it is missing, damaged, of another architecture, or holds no tensors by name.
  """
  check_name(weights or 'params', ('params', 'ema'), 'weights')
  path = Path(path)
  files = [path] if path.is_file() else _files(path)
  state, arguments, about, notes = {}, {}, {}, []
  for file in files:
    if file.suffix == '.safetensors':
      found, metadata = _read_safetensors(file)
      about |= _parse(metadata.get(FORMAT), file)
    else:
      found, classes = read_torch_file(file)
      if classes:
        notes.append(f'objects of {", ".join(classes[:6])} in {file.name} were not loaded')
      if isinstance(found, Mapping):
        arguments = found.get('args')
        arguments = getattr(arguments, 'state', arguments)  # An argparse.Namespace is Inert.
        about |= _parse(found.get(FORMAT), file)
    state |= _unwrap(found, file, weights, notes)
  if state.pop('n_averaged', None) is not None:
    notes.append('these are averaged weights: n_averaged of torch.optim.swa_utils')
  for pattern, model in _OTHERS:
    if found := next((name for name in map(str, state) if re.search(pattern, name)), None):
      raise UserError(
        f'{path} holds {model}, as its {found} shows: a different architecture than VideoMAE, '
        'whose parameters have no place here.'
      )
  if others := [k for k, v in state.items() if not (isinstance(k, str) and hasattr(v, 'shape'))]:
    raise UserError(
      f'{path} holds other things than tensors: {", ".join(map(str, others[:5]))}; give a file '
      f'that holds a state_dict, alone or as {", ".join(_WRAPPERS)}.'
    )
  tensors = {rename(name, _MMACTION2): x for name, x in _strip_prefixes(state, notes).items()}
  stored = sorted({str(x.dtype) for x in tensors.values()})
  if stored != ['float32']:
    notes.append(f'stored as {", ".join(stored)}')
  for name, x in tensors.items():
    if jnp.issubdtype(x.dtype, jnp.floating):  # For NumPy, bfloat16 is not floating.
      tensors[name] = x.astype(np.float32, copy=False)
  arguments = dict(arguments) if isinstance(arguments, Mapping) else {}
  return Checkpoint(path, tensors, about, arguments, notes)


def _files(path: Path) -> list[Path]:
  """The files in a folder that hold tensors."""
  if not path.is_dir():
    raise UserError(f'there is no file {path}.')
  for name in _HF_WHOLE:
    if (path / name).is_file():
      return [path / name]
    if (path / f'{name}.index.json').is_file():
      return _shards(path / f'{name}.index.json')
  if (path / 'latest').is_file() and not (path / _DEEPSPEED).is_file():  # A folder of DeepSpeed.
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
    files = [index.parent / Path(name).name for name in names]  # Never outside the folder.
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


def _unwrap(state: Any, path: Path, weights: str, notes: list[str]) -> dict[str, Any]:
  """The tensors by name in a file of PyTorch: the last weights or the averaged ones."""
  known = state if isinstance(state, Mapping) else {}
  averaged = [key for key in _AVERAGED if isinstance(known.get(key), Mapping)]
  if weights == 'ema' and not averaged:
    raise UserError(
      f'{path} holds no averaged weights ({", ".join(_AVERAGED)}): drop --weights=ema.'
    )
  if weights == 'ema':
    state = state[averaged[0]]
    notes.append(f'its averaged weights ({averaged[0]}) are taken')
  elif averaged:
    notes.append(
      f'{path.name} also holds averaged weights ({averaged[0]}), which --weights=ema takes'
    )
  for key in _WRAPPERS:
    if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
      state = state[key]
  if isinstance(state, Inert) and not state:
    raise UserError(
      f'{path} holds an object of the class {state.name}, not tensors by name: save its '
      'state_dict() where that class is installed.'
    )
  if not isinstance(state, Mapping) or not state:
    raise UserError(f'{path} holds no tensors by name: give a file that holds a state_dict.')
  return dict(state)


def _strip_prefixes(state: dict[str, Any], notes: list[str]) -> dict[str, Any]:
  """Removes prefixes of wrappers that most names have."""

  def common(prefix):
    return sum(name.startswith(prefix) for name in state) > len(state) / 2

  while prefix := next(filter(common, _PREFIXES), None):
    if prefix == 'backbone.':  # Frameworks store heads of other tasks beside it.
      heads = [name for name in state if not name.startswith((prefix, *_HEADS))]
      if heads:
        notes.append(f'beside the backbone, left out: {", ".join(heads[:3])} ({len(heads)})')
      state = {name: value for name, value in state.items() if name not in heads}
    stripped = {name.removeprefix(prefix): value for name, value in state.items()}
    if len(stripped) < len(state):
      break
    state = stripped
  return state


def _parse(text: Any, path: Path) -> dict[str, Any]:
  """What this package stored as JSON; {} if it stored nothing."""
  try:
    about = json.loads(text) if isinstance(text, str) else {}
  except ValueError as e:
    raise UserError(f'{path}: what vmae_jax wrote into it is damaged: get it again.') from e
  return about if isinstance(about, dict) else {}
