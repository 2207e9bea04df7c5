"""State dicts with the names and shapes of official checkpoints, filled from their names."""

import zlib

import numpy as np

# width, depth, mlp of encoder and decoder.
TINY = dict(encoder=(192, 12, 768), decoder=(96, 2, 384), patch=(2, 8, 8))


def block_shapes(prefix, width, mlp):
  shapes = {}
  for norm in ('norm1', 'norm2'):
    shapes |= {f'{prefix}.{norm}.weight': (width,), f'{prefix}.{norm}.bias': (width,)}
  shapes |= {f'{prefix}.attn.q_bias': (width,), f'{prefix}.attn.v_bias': (width,)}
  shapes[f'{prefix}.attn.qkv.weight'] = (3 * width, width)
  for name, out, inner in (
    ('attn.proj', width, width),
    ('mlp.fc1', mlp, width),
    ('mlp.fc2', width, mlp),
  ):
    shapes |= {f'{prefix}.{name}.weight': (out, inner), f'{prefix}.{name}.bias': (out,)}
  return shapes


def trunk_shapes(prefix, width, depth, mlp, *, norm=True):
  shapes = {}
  for i in range(depth):
    shapes |= block_shapes(f'{prefix}blocks.{i}', width, mlp)
  names = ('weight', 'bias') if norm else ()
  return shapes | {f'{prefix}norm.{name}': (width,) for name in names}


def embed_shapes(prefix, width, patch):
  name = f'{prefix}patch_embed.proj'
  return {f'{name}.weight': (width, 3, *patch), f'{name}.bias': (width,)}


def pretraining(encoder, decoder, patch):
  """VideoMAE, VideoMAE V2 and MGMAE."""
  width, pixels = decoder[0], 3 * int(np.prod(patch))
  shapes = {'mask_token': (1, 1, width)}
  shapes |= embed_shapes('encoder.', encoder[0], patch) | trunk_shapes('encoder.', *encoder)
  shapes['encoder_to_decoder.weight'] = (width, encoder[0])
  shapes |= trunk_shapes('decoder.', *decoder)
  return shapes | {'decoder.head.weight': (pixels, width), 'decoder.head.bias': (pixels,)}


def finetuned(encoder, classes, patch):
  shapes = embed_shapes('', encoder[0], patch) | trunk_shapes('', *encoder, norm=False)
  shapes |= {'fc_norm.weight': (encoder[0],), 'fc_norm.bias': (encoder[0],)}
  return shapes | {'head.weight': (classes, encoder[0]), 'head.bias': (classes,)}


def mme(encoder, decoder, patch, *, decoders=1, length=6, hidden=32):
  """MME: decoders and their projections are lists; each head has two layers."""
  width = decoder[0]
  shapes = {'mask_token': (1, 1, width)}
  shapes |= embed_shapes('encoder.', encoder[0], patch) | trunk_shapes('encoder.', *encoder)
  for j in range(decoders):
    shapes[f'encoder_to_decoder.{j}.weight'] = (width, encoder[0])
    shapes |= trunk_shapes(f'decoder.{j}.', *decoder)
  outs = (108, 8 * length)
  for i, out in enumerate(outs):
    head = f'decoder.0.head.{i}' if decoders == 1 else f'decoder.{i}.head.0'
    shapes |= {f'{head}.0.weight': (hidden, width), f'{head}.0.bias': (hidden,)}
    shapes |= {f'{head}.2.weight': (out, hidden), f'{head}.2.bias': (out,)}
  return shapes


def values(shapes):
  return {name: _values(name, shape) for name, shape in shapes.items()}


def _values(name, shape):
  rng = np.random.RandomState(zlib.crc32(name.encode()))  # Its streams never change.
  x = rng.standard_normal(shape).astype(np.float32)
  if 'norm' in name and name.endswith('weight'):
    return 1 + 0.1 * x
  return x * np.float32(0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)


def nothing(shapes):
  """Arrays of these shapes that take no memory."""
  return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
