"""VideoMAE's forward pass in plain PyTorch, with which the self-check compares ours.

It was written from the published description, independently of our models, and uses the official
names of tensors. Its functions import PyTorch themselves, as this package does not need it.
"""


def sincos(n, d):
  """Positions [n, d] by the token's index: sines in even columns, cosines in odd ones."""
  import torch

  j = torch.arange(d)
  angle = torch.arange(n, dtype=torch.float64)[:, None] / 10000 ** (2 * (j // 2).double() / d)
  return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()


def blocks(w, prefix, x, heads, eps):
  """Pre-norm transformer blocks; w: name -> tensor."""
  import torch
  from torch.nn import functional as F

  i = 0
  while (p := f'{prefix}blocks.{i}.') + 'norm1.weight' in w:
    i, (b, n, d) = i + 1, x.shape
    y = F.layer_norm(x, (d,), w[p + 'norm1.weight'], w[p + 'norm1.bias'], eps)
    if (bias := w.get(p + 'attn.qkv.bias')) is None:
      q, v = w[p + 'attn.q_bias'], w[p + 'attn.v_bias']
      bias = torch.cat([q, torch.zeros_like(q), v])
    y = F.linear(y, w[p + 'attn.qkv.weight'], bias)
    q, k, v = y.reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
    x = x + F.linear(y, w[p + 'attn.proj.weight'], w[p + 'attn.proj.bias'])
    y = F.layer_norm(x, (d,), w[p + 'norm2.weight'], w[p + 'norm2.bias'], eps)
    y = F.gelu(F.linear(y, w[p + 'mlp.fc1.weight'], w[p + 'mlp.fc1.bias']))
    x = x + F.linear(y, w[p + 'mlp.fc2.weight'], w[p + 'mlp.fc2.bias'])
  return x


def encode(w, video, heads, eps=1e-6, visible=None):
  """Features [b, tokens, d] of a normalised video [b, channels, frames, rows, columns].

  `visible` are indices of tokens, by default all. Names may begin with `encoder.` or not.
  """
  from torch.nn import functional as F

  w = {name.removeprefix('encoder.'): x for name, x in w.items()}
  kernel = w['patch_embed.proj.weight']
  x = F.conv3d(video, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[2:])
  x = x.flatten(2).transpose(1, 2)
  x = x + sincos(*x.shape[1:])
  x = blocks(w, '', x if visible is None else x[:, visible], heads, eps)
  if 'norm.weight' in w:
    x = F.layer_norm(x, x.shape[-1:], w['norm.weight'], w['norm.bias'], eps)
  return x


def decode(w, features, visible, masked, heads, eps=1e-6):
  """Predicted patches [b, masked tokens, frames * rows * columns * channels]."""
  import torch
  from torch.nn import functional as F

  x = F.linear(features, w['encoder_to_decoder.weight'])
  positions = sincos(len(visible) + len(masked), x.shape[-1])
  hidden = (w['mask_token'] + positions[masked]).expand(len(x), -1, -1)
  x = blocks(w, 'decoder.', torch.cat([x + positions[visible], hidden], 1), heads, eps)
  x = x[:, len(visible) :]
  x = F.layer_norm(x, x.shape[-1:], w['decoder.norm.weight'], w['decoder.norm.bias'], eps)
  return F.linear(x, w['decoder.head.weight'], w['decoder.head.bias'])


def classify(w, features, eps=1e-6):
  """Logits [b, classes]."""
  from torch.nn import functional as F

  x = features[:, 0]
  if 'fc_norm.weight' in w:
    x = features.mean(1)
    x = F.layer_norm(x, x.shape[-1:], w['fc_norm.weight'], w['fc_norm.bias'], eps)
  return F.linear(x, w['head.weight'], w['head.bias'])
