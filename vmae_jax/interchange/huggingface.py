"""VideoMAE checkpoints of transformers."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.interchange import layout
from vmae_jax.interchange.official import canonical_path, check_heads, find_size
from vmae_jax.interchange.tensors import Checkpoint, Read
from vmae_jax.models.sizes import SIZES

# The eps of transformers' `fc_norm` and `decoder.norm`, whatever config.json says.
LAST_NORM_EPS = 1e-5
SCALE = 1 / 255
# Defaults of transformers' VideoMAEConfig.
DEFAULTS = dict(
  image_size=224,
  patch_size=16,
  num_channels=3,
  num_frames=16,
  tubelet_size=2,
  hidden_size=768,
  num_hidden_layers=12,
  num_attention_heads=12,
  intermediate_size=3072,
  layer_norm_eps=1e-12,
  decoder_num_attention_heads=6,
  decoder_hidden_size=384,
  decoder_num_hidden_layers=4,
  decoder_intermediate_size=1536,
  norm_pix_loss=True,
)
# Our name of a size -> config.json's, which has the prefix `decoder_` for the decoder.
SIDES = {
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'mlp': 'intermediate_size',
}
_EMBEDDING = 'embeddings.patch_embeddings.projection.weight'
# Our paths -> their names, in this order; {} is the layer.
_RENAMED = (
  ('encoder/blocks/block/', 'videomae/encoder/layer/{}/'),
  ('decoder/blocks/block/', 'decoder/decoder_layers/{}/'),
  ('attention/proj/', 'attention/output/dense/'),
  ('attention/([qv])_bias', r'attention/attention/\1_bias'),
  ('mlp/fc1/', 'intermediate/dense/'),
  ('mlp/fc2/', 'output/dense/'),
  ('norm1/', 'layernorm_before/'),
  ('norm2/', 'layernorm_after/'),
  ('encoder/embed/', 'videomae/embeddings/patch_embeddings/projection/'),
  ('encoder/norm/', 'videomae/layernorm/'),
  ('decoder/from_encoder/', 'encoder_to_decoder/'),
  ('decoder/mask_token', 'mask_token'),
  ('decoder/head_pixels/', 'decoder/head/'),
  ('(kernel|scale)$', 'weight'),
  ('/', '.'),
)


def huggingface_names(info: Mapping[str, Any]) -> layout.Names:
  """The names of tensors in files on the Hub, for `layout.from_tensors` and `to_tensors`.

  They are those of transformers 4, which has `q_bias` and `v_bias`. Release 5 reads them, too; its
  early versions lose both biases, which the self-check finds.
  """

  def names(path, layer):
    name = layout.rename(canonical_path(path, info), _RENAMED).format(layer)
    if info['kind'] == 'encoder':  # The base model alone.
      name = name.removeprefix('videomae.')
    if not name.endswith('attention.qkv.weight'):
      return (name,)
    prefix = name.removesuffix('qkv.weight')
    return tuple(f'{prefix}attention.{part}.weight' for part in ('query', 'key', 'value'))

  return names


def huggingface_kind(names: Collection[str]) -> bool:
  """Whether tensors of these names are of a VideoMAE of transformers."""
  return _EMBEDDING in names or f'videomae.{_EMBEDDING}' in names


def _has_biases(config: Mapping[str, Any]) -> bool:
  return config.get('qkv_bias', config.get('qv_bias', True)) is not False


def hub_names(tensors: layout.Tensors, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The same tensors under the names in files on the Hub, whichever release saved them.

  If config.json says that there are no q and v biases, they are zeros here.
  """
  renamed = {
    re.sub(r'attention\.(query|value)\.bias$', lambda m: f'attention.{m[1][0]}_bias', name): value
    for name, value in tensors.items()
  }
  if not _has_biases(config):
    for name in [name for name in renamed if name.endswith('attention.query.weight')]:
      for part in 'qv':
        zeros = np.zeros(len(renamed[name]), np.float32)
        renamed[f'{name.removesuffix("query.weight")}{part}_bias'] = zeros
  return renamed


