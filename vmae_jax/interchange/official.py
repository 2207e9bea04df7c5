"""Checkpoints of the official VideoMAE, VideoMAE V2 and MGMAE code."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.interchange import layout
from vmae_jax.interchange.tensors import Checkpoint, Read
from vmae_jax.models.positions import sincos_positions
from vmae_jax.models.sizes import SIZES

# Our paths -> their names, in this order; {} is the layer.
_RENAMED = (
  ('/blocks/block/', '/blocks/{}/'),
  ('attention/', 'attn/'),
  ('/embed/', '/patch_embed/proj/'),
  ('decoder/from_encoder/', 'encoder_to_decoder/'),
  ('decoder/mask_token', 'mask_token'),
  ('decoder/head_pixels/', 'decoder/head/'),
  ('classifier/', 'head/'),
  ('(kernel|scale)$', 'weight'),
  ('/', '.'),
)


def official_names(info: Mapping[str, Any]) -> layout.Names:
  """The official names of tensors, for `layout.from_tensors` and `to_tensors`."""

  def names(path, layer):
    name = layout.rename(canonical_path(path, info), _RENAMED).format(layer)
    return (name.removeprefix('encoder.') if info['kind'] == 'classification' else name,)

  return names


def canonical_path(path: str, info: Mapping[str, Any]) -> str:
  """Our path with the pixels' decoder and head renamed to `decoder` and `pixels`."""
  if info['kind'] != 'pretraining':
    return path
  decoder, head = info['pixels']
  return re.sub(rf'^{decoder}/', 'decoder/', path).replace(f'/head_{head}/', '/head_pixels/')


def official_kind(names: Collection[str]) -> bool:
  """Whether tensors of these names are of VideoMAE, V2 or MGMAE."""
  return 'encoder_to_decoder.0.weight' not in names and (
    'encoder.patch_embed.proj.weight' in names or 'patch_embed.proj.weight' in names
  )


def read_videomae(checkpoint: Checkpoint, heads: int | None, decoder_heads: int | None) -> Read:
  """See `pretrained.Format`."""
  where, (tensors, notes) = str(checkpoint.path), split_biases(checkpoint.tensors)
  info = official_info(
    tensors,
    checkpoint.arguments,
    heads=heads or checkpoint.exported('encoder').get('heads'),
    decoder_heads=decoder_heads or checkpoint.exported('decoder').get('heads'),
    where=where,
  )
  info |= checkpoint.exported_info()
  if checkpoint.exported('encoder').get('final_norm') is False:
    info['encoder']['final_norm'] = False  # Models of transformers; the official code has none.
  names = official_names(info)
  if info['kind'] == 'encoder':
    tensors = with_prefix(tensors)
  params, left = layout.from_tensors(tensors, info, names, where=where)
  if info['encoder'].get('final_norm') is False and 'fc_norm.weight' in left:
    left = {name: value for name, value in left.items() if not name.startswith('fc_norm.')}
    notes.append(
      'fc_norm is left out: VideoMAE V2 applies it to the mean of all tokens, and features here '
      'are the tokens themselves'
    )
  return params, info, left, notes


def official_info(
  tensors: layout.Tensors,
  arguments: Mapping[str, Any],
  *,
  heads: int | None = None,
  decoder_heads: int | None = None,
  where: str = 'the checkpoint',
) -> dict[str, Any]:
  """The info of `load_pretrained`, from the tensors and the training script's arguments.

  `heads` and `decoder_heads` override those of the table of sizes; `where` is the file, for
  messages.
  """
  pretrained = 'encoder.patch_embed.proj.weight' in tensors
  prefix = 'encoder.' if pretrained else ''
  encoder, size, kernel = encoder_info(tensors, prefix, heads=heads, where=where)
  info = layout.model_info(
    kind='encoder',
    encoder=encoder,
    patch=tuple(kernel[2:]),
    channels=kernel[1],
    **clip_sizes(arguments),
  )
  if pretrained and 'encoder_to_decoder.weight' in tensors:
    decoder = decoder_info(tensors, 'decoder.', size, heads=decoder_heads, where=where)
    decoder['width'] = tensors['encoder_to_decoder.weight'].shape[0]
    return info | dict(kind='pretraining', decoder=decoder, pixels=('decoder', 'pixels'))
  if not pretrained and 'head.weight' in tensors:
    # The head of a classifier with use_mean_pooling=False reads the first token.
    pool = 'mean' if 'fc_norm.weight' in tensors else 'first'
    return info | dict(kind='classification', classes=tensors['head.weight'].shape[0], pool=pool)
  if f'{prefix}norm.weight' not in tensors:
    encoder['final_norm'] = False
  return info


def clip_sizes(arguments: Mapping[str, Any]) -> dict[str, Any]:
  """How the training script cut clips.

  Returns:
    `frames` and `size` (the side), by default those of the script; `stride` and `sampling` (see
    `vmae_jax.data.sampling`), or None.
  """
  given = {name: value for name, value in arguments.items() if isinstance(value, int)}
  stride = given.get('sampling_rate', 0)
  # VideoMAE's fine-tuning on Something-Something V2 and VideoMAE V2's --sparse_sample use segments.
  sparse = arguments.get('data_set') == 'SSV2' or arguments.get('sparse_sample')
  return {
    'frames': given.get('num_frames', 16),
    'size': given.get('input_size', 224),
    'stride': stride if stride > 0 else None,
    'sampling': 'segment' if sparse else 'dense' if stride > 0 else None,
  }


