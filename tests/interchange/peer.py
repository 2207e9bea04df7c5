"""A tiny VideoMAE with weights that follow from their names, in transformers and here."""

import json
import zlib

import jax
import numpy as np
from safetensors.numpy import save_file

from vmae_jax.interchange import huggingface as hf
from vmae_jax.interchange.layout import from_tensors

SMALL = dict(
  image_size=32,
  patch_size=8,
  num_frames=4,
  tubelet_size=2,
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=128,
  decoder_num_attention_heads=2,
  decoder_hidden_size=16,
  decoder_num_hidden_layers=2,
  decoder_intermediate_size=64,
  num_labels=5,
)
PATCH = (2, 8, 8)
ENCODER = dict(width=32, depth=2, heads=2, mlp=128, patch=PATCH)
DECODER = dict(width=16, depth=2, heads=2, mlp=64)
CLASSES = 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _block_shapes(prefix, width, mlp):
  a = f'{prefix}.attention.attention'
  shapes = {f'{a}.{part}.weight': (width, width) for part in ('query', 'key', 'value')}
  shapes |= {f'{a}.query.bias': (width,), f'{a}.value.bias': (width,)}
  for name, out, inner in (
    ('attention.output.dense', width, width),
    ('intermediate.dense', mlp, width),
    ('output.dense', width, mlp),
  ):
    shapes |= {f'{prefix}.{name}.weight': (out, inner), f'{prefix}.{name}.bias': (out,)}
  for name in ('layernorm_before', 'layernorm_after'):
    shapes |= {f'{prefix}.{name}.weight': (width,), f'{prefix}.{name}.bias': (width,)}
  return shapes


def weights(kind, mean=None):
  """name -> array; kind is 'pretraining' or 'classification', mean is use_mean_pooling.

  Without `mean` the kinds are those of the Hub: classifiers average tokens, pre-trained models
  do not.
  """
  mean = kind == 'classification' if mean is None else mean
  embed = 'videomae.embeddings.patch_embeddings.projection'
  shapes = {f'{embed}.weight': (32, 3, 2, 8, 8), f'{embed}.bias': (32,)}
  for i in range(2):
    shapes |= _block_shapes(f'videomae.encoder.layer.{i}', 32, 128)
  if kind == 'pretraining':
    shapes |= {'mask_token': (1, 1, 16), 'encoder_to_decoder.weight': (16, 32)}
    for i in range(2):
      shapes |= _block_shapes(f'decoder.decoder_layers.{i}', 16, 64)
    shapes |= {'decoder.norm.weight': (16,), 'decoder.norm.bias': (16,)}
    shapes |= {'decoder.head.weight': (384, 16), 'decoder.head.bias': (384,)}
  else:
    shapes |= {'classifier.weight': (CLASSES, 32), 'classifier.bias': (CLASSES,)}
  if kind == 'classification' and mean:
    shapes |= {'fc_norm.weight': (32,), 'fc_norm.bias': (32,)}
  if not mean:
    shapes |= {'videomae.layernorm.weight': (32,), 'videomae.layernorm.bias': (32,)}
  return {name: _values(name, shape) for name, shape in shapes.items()}


def _values(name, shape):
  rng = np.random.RandomState(zlib.crc32(name.encode()))  # Its streams never change.
  x = rng.standard_normal(shape).astype(np.float32)
  if 'norm' in name and name.endswith('weight'):
    return 1 + 0.1 * x
  return x * np.float32(0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)


def ours(tensors):
  """Our parameters; all tensors must have a place."""
  tensors = hf.hub_names(tensors, {})
  info, _ = hf.huggingface_info(tensors, SMALL)
  params, left = from_tensors(tensors, info, hf.huggingface_names(info), where='the peer')
  assert not left
  return params


def clip_and_mask():
  """A uint8 clip of two samples and a boolean mask, True where hidden, 24 of 32 each."""
  rng = np.random.RandomState(7)
  clip = rng.randint(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
  clip[0] = np.repeat(np.repeat(clip[0, :, ::8, ::8], 8, 1), 8, 2) // 2 + clip[0] // 8
  masked = np.stack([rng.permutation(32) < 24 for _ in range(2)])
  return clip, masked


def summary(gradient):
  """What is stored of a gradient: norm, mean, and eight values spread over it."""
  flat = gradient.reshape(-1)
  picks = flat[np.linspace(0, flat.size - 1, 8).astype(int)]
  return np.concatenate([[np.linalg.norm(flat), flat.mean()], picks]).astype(np.float32)


def torch_results(kind):
  """Logits, loss and gradients of transformers' model, every LayerNorm's eps set to 1e-6.

  Gradients come under our names: conversion only moves values, so it converts them too.
  """
  import torch
  import transformers

  classes = {
    'pretraining': transformers.VideoMAEForPreTraining,
    'classification': transformers.VideoMAEForVideoClassification,
  }
  config = transformers.VideoMAEConfig(
    **SMALL, use_mean_pooling=kind == 'classification', attn_implementation='eager'
  )
  model = classes[kind](config).eval()
  state = {name: torch.from_numpy(value) for name, value in weights(kind).items()}
  model.load_state_dict(state, strict=True)
  for module in model.modules():
    if isinstance(module, torch.nn.LayerNorm):
      module.eps = 1e-6
  clip, masked = clip_and_mask()
  pixels = (clip.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
  pixels = torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3).copy())
  if kind == 'pretraining':
    out = model(pixels, bool_masked_pos=torch.from_numpy(masked))
  else:
    out = model(pixels, labels=torch.tensor([1, 3]))
  out.loss.backward()
  gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}
  return out.logits.detach().numpy(), out.loss.item(), flat(ours(gradients))


def flat(tree):
  """'a/b' -> array."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def write_folder(folder, kind):
  """The peer as a folder of transformers, of which transformers' own outputs are stored."""
  folder.mkdir()
  save_file(weights(kind), folder / 'model.safetensors', {'format': 'pt'})
  config = dict(SMALL, model_type='videomae', layer_norm_eps=1e-6)
  config['use_mean_pooling'] = kind == 'classification'
  config['id2label'] = {i: name for i, name in enumerate('ant bee cat dog eel'.split())}
  (folder / 'config.json').write_text(json.dumps(config))
  return folder
