"""From a PyTorch checkpoint of a frozen network to a file of this package."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.errors import UserError, lookup
from vmae_jax.interchange.files import load_params, save_params
from vmae_jax.interchange.raft import raft_from_torch, raft_kind
from vmae_jax.interchange.vqgan import vqgan_from_taming

# Under which checkpoints keep their tensors.
_WRAPPERS = ('state_dict', 'model', 'params')

Tensors = Mapping[str, np.ndarray]


class Kind(NamedTuple):
  """One kind of network that can be converted.

  Attributes:
    recognise: Whether the names of tensors are those of this kind.
    convert: From tensors to the model's config and its parameters.
  """

  recognise: Callable[[Tensors], bool]
  convert: Callable[[Tensors], tuple[dict[str, Any], dict[str, Any]]]


def _vqgan(tensors: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
  model, params = vqgan_from_taming(tensors)
  return model.config(), params


def _raft(tensors: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
  size, params = raft_from_torch(tensors)
  return {'size': size}, params


KINDS = {
  'raft': Kind(raft_kind, _raft),
  'vqgan': Kind(lambda t: 'post_quant_conv.weight' in t and 'encoder.conv_in.weight' in t, _vqgan),
}


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a PyTorch checkpoint; fractions become float32.

  Args:
    path: A .safetensors file, or what `torch.save` wrote; only tensors are unpickled.

  Raises:
    UserError: the file is missing, damaged, holds classes, or PyTorch is needed and missing.
  """
  path = Path(path)
  if not path.is_file():
    raise UserError(f'there is no file {path}.')
  state = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
  for key in _WRAPPERS:
    if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
      state = state[key]
  if not isinstance(state, Mapping) or not state:
    raise UserError(f'{path} holds no tensors by name: give a file that holds a state_dict.')
  if all(name.startswith('module.') for name in state):  # Of torch's DataParallel.
    state = {name.removeprefix('module.'): value for name, value in state.items()}
  if others := [name for name, value in state.items() if not hasattr(value, 'shape')]:
    raise UserError(
      f'{path} holds what is no tensor: {", ".join(map(str, others[:5]))}; give a file that '
      f'holds a state_dict, alone or as {", ".join(_WRAPPERS)}.'
    )
  return {name: _to_numpy(value) for name, value in state.items()}


def _read_safetensors(path: Path) -> Mapping[str, Any]:
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    return load_file(path)
  except (OSError, SafetensorError) as e:
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
    return torch.load(path, map_location='cpu', weights_only=True)
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


def _to_numpy(value: Any) -> np.ndarray:
  if hasattr(value, 'detach'):  # NumPy has no bfloat16 that torch knows of.
    value = value.detach()
    value = (value.float() if value.is_floating_point() else value).numpy()
  return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


def convert(source: str | Path, out: str | Path, *, kind: str = '') -> str:
  """Converts one file, reads it back and compares.

  Args:
    source: The checkpoint.
    out: The file to write.
    kind: A name in KINDS; '' to tell it by the names of tensors.

  Returns:
    One line on what was converted.

  Raises:
    UserError: the source cannot be read or is of no known kind, or `out` cannot be written.
  """
  if Path(out).exists() and Path(out).resolve() == Path(source).resolve():
    raise UserError(f'--out={out} is the source itself: give another file.')
  tensors = read_tensors(source)
  if not kind:
    found = [name for name, entry in KINDS.items() if entry.recognise(tensors)]
    if len(found) != 1:
      raise UserError(
        f'{source}: its tensors ({", ".join(list(tensors)[:3])}, ...) are those of no network '
        f'that is known here ({", ".join(KINDS)}); if it is one of them, add --kind=NAME.'
      )
    kind = found[0]
  config, params = lookup(KINDS, kind, '--kind').convert(tensors)
  save_params(out, params, kind=kind, config=config)
  written, written_config = load_params(out, kind=kind)
  same = jax.tree.structure(written) == jax.tree.structure(params) and all(
    jax.tree.leaves(jax.tree.map(np.array_equal, written, params))
  )
  if not same or written_config.keys() != config.keys():
    raise UserError(f'{out} reads otherwise than it was written: is the disk full or broken?')
  leaves = jax.tree.leaves(params)
  count = sum(x.size for x in leaves)
  megabytes = Path(out).stat().st_size / 1e6
  return (
    f'{out}: {kind}, {len(leaves)} tensors, {count / 1e6:.2f} M parameters, {megabytes:.1f} MB, '
    f'from {source}'
  )
