"""Writes video models as files of other implementations, and as checkpoints of ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from vmae_jax.errors import UserError
from vmae_jax.frozen.files import FORMAT, save_params
from vmae_jax.interchange.card import MODELS, last_part, model_card
from vmae_jax.interchange.huggingface import SIDES, huggingface_names
from vmae_jax.interchange.layout import to_tensors
from vmae_jax.interchange.official import official_names
from vmae_jax.interchange.pretrained import digest, rest_path
from vmae_jax.interchange.runs import run_config, save_run
from vmae_jax.interchange.selfcheck import has_torch

# Entries of the info that are stored beside the tensors.
_STORED = (
  'kind method encoder decoder pixels frames size mean std eps normalised_targets pool id2label'
).split()


def write_huggingface(
  out: Path, params: Mapping[str, Any], info: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> list[str]:
  """Writes a folder for `from_pretrained`; returns the names of parameters in rest.safetensors.

  `info` is as from `load_pretrained`; `fingerprint` is that of the model's outputs.

  Raises:
    UserError: transformers has no such model.
  """
  config = _config(info)
  out.mkdir(parents=True)
  tensors, rest = to_tensors(params, info, huggingface_names(info))
  about = _about(info, rest, fingerprint)
  save_file(tensors, out / 'model.safetensors', {'format': 'pt', FORMAT: about})
  processor = _processor(info)
  files = {
    'config': config,
    'preprocessor_config': {'image_processor_type': 'VideoMAEImageProcessor'} | processor,
    # For transformers 5, whose video processor needs torchvision; the one above does not.
    'video_preprocessor_config': {'video_processor_type': 'VideoMAEVideoProcessor'} | processor,
  }
  for name, value in files.items():
    (out / f'{name}.json').write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')
  return _write_rest_and_card(out, 'model.safetensors', out / 'README.md', info, rest)


def write_videomae(
  out: Path, params: Mapping[str, Any], info: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> list[str]:
  """Writes FILE.pth, which needs PyTorch, or FILE.safetensors with the official names.

  Arguments and result are as in `write_huggingface`. The card is FILE.md.
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
  return _write_rest_and_card(out, out.name, out.with_suffix('.md'), info, rest)


def write_orbax(
  out: Path, params: Mapping[str, Any], info: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> list[str]:
  """Writes a checkpoint for `--config.init_from`, which holds every parameter."""
  del fingerprint  # Only this package reads such a checkpoint.
  names = class_names(info) if info['id2label'] else ()
  save_run(out, params, public(run_config(info)), names)
  return []


def public(value: Any) -> Any:
  """A config with only the last part of every path, as the rest is private."""
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
  """Raises a UserError if `out` cannot be written in a format ('' for a frozen network)."""
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
    if out.suffix == '.pth' and not has_torch():
      raise UserError(f'--out={out} needs PyTorch: pip install torch, or give FILE.safetensors.')


def _config(info: Mapping[str, Any]) -> dict[str, Any]:
  """config.json."""
  pt, ph, pw = info['patch']
  if ph != pw:
    raise UserError(f'transformers has no VideoMAE with patches of {ph} x {pw}: only squares.')
  encoder, decoder = info['encoder'], info['decoder']
  config = dict(
    architectures=[MODELS[info['kind']]],
    model_type='videomae',
    image_size=info['size'],
    patch_size=ph,
    num_channels=info['channels'],
    num_frames=info['frames'],
    tubelet_size=pt,
    hidden_act='gelu',
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    layer_norm_eps=info['eps'],
    qkv_bias=True,
    use_mean_pooling=info['pool'] == 'mean' or encoder.get('final_norm') is False,
    norm_pix_loss=info['normalised_targets'],
    torch_dtype='float32',
  )
  for ours, theirs in SIDES.items():
    config[theirs] = encoder[ours]
    if decoder:
      config[f'decoder_{theirs}'] = decoder[ours]
  if info['kind'] == 'classification':
    labels = class_names(info)
    config['id2label'] = {str(i): name for i, name in enumerate(labels)}
    config['label2id'] = {name: i for i, name in enumerate(labels)}
  return config


def _processor(info: Mapping[str, Any]) -> dict[str, Any]:
  """Preprocessing: the shorter side resized to the input's size, the centre cut out, normalised."""
  return dict(
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


def _write_rest_and_card(
  out: Path, file: str, card: Path, info: Mapping[str, Any], rest: Mapping[str, np.ndarray]
) -> list[str]:
  """Writes the card, and what the format cannot hold into a side file; returns the names in it."""
  if rest:
    count = sum(value.size for value in rest.values())
    tree = unflatten_dict(dict(rest), sep='/')
    save_params(rest_path(out), tree, kind='rest', config={'parameters': count})
  card.write_text(model_card(info, file=file, rest=list(rest)), encoding='utf-8')
  return list(rest)