def split_biases(tensors: layout.Tensors) -> tuple[dict[str, np.ndarray], list[str]]:
  """The tensors with q_bias and v_bias in place of a whole qkv.bias, and notes.

  The keys' part is dropped: it adds one number to all scores of a query, which softmax ignores.
  """
  split, dropped = {}, False
  for name, value in tensors.items():
    if name.endswith('attn.qkv.bias') and len(value) % 3 == 0:
      prefix = name.removesuffix('qkv.bias')
      split[f'{prefix}q_bias'], keys, split[f'{prefix}v_bias'] = np.split(value, 3)
      dropped |= bool(keys.any())
    else:
      split[name] = value
  note = 'qkv.bias: its part for the keys is left out, as softmax ignores it'
  return split, [note] * dropped


def with_prefix(tensors: layout.Tensors) -> dict[str, np.ndarray]:
  """An encoder's tensors under their names in pre-training."""
  own = ('patch_embed.', 'blocks.', 'norm.')
  return {f'encoder.{k}' if k.startswith(own) else k: value for k, value in tensors.items()}


def encoder_info(
  tensors: layout.Tensors, prefix: str, *, heads: int | None, where: str
) -> tuple[dict[str, Any], str | None, tuple[int, ...]]:
  """Arguments of the encoder, its name in SIZES, and the shape of the embedding's kernel."""
  kernel = tensors[f'{prefix}patch_embed.proj.weight'].shape
  if len(kernel) != 5:
    raise UserError(
      f'{where}: {prefix}patch_embed.proj.weight is {list(kernel)}, but a video model has five '
      'axes there (width, channels, frames, rows, columns): this is a model of images.'
    )
  encoder = _sizes(tensors, prefix, where, 'so this is no VideoMAE')
  size = find_size(encoder)
  if heads is None and size is None:
    raise UserError(
      f'{where}: an encoder of width {encoder["width"]}, depth {encoder["depth"]} and '
      f'{encoder["mlp"]} hidden units is in no table, and shapes do not show how many heads its '
      'attention has: convert it with --heads=N (and --decoder_heads=N).'
    )
  encoder['heads'] = heads or SIZES[size]['heads']
  check_heads(encoder, where)
  return encoder, size, kernel


def decoder_info(
  tensors: layout.Tensors, prefix: str, size: str | None, *, heads: int | None, where: str
) -> dict[str, Any]:
  """Arguments of a decoder; the usual number of heads follows from the encoder's size."""
  decoder = _sizes(tensors, prefix, where, 'although there is a decoder')
  if heads is None and size is None:
    raise UserError(
      f'{where}: shapes do not show the heads of the decoder: convert it with --decoder_heads=N.'
    )
  decoder['heads'] = heads or SIZES[size]['decoder']['heads']
  check_heads(decoder, where)
  return decoder


def _sizes(tensors: layout.Tensors, prefix: str, where: str, consequence: str) -> dict[str, Any]:
  """Width, depth and mlp of blocks; `consequence` ends the message if there are none."""
  first = f'{prefix}blocks.0.mlp.fc1.weight'
  if first not in tensors:
    raise UserError(f'{where}: {first} is missing, {consequence}.')
  mlp, width = tensors[first].shape[0], tensors[first].shape[-1]
  depth = layout.count_layers(tensors, rf'{re.escape(prefix)}blocks\.(\d+)\.')
  return dict(width=width, depth=depth, mlp=mlp)


def find_size(encoder: Mapping[str, Any]) -> str | None:
  """The name in SIZES of this width, depth and mlp, or None."""
  same = ('width', 'depth', 'mlp')
  return next((n for n, s in SIZES.items() if all(s[key] == encoder[key] for key in same)), None)


def check_heads(part: Mapping[str, Any], where: str) -> None:
  if part['heads'] < 1 or part['width'] % part['heads']:
    raise UserError(f'{where}: width {part["width"]} is no multiple of {part["heads"]} heads.')


def drop_positions(left: dict[str, np.ndarray], names: Collection[str], *, where: str) -> list[str]:
  """Removes stored tables of positions from `left` and returns a note for each.

  Raises:
    UserError: a table is not the one that is computed here; our models have no learnt positions.
  """
  notes = []
  for name in [name for name in names if name in left]:
    table = left.pop(name)
    table = table.reshape(-1, table.shape[-1])
    if np.abs(table - sincos_positions(*table.shape)).max() > 1e-5:
      raise UserError(
        f'{where}: {name} {list(table.shape)} is not the sine-cosine table of its length: it is '
        'learnt or interpolated, and positions here are always computed from the size of the '
        'clip. Such a model cannot be converted without a change of its outputs.'
      )
    notes.append(f'{name} is the table that is computed here: left out')
  return notes
