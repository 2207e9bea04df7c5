"""A tiny VQGAN with weights that follow from their names, and its forward pass in PyTorch."""

import functools
import re
import zlib

import numpy as np

CONFIGS = {
  'nearest': dict(channels=32, multipliers=(1, 1, 2, 2, 4), latent=8, embed=8, codes=40, side=64),
  'gumbel': dict(channels=32, multipliers=(1, 1, 2, 4), latent=8, embed=8, codes=40, side=32),
}


def shapes(quantizer, *, channels, multipliers, latent, embed, codes, side=None):
  """name -> shape of the state dict, two residual blocks a level (three in the decoder)."""
  out = {}
  last = len(multipliers) - 1
  widths = [channels * m for m in multipliers]

  def conv(name, i, o, k=3):
    out[f'{name}.weight'], out[f'{name}.bias'] = (o, i, k, k), (o,)

  def norm(name, width):
    out[f'{name}.weight'] = out[f'{name}.bias'] = (width,)

  def residual(name, i, o):
    norm(f'{name}.norm1', i)
    conv(f'{name}.conv1', i, o)
    norm(f'{name}.norm2', o)
    conv(f'{name}.conv2', o, o)
    if i != o:
      conv(f'{name}.nin_shortcut', i, o, 1)

  def attention(name, width):
    norm(f'{name}.norm', width)
    for part in ('q', 'k', 'v', 'proj_out'):
      conv(f'{name}.{part}', width, width, 1)

  def level(name, i, o, blocks, has_attention):
    for j in range(blocks):
      residual(f'{name}.block.{j}', o if j else i, o)
      if has_attention:
        attention(f'{name}.attn.{j}', o)

  def ends(name, width_in, first, middle, final, width_out):
    conv(f'{name}.conv_in', width_in, first)
    residual(f'{name}.mid.block_1', middle, middle)
    attention(f'{name}.mid.attn_1', middle)
    residual(f'{name}.mid.block_2', middle, middle)
    norm(f'{name}.norm_out', final)
    conv(f'{name}.conv_out', final, width_out)

  ends('encoder', 3, channels, widths[-1], widths[-1], latent)
  ends('decoder', latent, widths[-1], widths[-1], widths[0], 3)
  for i in range(last + 1):
    level(f'encoder.down.{i}', widths[max(i - 1, 0)] if i else channels, widths[i], 2, i == last)
    level(f'decoder.up.{i}', widths[min(i + 1, last)], widths[i], 3, i == last)
    if i < last:
      conv(f'encoder.down.{i}.downsample.conv', widths[i], widths[i])
    if i:
      conv(f'decoder.up.{i}.upsample.conv', widths[i], widths[i])
  conv('quant_conv', latent, embed, 1)
  conv('post_quant_conv', embed, latent, 1)
  if quantizer == 'gumbel':
    conv('quantize.proj', latent, codes, 1)
    out['quantize.embed.weight'] = (codes, embed)
  else:
    out['quantize.embedding.weight'] = (codes, embed)
  return out


@functools.cache
def weights(quantizer):
  """name -> array."""
  named = shapes(quantizer, **CONFIGS[quantizer])
  return {name: _values(name, shape) for name, shape in named.items()}


def _values(name, shape):
  rng = np.random.RandomState(zlib.crc32(name.encode()))  # Its streams never change.
  x = rng.standard_normal(shape).astype(np.float32)
  if 'norm' in name and name.endswith('weight'):
    return 1 + np.float32(0.1) * x
  if name.startswith('quantize.embed'):
    return np.float32(0.2) * x  # Of the size of what is quantised.
  return x * np.float32(0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)