def read_config(folder: str | Path) -> dict[str, Any]:
  """A folder's config.json, with image_mean and image_std of its processor if it has one."""
  config = _read_json(Path(folder) / 'config.json')
  if config.get('model_type') != 'videomae':
    raise UserError(
      f'{folder}/config.json is of a {config.get("model_type")!r}, not of a videomae.'
    )
  if config.get('hidden_act', 'gelu') != 'gelu':
    raise UserError(
      f'{folder}/config.json has hidden_act {config["hidden_act"]!r}; only gelu is known here.'
    )
  return config | _normalisation(Path(folder), config.get('num_channels', 3))


def _normalisation(folder: Path, channels: int) -> dict[str, list[float | int]]:
  """image_mean and image_std, read from the first file in which transformers looks for them."""
  nested = folder / 'processor_config.json'
  processor = _read_json(nested).get('video_processor') if nested.is_file() else None
  for name in ('video_preprocessor_config.json', 'preprocessor_config.json'):
    if processor is None and (folder / name).is_file():
      processor = _read_json(folder / name)
  if processor is None:
    return {}
  if (
    not processor.get('do_rescale', True)
    or abs(processor.get('rescale_factor', SCALE) / SCALE - 1) > 1e-6
  ):
    raise UserError(
      f'{folder}: its processor does not scale pixels to [0, 1] (do_rescale, rescale_factor), '
      'which is the only input that is known here.'
    )
  if not processor.get('do_normalize', True):
    return dict(image_mean=[0.0] * channels, image_std=[1.0] * channels)
  # A value that is missing or null is transformers' default 0.5, not ImageNet's.
  found = {}
  for key in ('image_mean', 'image_std'):
    value = processor.get(key)
    value = 0.5 if value is None else value
    found[key] = value if isinstance(value, list) else [value] * channels
  if {len(x) for x in found.values()} != {channels} or not all(found['image_std']):
    raise UserError(
      f'{folder}: its processor has {found}: give {channels} numbers each, no std of 0.'
    )
  return found


def read_huggingface(checkpoint: Checkpoint, heads: int | None, decoder_heads: int | None) -> Read:
  """See `pretrained.Format`."""
  path = checkpoint.path
  config = read_config(path if path.is_dir() else path.parent)
  tensors = hub_names(checkpoint.tensors, config)
  if checkpoint.exported('encoder').get('heads') == config.get('num_attention_heads'):
    heads = heads or config.get('num_attention_heads')  # Our exports say the right number.
  info, notes = huggingface_info(
    tensors, config, heads=heads, decoder_heads=decoder_heads, where=str(path)
  )
  # Users edit the JSON files, so these override what the export stored with the tensors.
  edited = ('frames', 'size', 'eps', 'mean', 'std', 'id2label')
  info |= {key: value for key, value in checkpoint.exported_info().items() if key not in edited}
  if info['kind'] == 'encoder':  # Names have the prefix if it comes from a larger model.
    tensors = {name.removeprefix('videomae.'): value for name, value in tensors.items()}
  params, left = layout.from_tensors(tensors, info, huggingface_names(info), where=str(path))
  return params, info, left, notes


