"""RAFT in torch under torchvision's names, and weights and frames that follow from their names."""

import functools
import json
import pathlib
import zlib

import jax
import numpy as np

NAMES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'raft_names.json'
# Nearly all time of these tests goes into compiling.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})

SMALL = dict(
  bottleneck=True, hidden=96, norms=('instance', None), radius=3, corr=1,
  gru=('convgru1',), convex=False,
)  # fmt: skip
LARGE = dict(
  bottleneck=False, hidden=128, norms=('instance', 'batch'), radius=4, corr=2,
  gru=('convgru1', 'convgru2'), convex=True,
)  # fmt: skip
SPECS = {'small': SMALL, 'large': LARGE}
ITERATIONS = 3


def shapes(size, source='torchvision 0.28.0'):
  """name -> shape of the state dict of the real class, or of `princeton`'s."""
  stored = json.loads(NAMES.read_text())[f'{source} {size}']
  return {name: tuple(shape) for name, shape in stored.items()}


def weights(size):
  """name -> array."""
  return {name: _values(name, shape) for name, shape in shapes(size).items()}


def _values(name, shape):
  if name.endswith('num_batches_tracked'):
    return np.array(1000)
  rng = np.random.RandomState(zlib.crc32(name.encode()))  # Its streams never change.
  x = rng.standard_normal(shape).astype(np.float32)
  if name.endswith('running_var'):
    return 0.5 + np.abs(x)
  if '.1.weight' in name:
    return 1 + 0.2 * x
  if len(shape) == 1:
    return 0.1 * x
  gain = {'mask_predictor': 5.0, 'update_block': 1.2}.get(name.split('.')[0], 1.4)
  gain = 0.5 if 'flow_head.conv2' in name else gain  # The flow stays within the frame.
  return x * np.float32(gain * np.prod(shape[1:]) ** -0.5)


