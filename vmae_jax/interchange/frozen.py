"""From a PyTorch checkpoint of a frozen network to a file of this package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.frozen.files import load_params, save_params
from vmae_jax.interchange.raft import raft_from_torch, raft_kind
from vmae_jax.interchange.tensors import Tensors
from vmae_jax.interchange.vqgan import vqgan_from_taming


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


def convert_frozen(tensors: Tensors, out: str | Path, *, kind: str, source: str) -> str:
  """Writes a frozen network, reads it back and compares; returns one line on it.

  Args:
    tensors: Of the checkpoint.
    out: The file to write.
    kind: A name in KINDS.
    source: Where the tensors come from, for that line.

  Raises:
    UserError: the tensors are of another network, or `out` cannot be written.
  """
  config, params = KINDS[kind].convert(tensors)
  save_params(out, params, kind=kind, config=config)
  written, written_config = load_params(out, kind=kind)
  if not same_values(written, params) or written_config.keys() != config.keys():
    raise UserError(f'{out} reads otherwise than it was written: is the disk full or broken?')
  return f'{out}: {kind}, {describe_size(params, Path(out))}, from {source}'


def same_values(one: Any, other: Any) -> bool:
  """Whether two trees hold the same arrays under the same names."""
  return jax.tree.structure(one) == jax.tree.structure(other) and all(
    jax.tree.leaves(jax.tree.map(np.array_equal, one, other))
  )


def describe_size(params: Any, path: Path) -> str:
  leaves = jax.tree.leaves(params)
  files = [path] if path.is_file() else [file for file in path.rglob('*') if file.is_file()]
  megabytes = sum(file.stat().st_size for file in files) / 1e6
  count = sum(x.size for x in leaves)
  return f'{len(leaves)} tensors, {count / 1e6:.2f} M parameters, {megabytes:.1f} MB'