def huggingface_info(
  tensors: layout.Tensors,
  config: Mapping[str, Any],
  *,
  heads: int | None = None,
  decoder_heads: int | None = None,
  where: str = 'it',
) -> tuple[dict[str, Any], list[str]]:
  """The info of `load_pretrained`, from config.json and the tensors, and notes.

  Raises:
    UserError: config.json contradicts the tensors, or has values that are not supported.
  """
  config = DEFAULTS | dict(config)
  encoder = {ours: config[theirs] for ours, theirs in SIDES.items()}
  encoder['heads'] = heads or encoder['heads']
  notes = []
  if heads is None and find_size(encoder) == 's' and encoder['heads'] == 16:
    encoder['heads'] = SIZES['s']['heads']
    notes.append(
      'HEADS: config.json says 16, as the one on the Hub does, but the published ViT-S was trained '
      'with 6 heads: 6 are taken. If this model was trained with 16, convert it with --heads=16'
    )
  check_heads(encoder, where)
  _check_sizes(tensors, config, where)
  decoder = classes = id2label = pool = None
  kind = 'encoder'
  mean = _mean_pooling(tensors, config, where)
  if 'classifier.weight' in tensors:
    kind, classes = 'classification', tensors['classifier.weight'].shape[0]
    pool = 'mean' if mean else 'first'
    id2label = {int(k): v for k, v in (config.get('id2label') or {}).items()} or None
  elif 'encoder_to_decoder.weight' in tensors:
    kind = 'pretraining'
    decoder = {ours: config[f'decoder_{theirs}'] for ours, theirs in SIDES.items()}
    decoder['heads'] = decoder_heads or decoder['heads']
    check_heads(decoder, where)
  if kind != 'classification' and mean:
    encoder['final_norm'] = False
  image, patch = (_one(config[key], key, where) for key in ('image_size', 'patch_size'))
  eps = float(config['layer_norm_eps'])
  if eps != 1e-6:
    notes.append(
      f'LayerNorm: the eps is {eps:g}, as config.json says; that of the official code and of new '
      'runs here is 1e-06'
    )
  if (kind == 'pretraining' or pool == 'mean') and eps != LAST_NORM_EPS:
    last = 'fc_norm' if kind == 'classification' else 'decoder.norm'
    notes.append(
      f'LayerNorm: transformers gives {last} eps {LAST_NORM_EPS:g} whatever config.json says; '
      'here all have model.eps'
    )
  if not _has_biases(config):
    notes.append('config.json says that there are no q and v biases: they are zeros here')
  info = layout.model_info(
    kind=kind,
    encoder=encoder,
    decoder=decoder,
    pixels=('decoder', 'pixels'),
    patch=(config['tubelet_size'], patch, patch),
    channels=config['num_channels'],
    eps=eps,
    frames=config['num_frames'],
    size=image,
    normalised_targets=config['norm_pix_loss'],
    classes=classes,
    pool=pool,
    id2label=id2label,
  )
  if 'image_mean' in config:
    info |= {'mean': tuple(config['image_mean']), 'std': tuple(config['image_std'])}
  else:
    notes.append(
      "no file beside config.json gives the normalisation: ImageNet's mean and standard deviation "
      'are taken, as in all published VideoMAE'
    )
  return info, notes


def _mean_pooling(tensors: layout.Tensors, config: Mapping[str, Any], where: str) -> bool:
  """Whether the model averages tokens; if not, its encoder has a last LayerNorm."""
  norm = next((name for name in tensors if re.search(r'(^|\.)layernorm\.weight$', name)), '')
  said = config.get('use_mean_pooling', not norm)
  if said == bool(norm):
    raise UserError(
      f'{where}: config.json says use_mean_pooling {json.dumps(said)}, but its tensors have '
      f'{norm or "no layernorm.weight"}, as a model with {json.dumps(not said)} has: correct '
      'config.json.'
    )
  return said


def _check_sizes(tensors: layout.Tensors, config: Mapping[str, Any], where: str) -> None:
  """Checks config.json against the tensors, before anything is allocated by its sizes."""
  prefix = 'videomae.' if f'videomae.{_EMBEDDING}' in tensors else ''
  kernel = tensors[f'{prefix}{_EMBEDDING}'].shape
  found = {
    'hidden_size': kernel[0],
    'num_channels': kernel[1],
    'num_hidden_layers': layout.count_layers(tensors, rf'{prefix}encoder\.layer\.(\d+)\.'),
  }
  if 'encoder_to_decoder.weight' in tensors:
    found['decoder_hidden_size'] = len(tensors['encoder_to_decoder.weight'])
    layers = layout.count_layers(tensors, r'decoder\.decoder_layers\.(\d+)\.')
    found['decoder_num_hidden_layers'] = layers
  if wrong := [f'{k} {config[k]}, not {n}' for k, n in found.items() if config[k] != n]:
    raise UserError(f'{where}: config.json says otherwise than the tensors: {", ".join(wrong)}.')


def _one(value: Any, key: str, where: str) -> int:
  """The side of a square, which config.json gives as one number or two."""
  sides = set(value) if isinstance(value, (list, tuple)) else {value}
  if len(sides) != 1:
    raise UserError(f'{where}: {key} is {value}; only squares are known here.')
  return sides.pop()


def _read_json(path: Path) -> dict[str, Any]:
  if not path.is_file():
    raise UserError(f'there is no {path}, which says what the tensors beside it are.')
  try:
    return dict(json.loads(path.read_text(encoding='utf-8')))
  except (ValueError, TypeError) as e:
    raise UserError(f'{path} is damaged ({e}): get it again.') from e