def frames(height, width, *, seed=3):
  """Two images [H, W, 3] in [-1, 1]: a smooth texture, and the same moved by (5, -3) pixels."""
  rng = np.random.RandomState(seed)
  coarse = rng.uniform(-1, 1, (height // 8 + 4, width // 8 + 4, 3))
  y, x = np.arange(height + 8) / 8, np.arange(width + 8) / 8
  rows = np.maximum(0, 1 - np.abs(y[:, None] - np.arange(len(coarse))))
  columns = np.maximum(0, 1 - np.abs(x[:, None] - np.arange(coarse.shape[1])))
  texture = np.einsum('yi,xj,ijc->yxc', rows, columns, coarse).astype(np.float32)
  return texture[:height, 5 : width + 5], texture[3 : height + 3, :width]


def princeton(tensors):
  """The same tensors under the names of a checkpoint of princeton-vl, duplicates included."""
  renamed = {}
  for name, value in tensors.items():
    for theirs, ours in (
      ('feature_encoder', 'fnet'), ('context_encoder', 'cnet'),
      ('net.convnormrelu.0', 'net.conv1'), ('net.convnormrelu.1', 'net.norm1'),
      ('net.conv.', 'net.conv2.'),
      ('convnormrelu1.0', 'conv1'), ('convnormrelu2.0', 'conv2'), ('convnormrelu3.0', 'conv3'),
      ('convnormrelu1.1', 'norm1'), ('convnormrelu2.1', 'norm2'),
      ('motion_encoder.convcorr1.0', 'encoder.convc1'),
      ('motion_encoder.convcorr2.0', 'encoder.convc2'),
      ('motion_encoder.convflow1.0', 'encoder.convf1'),
      ('motion_encoder.convflow2.0', 'encoder.convf2'),
      ('motion_encoder.conv.0', 'encoder.conv'),
      ('mask_predictor.convrelu.0', 'update_block.mask.0'),
      ('mask_predictor.conv', 'update_block.mask.2'),
    ):  # fmt: skip
      name = name.replace(theirs, ours)
    if 'recurrent_block' in name:  # recurrent_block.convgru1.convz -> gru.convz1
      block, _, gru, conv, leaf = name.split('.')
      number = gru.removeprefix('convgru') if any('convgru2' in name for name in tensors) else ''
      name = f'{block}.gru.{conv}{number}.{leaf}'
    renamed[f'module.{name}'] = value
    if 'downsample.1' in name:
      renamed[f'module.{name.replace("downsample.1", "norm3")}'] = value
  return renamed


def torch_flow(size, tensors, first, second, *, iterations):
  """Flow [b, h, w, 2] at an eighth of the size and [b, H, W, 2], from frames [b, H, W, 3]."""
  import torch
  import torch.nn.functional as F

  spec = SPECS[size]
  p = {name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}

  def conv(name, x, stride=1):
    weight = p[f'{name}.weight']
    padding = tuple(k // 2 for k in weight.shape[2:])
    return F.conv2d(x, weight, p[f'{name}.bias'], stride, padding)

  def layer(name, x, norm, stride=1, relu=True):
    x = conv(f'{name}.0', x, stride)
    if norm == 'instance':
      x = F.instance_norm(x)
    if norm == 'batch':
      mean, var = p[f'{name}.1.running_mean'], p[f'{name}.1.running_var']
      x = F.batch_norm(x, mean, var, p[f'{name}.1.weight'], p[f'{name}.1.bias'])
    return F.relu(x) if relu else x

  def encode(name, x, norm):
    x = layer(f'{name}.convnormrelu', x, norm, 2)
    for i in (1, 2, 3):
      for j in (0, 1):
        block, stride = f'{name}.layer{i}.{j}', 2 if i > 1 and j == 0 else 1
        # The stride stands at the first 3x3 convolution.
        strides = (1, stride, 1) if spec['bottleneck'] else (stride, 1)
        y = x
        for k, s in enumerate(strides, 1):
          y = layer(f'{block}.convnormrelu{k}', y, norm, s)
        if stride != 1:
          x = layer(f'{block}.downsample', x, norm, stride, relu=False)
        x = F.relu(x + y)
    return conv(f'{name}.conv', x)

  def sample(level, points):
    """Values at points (x, y) in pixels, as grid_sample wants them: in [-1, 1]."""
    h, w = level.shape[-2:]
    grid = 2 * points / torch.tensor([w - 1.0, h - 1.0]) - 1
    return F.grid_sample(level, grid, align_corners=True)

  with torch.no_grad():
    first, second = (torch.from_numpy(np.moveaxis(x, -1, 1).copy()) for x in (first, second))
    one, two = (encode('feature_encoder', x, spec['norms'][0]) for x in (first, second))
    b, c, h, w = one.shape
    level = torch.einsum('bcp,bcq->bpq', one.flatten(2), two.flatten(2)) / c**0.5
    pyramid = [level.reshape(b * h * w, 1, h, w)]
    for _ in range(3):
      pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    context = encode('context_encoder', first, spec['norms'][1])
    hidden = torch.tanh(context[:, : spec['hidden']])
    context = F.relu(context[:, spec['hidden'] :])
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    here = torch.stack([x, y]).float()
    flow = torch.zeros(b, 2, h, w)
    r = torch.arange(-spec['radius'], spec['radius'] + 1).float()
    # The released code adds (dy, dx) of a grid to (x, y).
    window = torch.stack(torch.meshgrid(r, r, indexing='ij'), -1)
    for _ in range(iterations):
      centre = (here + flow).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
      found = [sample(level, centre / 2**i + window) for i, level in enumerate(pyramid)]
      seen = torch.cat([x.reshape(b, h, w, -1) for x in found], -1).permute(0, 3, 1, 2)
      encoder = 'update_block.motion_encoder'
      for i in range(spec['corr']):
        seen = F.relu(conv(f'{encoder}.convcorr{i + 1}.0', seen))
      moved = F.relu(conv(f'{encoder}.convflow1.0', flow))
      moved = F.relu(conv(f'{encoder}.convflow2.0', moved))
      motion = F.relu(conv(f'{encoder}.conv.0', torch.cat([seen, moved], 1)))
      x = torch.cat([context, motion, flow], 1)
      for gru in spec['gru']:
        gru = f'update_block.recurrent_block.{gru}'
        both = torch.cat([hidden, x], 1)
        z, r_ = torch.sigmoid(conv(f'{gru}.convz', both)), torch.sigmoid(conv(f'{gru}.convr', both))
        q = torch.tanh(conv(f'{gru}.convq', torch.cat([r_ * hidden, x], 1)))
        hidden = (1 - z) * hidden + z * q
      y = F.relu(conv('update_block.flow_head.conv1', hidden))
      flow = flow + conv('update_block.flow_head.conv2', y)
    if spec['convex']:
      mask = conv('mask_predictor.conv', F.relu(conv('mask_predictor.convrelu.0', hidden))) * 0.25
      mask = torch.softmax(mask.reshape(b, 1, 9, 8, 8, h, w), 2)
      around = F.unfold(8 * flow, (3, 3), padding=1).reshape(b, 2, 9, 1, 1, h, w)
      fine = (mask * around).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(b, 2, 8 * h, 8 * w)
    else:
      fine = 8 * F.interpolate(flow, scale_factor=8, mode='bilinear', align_corners=True)
  return flow.permute(0, 2, 3, 1).numpy(), fine.permute(0, 2, 3, 1).numpy()
