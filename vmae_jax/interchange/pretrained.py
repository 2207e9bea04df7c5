"""Pre-trained video models of other implementations, in our layout of parameters."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.errors import UserError, lookup
from vmae_jax.frozen.files import load_params
from vmae_jax.interchange import huggingface, mme, official
from vmae_jax.interchange.layout import refuse
from vmae_jax.interchange.tensors import Checkpoint, read_checkpoint
from vmae_jax.models.patches import token_grid


class Format(NamedTuple):
  """A kind of checkpoint."""

  recognise: Callable[[Collection[str]], bool]  # Whether tensors of these names are of this kind.
  read: Callable[..., Any]  # (checkpoint, heads, decoder_heads) -> `tensors.Read`.


FORMATS = {
  'huggingface': Format(huggingface.huggingface_kind, huggingface.read_huggingface),
  'videomae': Format(official.official_kind, official.read_videomae),
  'mme': Format(mme.mme_kind, mme.read_mme),
}
_LARGEST_CLIP = 2**28  # Pixels.
_POSITION_TABLES = (
  'pos_embed encoder.pos_embed decoder.pos_embed position_embeddings '
  'embeddings.position_embeddings videomae.embeddings.position_embeddings'
).split()


def load_pretrained(
  path: str | Path, *, weights: str = ''
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a pre-trained or fine-tuned model of another implementation.

  Args:
    path: A folder of transformers, or a .pth or .safetensors file (or DeepSpeed folder) of the
      official VideoMAE, VideoMAE V2, MGMAE or MME.
    weights: See `read_checkpoint`.

  Returns:
    Parameters as NumPy arrays in float32, {'encoder': ..., 'decoder': ...} as in
    `MaskedAutoencoder`, {'encoder': ..., 'fc_norm': ..., 'classifier': ...} as in `Classifier`,
    or {'encoder': ...} alone; and the info, a dict with
      kind: pretraining, classification or encoder.
      format: The key of FORMATS by which it was read.
      method: videomae, mme, or that of the run that it was exported from.
      encoder, decoder: width, depth, heads and mlp (decoder: None if there is none); of an
        encoder without a last LayerNorm also final_norm=False.
      pixels: Names of the decoder and of the head that predict pixels, or None.
      patch, channels, frames, size, mean, std: Of the input.
      eps: The eps of LayerNorms that reproduces the source.
      normalised_targets: Whether the pixels to predict were normalised in each patch.
      classes, pool, id2label: Of a classifier: its number of classes, `mean` or `first` for the
        tokens that it uses, and the names of the classes; or None.
      config: The config of the run that it was exported from, or None.
      notes: Lines to show: what is unusual, left out, or differs between implementations.

  Raises:
    UserError: it cannot be read, is of no known kind, or tensors (which are named) are missing,
      left over or misshapen.
  """
  return from_checkpoint(read_checkpoint(path, weights=weights))


def from_checkpoint(
  checkpoint: Checkpoint,
  *,
  kind: str = '',
  heads: int | None = None,
  decoder_heads: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """As `load_pretrained`, from a checkpoint that has been read.

  `kind` is a key of FORMATS, or '' to recognise it. `heads` and `decoder_heads` are for files that
  do not say them or are wrong.
  """
  kind, where = kind or recognise(checkpoint, FORMATS), str(checkpoint.path)
  read = lookup(FORMATS, kind, '--kind').read
  params, info, left, notes = read(checkpoint, heads, decoder_heads)
  notes = checkpoint.notes + notes + official.drop_positions(left, _POSITION_TABLES, where=where)
  refuse(list(left), f'have no place in a {kind} model', where)
  if info['kind'] != 'pretraining':
    info['pixels'] = None
  _check_clip(info, where)
  info |= {'format': kind, 'config': checkpoint.about.get('config'), 'notes': notes}
  if held := checkpoint.about.get('rest'):
    params = _with_rest(params, held, checkpoint.path, notes)
  return params, info


def recognise(checkpoint: Checkpoint, formats: Mapping[str, Format]) -> str:
  """The name of the one format that has such names of tensors.

  Raises:
    UserError: there is not exactly one.
  """
  found = [name for name, entry in formats.items() if entry.recognise(checkpoint.tensors)]
  if len(found) == 1:
    return found[0]
  raise UserError(
    f'{checkpoint.path}: its tensors ({", ".join(list(checkpoint.tensors)[:3])}, ...) are those of '
    f'no network that is known here ({", ".join(formats)}); if it is one of them, convert it with '
    '--kind=NAME.'
  )


def _check_clip(info: Mapping[str, Any], where: str) -> None:
  """Raises a UserError for clip sizes that no model can have, before such clips are allocated."""
  clip = info['frames'], info['size'], info['size']
  if min(clip) < 1 or clip[0] * clip[1] ** 2 > _LARGEST_CLIP:
    raise UserError(
      f'{where} says that clips have {clip[0]} frames of {clip[1]} x {clip[2]} pixels.'
    )
  try:
    token_grid(clip, info['patch'])
  except UserError as e:
    raise UserError(f'{where} contradicts itself: {e}') from e


def rest_path(path: str | Path) -> Path:
  """The side file for what the format of `path` cannot hold; inside it if it is a folder."""
  path = Path(path)
  return path / 'rest.safetensors' if path.is_dir() else path.with_suffix('.rest.safetensors')


def digest(tensors: Mapping[str, np.ndarray]) -> str:
  """A checksum of names and values."""
  total = hashlib.sha256()
  for name in sorted(tensors):
    total.update(name.encode())
    total.update(np.ascontiguousarray(tensors[name]).data)
  return total.hexdigest()


def _with_rest(params: dict, held: dict[str, Any], path: Path, notes: list[str]) -> dict:
  """Parameters together with those of the side file of `path`, if it exists."""
  file = rest_path(path)
  if not file.is_file():
    notes.append(f'{file.name} is not beside it: {len(held["names"])} parameters are left out')
    return params
  rest, _ = load_params(file, kind='rest')
  rest = flatten_dict(rest, sep='/')
  if digest(rest) != held['digest']:
    raise UserError(
      f'{file} is not the one that was written together with {path}: get both again, or move it '
      'away to do without.'
    )
  notes.append(f'{len(rest)} parameters come from {file.name}')
  return unflatten_dict(flatten_dict(params, sep='/') | rest, sep='/')