def images(side):
  """UInt8 'b H W 3', two images of blocks and noise."""
  rng = np.random.RandomState(5)
  coarse = rng.randint(0, 200, (2, side // 4, side // 4, 3))
  noise = rng.randint(0, 56, (2, side, side, 3))
  return (coarse.repeat(4, 1).repeat(4, 2) + noise).astype(np.uint8)


def torch_results(state, images):
  """What VQModel and GumbelVQ of taming-transformers make of images in [-1, 1].

  Args:
    state: The state dict, of NumPy arrays; the model is read from its names.
    images: Float 'b 3 H W'.

  Returns:
    pre_quant 'b e h w', indices 'b h w' and reconstruction 'b 3 H W', before any clipping.
  """
  import torch
  from torch.nn import functional as F

  state = {name: torch.from_numpy(np.asarray(x, np.float32)) for name, x in state.items()}

  def conv(x, name, **options):
    weight = state[f'{name}.weight']
    options = {'padding': weight.shape[-1] // 2} | options
    return F.conv2d(x, weight, state[f'{name}.bias'], **options)

  def norm(x, name):
    return F.group_norm(x, 32, state[f'{name}.weight'], state[f'{name}.bias'], eps=1e-6)

  def residual(x, name):
    y = conv(F.silu(norm(x, f'{name}.norm1')), f'{name}.conv1')
    y = conv(F.silu(norm(y, f'{name}.norm2')), f'{name}.conv2')
    return y + (conv(x, f'{name}.nin_shortcut') if f'{name}.nin_shortcut.weight' in state else x)

  def attention(x, name):
    y = norm(x, f'{name}.norm')
    q, k, v = (conv(y, f'{name}.{part}').flatten(2) for part in ('q', 'k', 'v'))
    scores = torch.softmax(q.mT @ k * q.shape[1] ** -0.5, dim=2)  # From each position to all.
    return x + conv((v @ scores.mT).reshape(x.shape), f'{name}.proj_out')

  def blocks(x, name):
    found = [re.match(rf'{re.escape(name)}\.block\.(\d+)\.', key) for key in state]
    for j in sorted({int(match[1]) for match in found if match}):
      x = residual(x, f'{name}.block.{j}')
      if f'{name}.attn.{j}.q.weight' in state:
        x = attention(x, f'{name}.attn.{j}')
    return x

  def middle(x, name):
    x = attention(residual(x, f'{name}.block_1'), f'{name}.attn_1')
    return residual(x, f'{name}.block_2')

  levels = len({key.split('.')[2] for key in state if key.startswith('encoder.down.')})
  with torch.no_grad():
    x = conv(torch.from_numpy(np.asarray(images, np.float32)), 'encoder.conv_in')
    for i in range(levels):
      x = blocks(x, f'encoder.down.{i}')
      if i < levels - 1:
        x = conv(F.pad(x, (0, 1, 0, 1)), f'encoder.down.{i}.downsample.conv', stride=2, padding=0)
    x = middle(x, 'encoder.mid')
    x = conv(F.silu(norm(x, 'encoder.norm_out')), 'encoder.conv_out')
    z = conv(x, 'quant_conv')
    if 'quantize.proj.weight' in state:
      indices = conv(z, 'quantize.proj').argmax(1)
      codebook = state['quantize.embed.weight']
    else:
      codebook = state['quantize.embedding.weight']
      indices = torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), codebook).argmin(1)
      indices = indices.reshape(len(z), *z.shape[2:])
    x = conv(codebook[indices].permute(0, 3, 1, 2), 'post_quant_conv')
    x = middle(conv(x, 'decoder.conv_in'), 'decoder.mid')
    for i in reversed(range(levels)):
      x = blocks(x, f'decoder.up.{i}')
      if i:
        x = F.interpolate(x, scale_factor=2.0, mode='nearest')
        x = conv(x, f'decoder.up.{i}.upsample.conv')
    x = conv(F.silu(norm(x, 'decoder.norm_out')), 'decoder.conv_out')
  return z.numpy(), indices.numpy(), x.numpy()


def results(quantizer):
  """The torch results of this file's weights and images, channels last."""
  side = CONFIGS[quantizer]['side']
  pixels = images(side).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
  z, indices, x = torch_results(weights(quantizer), pixels)
  return z.transpose(0, 2, 3, 1), indices, x.transpose(0, 2, 3, 1)
