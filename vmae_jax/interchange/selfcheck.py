"""Checks that a converted model computes the same as its source, on a fixed clip, in float32."""

import importlib.util
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.errors import UserError
from vmae_jax.interchange.card import MODELS
from vmae_jax.interchange.layout import build_model, predicted_heads
from vmae_jax.interchange.tensors import read_checkpoint
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.classifier import Classifier
from vmae_jax.types import Bool, Float

TOLERANCE = 1e-4
_PICKS = 8  # Values of each output that a fingerprint holds.
_LEAVES = ('weight', 'bias')

Outputs = dict[str, Float[np.ndarray, '...']]


def fixed_clip(info: Mapping[str, Any]) -> Float[np.ndarray, '1 T H W C']:
  """A normalised clip of the model's size: a smooth moving texture, the same at every call."""
  t, y, x, c = np.ogrid[: info['frames'], : info['size'], : info['size'], : info['channels']]
  wave = np.sin((x + 3 * t) / 7 + c) + np.sin((y - 2 * t) / 11 + 2 * c) + np.sin((x + y) / 3)
  clip = (wave.astype(np.float32) + 3) / 6
  return ((clip - np.float32(info['mean'])) / np.float32(info['std']))[None]


def fixed_mask(info: Mapping[str, Any]) -> Bool[np.ndarray, ' n']:
  """True at nine tenths of the tokens, the same at every call."""
  pt, ph, pw = info['patch']
  n = (info['frames'] // pt) * (info['size'] // ph) * (info['size'] // pw)
  return np.random.RandomState(0).permutation(n) >= max(1, n // 10)


def our_outputs(params: Mapping[str, Any], info: Mapping[str, Any]) -> Outputs:
  """Features of visible tokens and predicted patches, or logits, as far as the model has them."""
  hidden = fixed_mask(info)
  visible, masked = (jnp.asarray(np.flatnonzero(x)[None]) for x in (~hidden, hidden))
  model = build_model(info)

  @jax.jit
  def run(params, video):
    if isinstance(model, Classifier):
      return {'logits': model.apply({'params': params}, video)}
    if not isinstance(model, MaskedAutoencoder):
      return {'features': model.apply({'params': params['encoder']}, video, visible)}
    outputs, inside = model.apply(
      {'params': params},
      video,
      visible,
      masked,
      capture_intermediates=lambda module, _: module.name == 'encoder',
      mutable='intermediates',
    )
    return outputs | {'features': inside['intermediates']['encoder']['__call__'][0]}

  return jax.tree.map(np.asarray, run(dict(params), jnp.asarray(fixed_clip(info))))


def fingerprint(outputs: Outputs) -> dict[str, list[float]]:
  """A few numbers of each output, to be stored beside the weights."""
  return {name: [float(v) for v in _picked(x)] for name, x in outputs.items()}


def against_fingerprint(outputs: Outputs, stored: Mapping[str, list[float]]) -> float:
  """The largest difference from a stored fingerprint."""
  found = {name: _picked(x) for name, x in outputs.items()}
  return largest_difference(found, {name: np.float32(v) for name, v in stored.items()})


def largest_difference(one: Outputs, other: Outputs) -> float:
  """The largest difference over all outputs, each relative to the output's largest value."""
  common, largest = one.keys() & other.keys(), 0.0
  if not common:
    raise ValueError(f'no output in common: {", ".join(one)}; {", ".join(other)}')
  for name in common:
    if one[name].shape != other[name].shape:
      return math.inf
    scale = max(float(np.abs(other[name]).max()), 1e-30)
    difference = np.abs(one[name].astype(np.float64) - other[name]).max() / scale
    largest = max(largest, math.inf if np.isnan(difference) else float(difference))
  return largest


def has_torch() -> bool:
  return importlib.util.find_spec('torch') is not None


def has_transformers() -> bool:
  return has_torch() and importlib.util.find_spec('transformers') is not None


def plain_torch_outputs(tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Outputs:
  """The outputs of `our_outputs`, computed by PyTorch from tensors under official names."""
  import torch

  from vmae_jax.interchange import plain_torch

  weights = {name: torch.from_numpy(value) for name, value in tensors.items()}
  video = torch.from_numpy(fixed_clip(info).transpose(0, 4, 1, 2, 3).copy())
  hidden = fixed_mask(info)
  visible, masked = (torch.from_numpy(np.flatnonzero(x)) for x in (~hidden, hidden))
  heads, eps = info['encoder']['heads'], info['eps']
  with torch.inference_mode():
    if info['kind'] == 'classification':
      features = plain_torch.encode(weights, video, heads, eps)
      return {'logits': plain_torch.classify(weights, features, eps).numpy()}
    features = plain_torch.encode(weights, video, heads, eps, visible)
    outputs = {'features': features.numpy()}
    outs = predicted_heads(info)
    separate = len({out.decoder for out in outs.values()}) > 1
    for number, (name, out) in enumerate(outs.items()):
      arguments = features, visible, masked, info['decoder']['heads'], eps
      if not out.hidden:
        outputs[name] = plain_torch.decode(weights, *arguments).numpy()
        continue
      # MME numbers decoders and their heads. The first layer of a head runs as VideoMAE's head; the
      # second one follows here.
      j, i = (number, 0) if separate else (0, number)
      numbered = rf'^(decoder|encoder_to_decoder)\.{j}\.'
      w = {re.sub(numbered, r'\1.', name): x for name, x in weights.items()}
      first = {f'decoder.head.{leaf}': w[f'decoder.head.{i}.0.{leaf}'] for leaf in _LEAVES}
      units = torch.nn.functional.gelu(plain_torch.decode(w | first, *arguments))
      last = (w[f'decoder.head.{i}.2.{leaf}'] for leaf in _LEAVES)
      values = torch.nn.functional.linear(units, *last)
      outputs[name] = getattr(torch, out.activation)(values).numpy()
  return outputs


def transformers_outputs(folder: str | Path, info: Mapping[str, Any]) -> tuple[Outputs, Outputs]:
  """The outputs of `our_outputs`, computed by transformers from a folder for `from_pretrained`.

  Returns:
    Outputs of the model as it is loaded, and with the info's eps also in the LayerNorms whose eps
    config.json cannot set.

  Raises:
    UserError: transformers finds tensors missing or unexpected, or drops q and v biases.
  """
  import torch
  import transformers

  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  model, loading = getattr(transformers, MODELS[info['kind']]).from_pretrained(
    folder,
    output_loading_info=True,
    local_files_only=True,
    num_attention_heads=info['encoder']['heads'],
    layer_norm_eps=info['eps'],
  )
  version = f'transformers {transformers.__version__}'
  if bad := {key: sorted(names) for key, names in loading.items() if names}:
    raise UserError(f'{version} does not load {folder} whole: {bad}.')
  check_biases(model, folder, version)
  model.eval()
  video = torch.from_numpy(fixed_clip(info).transpose(0, 1, 4, 2, 3).copy())
  hidden = torch.from_numpy(fixed_mask(info))[None]

  features = []
  if info['kind'] == 'pretraining':
    model.videomae.register_forward_hook(lambda *x: features.append(x[2].last_hidden_state))

  @torch.inference_mode()
  def outputs():
    if info['kind'] == 'classification':
      return {'logits': model(video).logits.numpy()}
    found = model(video, bool_masked_pos=hidden)
    if info['kind'] == 'encoder':
      return {'features': found.last_hidden_state.numpy()}
    return {'features': features.pop().numpy(), info['pixels'][1]: found.logits.numpy()}

  as_loaded = outputs()
  for module in model.modules():
    if isinstance(module, torch.nn.LayerNorm):
      module.eps = info['eps']
  return as_loaded, outputs()


def check_biases(model: Any, folder: str | Path, version: str) -> None:
  """Raises a UserError if a loaded model has other q and v biases than its files.

  Early 5.x releases of transformers silently set them to zero.
  """
  parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
  for name, value in read_checkpoint(folder).tensors.items():
    if not (part := re.search(r'attention\.([qv])_bias$', name)):
      continue
    new = {'q': 'query', 'v': 'value'}[part[1]] + '.bias'
    names = name, f'{name.removesuffix(part[0])}attention.{new}'
    loaded = next((parameters[x] for x in names if x in parameters), None)
    if loaded is None or not np.array_equal(loaded, value):
      raise UserError(
        f'{version} loses the biases of queries and values ({name}) of {folder}, as early 5.x '
        'releases do: the folder is right, but load it with another release.'
      )


def _picked(x: Float[np.ndarray, '...']) -> Float[np.ndarray, ' p']:
  """The root mean square of an output, and a few of its values at even distances."""
  flat = np.asarray(x, np.float32).reshape(-1)
  picks = flat[np.linspace(0, flat.size - 1, _PICKS).astype(int)]
  rms = np.sqrt(np.square(flat, dtype=np.float64).mean())
  return np.concatenate([[rms], picks]).astype(np.float32)
