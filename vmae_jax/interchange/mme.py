"""Checkpoints of the official MME (M3Video) code, pre-training.

Its decoders and projections are lists, even if there is only one; a head has two layers. With
`decoder_num` 1 both heads share a decoder. With 2 each has its own, and they share the mask token,
which we copy into both. What each part becomes here, as in configs/mme.py:

  encoder_to_decoder.J, decoder.J   `decoder`, or `shape_decoder` and `motion_decoder`
  head.I.0, head.I.2                `hidden_NAME`, `head_NAME`; NAME is shape (HOG) or motion
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

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


def read_mme(checkpoint: Checkpoint, heads: int | None, decoder_heads: int | None) -> Read:
  """See `pretrained.Format`.

  The info also has `outputs` (head -> fields of `decoder.Output`) and `trajectory_length` (L).
  """
  tensors, where = checkpoint.tensors, str(checkpoint.path)
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
    **clip_sizes(checkpoint.arguments),
    normalised_targets=False,
    outputs=_outputs(tensors, count, where),
  )
  if 'motion' in info['outputs']:
    info['trajectory_length'] = info['outputs']['motion'][1] // HEADS['motion'][0]
  params, left = from_tensors(tensors, info, _names(info, DECODERS[count]), where=where)
  return params, info | checkpoint.exported_info(), left, []


def _outputs(tensors: Tensors, count: int, where: str) -> dict[str, tuple[str, int, int, str]]:
  """Head -> fields of `Output`, from the shapes of its layers."""
  # Two decoders have one head each; one decoder has both, or HOG's alone.
  both = count == 2 or 'decoder.0.head.1.0.weight' in tensors
  found = {}
  for i, (head, (step, activation)) in enumerate(list(HEADS.items())[: 2 if both else 1]):
    j, index = (i, 0) if count == 2 else (0, i)
    first, last = (f'decoder.{j}.head.{index}.{layer}.weight' for layer in (0, 2))
    refuse([name for name in (first, last) if name not in tensors], 'are missing', where)
    rows, shape = tensors[first].shape[:1], tensors[last].shape
    wrong = []
    if shape[1:] != rows:
      wrong = [f'{last} is {list(shape)} behind {first} {list(tensors[first].shape)}']
    elif shape[0] % step:
      wrong = [f'{last} is {list(shape)}, not [{step} x steps, {rows[0]}]']
    refuse(wrong, 'have another shape than the rest of the model asks for', where)
    found[head] = DECODERS[count][j], shape[0], rows[0], activation
  return found


def _names(info: Mapping[str, Any], owners: tuple[str, ...]) -> Names:
  def names(path, layer):
    owner = path.partition('/')[0]
    j = owners.index(owner) if owner in owners else 0
    if head := re.search(r'/(hidden|head)_(\w+)/(kernel|bias)$', path):
      i = 0 if len(owners) == 2 else list(HEADS).index(head[2])
      step = {'hidden': 0, 'head': 2}[head[1]]
      return (f'decoder.{j}.head.{i}.{step}.{head[3].replace("kernel", "weight")}',)
    # All other names are VideoMAE's with a number.
    (name,) = official_names(info | {'pixels': (owners[j], 'pixels')})(path, layer)
    return (re.sub(r'^(decoder|encoder_to_decoder)\.', rf'\1.{j}.', name),)

  return names
