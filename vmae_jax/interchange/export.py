"""Video models as files of other implementations."""

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from vmae_jax.errors import UserError
from vmae_jax.frozen.files import FORMAT, save_params
from vmae_jax.interchange.card import MODELS, last_part, model_card
from vmae_jax.interchange.huggingface import huggingface_names
from vmae_jax.interchange.layout import to_tensors
from vmae_jax.interchange.official import official_names
from vmae_jax.interchange.pretrained import digest, rest_path
from vmae_jax.interchange.runs import run_config, save_run

# What of the info is stored beside the tensors.
_STORED = (
  'kind',
  'method',
  'encoder',
  'decoder',
  'pixels',
  'frames',
  'size',
  'mean',
  'std',
  'eps',
  'normalised_targets',
  'pool',
  'id2label',
)


def write_huggingface(
  out: Path, params: Mapping[str, Any], info: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> list[str]:
  """Writes a folder for `from_pretrained`; returns the parameters that lie in rest.safetensors.

  Raises:
    UserError: transformers has no such model.
  """
  config = _config(info)
  out.mkdir(parents=True)
  tensors, rest = to_tensors(params, info, huggingface_names(info))
  about = _about(info, rest, fingerprint)
  save_file(tensors, out / 'model.safetensors', {'format': 'pt', FORMAT: about})
  _write_json(out / 'config.json', config)
  _write_json(out / 'preprocessor_config.json', _processor(info))
  _write_rest(out, rest)
  card = model_card(info, file='model.safetensors', rest=list(rest))
  (out / 'README.md').write_text(card, encoding='utf-8')
  return list(rest)


def write_videomae(
  out: Path, params: Mapping[str, Any], info: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> list[str]:
  """Writes a file with the official names, and a card beside it; returns what lies beside, too.

  Args:
    out: FILE.pth, which needs PyTorch, or FILE.safetensors.
    params: Of the model.
    info: As `load_pretrained` says.
    fingerprint: Of its outputs.
  """
  out.parent.mkdir(parents=True, exist_ok=True)
  tensors, rest = to_tensors(params, info, official_names(info))
  about = _about(info, rest, fingerprint)
  if out.suffix == '.safetensors':
    save_file(tensors, out, {FORMAT: about})
  else:
    import torch

    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    torch.save({'model': state, FORMAT: about}, out)
  _write_rest(out, rest)
  card = model_card(info, file=out.name, rest=list(rest))
  out.with_suffix('.md').write_text(card, encoding='utf-8')
  return list(rest)


def write_orbax(
  out: Path, params: Mapping[str, Any], info: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> list[str]:
  """Writes a checkpoint for `--config.init_from`; nothing lies beside it."""
  del fingerprint  # What reads it is this package.
  names = class_names(info) if info['id2label'] else ()
  save_run(out, params, public(run_config(info)), names)
  return []


def public(value: Any) -> Any:
  """A config in which of every path the last part is left: where data lie is nobody's business."""
  if isinstance(value, Mapping):
    return {key: public(x) for key, x in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(map(public, value))
  return last_part(value) if isinstance(value, str) else value


def class_names(info: Mapping[str, Any]) -> list[str]:
  """A name for each class of a classifier."""
  names = info['id2label'] or {}
  return [names.get(i, f'LABEL_{i}') for i in range(info['classes'])]


def check_target(to: str, out: Path) -> None:
  """Raises a UserError where nothing could be written in the end.

  Args:
    to: The format; '' for a frozen network.
    out: What is to be written.
  """
  if to in ('', 'videomae'):  # Files.
    beside = [out.with_suffix('.md'), rest_path(out)] if to else []
    there = [str(path) for path in (out, *beside) if path.exists()]
  else:
    there = [str(out)] if out.is_file() or (out.is_dir() and any(out.iterdir())) else []
  if there:
    raise UserError(
      f'{" and ".join(there)} would be overwritten: give another --out, or remove it.'
    )
  if to == 'videomae':
    if out.suffix not in ('.pth', '.safetensors'):
      raise UserError(f'--out={out}: --to=videomae writes a file, FILE.pth or FILE.safetensors.')
    if out.suffix == '.pth' and importlib.util.find_spec('torch') is None:
      raise UserError(f'--out={out} needs PyTorch: pip install torch, or give FILE.safetensors.')


def _config(info: Mapping[str, Any]) -> dict[str, Any]:
  """config.json."""
  pt, ph, pw = info['patch']
  if ph != pw:
    raise UserError(f'transformers has no VideoMAE with patches of {ph} x {pw}: only squares.')
  encoder, decoder = info['encoder'], info['decoder'] or {}
  mean = info['pool'] == 'mean' or encoder.get('final_norm') is False
  config = dict(
    architectures=[MODELS[info['kind']]],
    model_type='videomae',
    image_size=info['size'],
    patch_size=ph,
    num_channels=info['channels'],
    num_frames=info['frames'],
    tubelet_size=pt,
    hidden_size=encoder['width'],
    num_hidden_layers=encoder['depth'],
    num_attention_heads=encoder['heads'],
    intermediate_size=encoder['mlp'],
    hidden_act='gelu',
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    layer_norm_eps=info['eps'],
    qkv_bias=True,
    use_mean_pooling=mean,
    norm_pix_loss=info['normalised_targets'],
    torch_dtype='float32',
  )
  for key, ours in (
    ('hidden_size', 'width'),
    ('num_hidden_layers', 'depth'),
    ('num_attention_heads', 'heads'),
    ('intermediate_size', 'mlp'),
  ):
    if decoder:
      config[f'decoder_{key}'] = decoder[ours]
  if info['kind'] == 'classification':
    labels = class_names(info)
    config['id2label'] = {str(i): name for i, name in enumerate(labels)}
    config['label2id'] = {name: i for i, name in enumerate(labels)}
  return config


def _processor(info: Mapping[str, Any]) -> dict[str, Any]:
  """preprocessor_config.json: the shorter side to the size, the centre, normalised."""
  return dict(
    image_processor_type='VideoMAEImageProcessor',
    do_resize=True,
    size={'shortest_edge': info['size']},
    resample=2,
    do_center_crop=True,
    crop_size={'height': info['size'], 'width': info['size']},
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=list(info['mean']),
    image_std=list(info['std']),
  )


def _about(
  info: Mapping[str, Any], rest: Mapping[str, np.ndarray], fingerprint: Mapping[str, Any]
) -> str:
  about = {
    'info': {key: info[key] for key in _STORED},
    'config': public(info['config']),
    'rest': {'names': sorted(rest), 'digest': digest(rest)} if rest else None,
    'fingerprint': fingerprint,
  }
  return json.dumps(about, sort_keys=True)


def _write_rest(out: Path, rest: Mapping[str, np.ndarray]) -> None:
  if rest:
    size = sum(math.prod(value.shape) for value in rest.values())
    tree = unflatten_dict(dict(rest), sep='/')
    save_params(rest_path(out), tree, kind='rest', config={'parameters': size})


def _write_json(path: Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')
