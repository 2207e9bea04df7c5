"""Checkpoints of the official MME (M3Video) code, pre-training.

Its decoders and projections are lists, even of one; a head has two layers. With `decoder_num` 1
both heads share a decoder. With 2 each has its own and they share the mask token, of which we
keep a copy in each. What each part becomes here, as in configs/mme.py:

  encoder_to_decoder.J, decoder.J   `decoder`, or `shape_decoder` and `motion_decoder`
  head.I.0, head.I.2                `hidden_NAME`, `head_NAME`; NAME is shape (HOG) or motion
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.errors import UserError
from vmae_jax.interchange.layout import Names, Tensors, from_tensors, model_info, refuse
from vmae_jax.interchange.official import clip_sizes, decoder_info, encoder_info, official_names
from vmae_jax.interchange.tensors import Checkpoint, Read

DECODERS = {1: ('decoder',), 2: ('shape_decoder', 'motion_decoder')}
# Head -> how many values its target has for each step, and its last activation.
HEADS = {'shape': (108, 'sigmoid'), 'motion': (8, 'tanh')}


def mme_kind(names: Collection[str]) -> bool:
  """Whether tensors of these names are of MME's pre-training."""
  return 'encoder_to_decoder.0.weight' in names


def read_mme(
  checkpoint: Checkpoint, path: Path, heads: int | None, decoder_heads: int | None
) -> Read:
  """See `pretrained.Format`."""
  params, info, left = mme_from_torch(
    checkpoint.tensors,
    checkpoint.arguments,
    heads=heads,
    decoder_heads=decoder_heads,
    where=str(path),
  )
  return params, info | checkpoint.exported_info(), left, []


def mme_from_torch(
  tensors: Tensors,
  arguments: Mapping[str, Any],
  *,
  heads: int | None = None,
  decoder_heads: int | None = None,
  where: str = 'the checkpoint',
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
  """Parameters, info (as `load_pretrained` returns it) and the tensors that were not used.

  The info has two more entries: outputs (head -> fields of `decoder.Output`) and
  trajectory_length (L).

  Raises:
    UserError: tensors are missing or of another shape.
  """
  encoder, size, kernel = encoder_info(tensors, 'encoder.', heads=heads, where=where)
  count = 1 + ('encoder_to_decoder.1.weight' in tensors)
  decoders = [
    decoder_info(tensors, f'decoder.{j}.', size, heads=decoder_heads, where=where)
    for j in range(count)
  ]
  if decoders[0] != decoders[-1]:
    raise UserError(
      f'{where}: its two decoders differ in size ({decoders}): MME has no such model.'
    )
  info = model_info(
    kind='pretraining',
    method='mme',
    encoder=encoder,
    decoder=decoders[0],
    patch=tuple(kernel[2:]),
    channels=kernel[1],
    **clip_sizes(arguments),
    normalised_targets=False,
  )
  flat, left = {}, dict(tensors)
  for j, name in enumerate(DECODERS[count]):
    # The rest of each decoder is VideoMAE's, read with a stand-in for its last layer.
    part = info | {'pixels': (name, 'pixels')}
    pixels = int(np.prod(info['patch'])) * info['channels']
    stand_in = {
      f'decoder.{j}.head.weight': np.broadcast_to(
        np.float32(0), (pixels, part['decoder']['width'])
      ),
      f'decoder.{j}.head.bias': np.broadcast_to(np.float32(0), (pixels,)),
    }
    params, unused = from_tensors(tensors | stand_in, part, _names(part, j), where=where)
    flat |= {k: v for k, v in flatten_dict(params, sep='/').items() if '/head_pixels/' not in k}
    left = {name: value for name, value in left.items() if name in unused}
  layers, info['outputs'] = _heads(left, count, where)
  if 'motion' in info['outputs']:
    info['trajectory_length'] = info['outputs']['motion'][1] // HEADS['motion'][0]
  return unflatten_dict(flat | layers, sep='/'), info, left


def _names(info: Mapping[str, Any], j: int) -> Names:
  inner = official_names(info)

  def names(path, layer):
    (name,) = inner(path, layer)
    return (re.sub(r'^(decoder|encoder_to_decoder)\.', rf'\1.{j}.', name),)

  return names


def _heads(
  left: dict[str, np.ndarray], count: int, where: str
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, int, int, str]]]:
  """The heads' layers, taken out of `left`, by our paths; and head -> fields of `Output`."""
  flat, outputs, missing, misshapen = {}, {}, [], []
  # Two decoders have one head each; one decoder has both, or HOG's alone.
  both = count == 2 or 'decoder.0.head.1.0.weight' in left
  for i, (head, (step, activation)) in enumerate(list(HEADS.items())[: 2 if both else 1]):
    j, index = (i, 0) if count == 2 else (0, i)
    prefix, owner = f'decoder.{j}.head.{index}', DECODERS[count][j]
    names = [f'{prefix}.{layer}.{leaf}' for layer in (0, 2) for leaf in ('weight', 'bias')]
    if absent := [name for name in names if name not in left]:
      missing += absent
      continue
    w1, b1, w2, b2 = (left.pop(name) for name in names)
    if w2.shape[1:] != b1.shape or w1.shape[:1] != b1.shape or w2.shape[:1] != b2.shape:
      misshapen.append(f'{names[2]} is {list(w2.shape)} behind {names[0]} {list(w1.shape)}')
    elif len(b2) % step:
      misshapen.append(f'{names[2]} is {list(w2.shape)}, not [{step} x steps, {len(b1)}]')
    for name, weight, bias in (('hidden', w1, b1), ('head', w2, b2)):
      flat[f'{owner}/{name}_{head}/kernel'] = np.ascontiguousarray(weight.T)
      flat[f'{owner}/{name}_{head}/bias'] = bias
    outputs[head] = owner, len(b2), len(b1), activation
  refuse(missing, 'are missing', where)
  refuse(misshapen, 'have another shape than the rest of the model asks for', where)
  return flat, outputs
