"""RAFT: optical flow by recurrent look-ups in a correlation volume.

Teed and Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV 2020; MGMAE's
masks follow its flow. The numbers of parameters are the published ones: 990,162 (small) and
5,257,536 (large). BatchNorm in the large context encoder is frozen: its weight, bias and running
statistics become two vectors here, a scale and a bias.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vmae_jax.errors import UserError, lookup
from vmae_jax.frozen.files import load_params
from vmae_jax.frozen.raft_correlation import correlation_pyramid, look_up
from vmae_jax.frozen.raft_encoder import FrameEncoder
from vmae_jax.frozen.raft_update import ConvexMask, Update, upsample_bilinear, upsample_convex
from vmae_jax.types import Array, Float

KIND = 'raft'
LEVELS = 4

SIZES = {
  'small': dict(
    encoder=dict(widths=(32, 32, 64, 96), bottleneck=True),
    features=dict(out=128, norm='instance'),
    context=dict(out=96 + 64, norm='none'),
    hidden=96,
    radius=3,
    update=dict(corr=(96,), flow=(64, 32), motion=80, kernels=((3, 3),), head=128),
    convex=False,
  ),
  'large': dict(
    encoder=dict(widths=(64, 64, 96, 128), bottleneck=False),
    features=dict(out=256, norm='instance'),
    context=dict(out=128 + 128, norm='batch'),
    hidden=128,
    radius=4,
    update=dict(corr=(256, 192), flow=(128, 64), motion=126, kernels=((1, 5), (5, 1)), head=256),
    convex=True,
  ),
}


class RAFT(nn.Module):
  """The flow from first frames to second ones."""

  size: str  # 'small' or 'large'.
  iterations: int = 6  # Updates of the flow: 6 in MGMAE, 12 by default in torchvision.
  # Type of convolutions and activations. Coordinates, correlations and flow are float32.
  dtype: Any = jnp.float32

  def setup(self):
    spec = lookup(SIZES, self.size, 'size of RAFT')
    self.feature_encoder = FrameEncoder(**spec['encoder'], **spec['features'], dtype=self.dtype)
    self.context_encoder = FrameEncoder(**spec['encoder'], **spec['context'], dtype=self.dtype)
    self.update = Update(**spec['update'], dtype=self.dtype)
    if spec['convex']:
      self.convex_mask = ConvexMask(self.dtype)

  def features(self, frames: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
    """The features of frames in [-1, 1] for correlations, at an eighth of the frames' size."""
    height, width = frames.shape[1:3]
    if height % 8 or width % 8:
      raise UserError(
        f'RAFT cannot take frames of {height} x {width} pixels: choose a height and a width that '
        'are multiples of 8.'
      )
    return self.feature_encoder(frames)

  def context(self, frames: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
    """Of first frames: the recurrent unit's first state and its input in all iterations."""
    return self.context_encoder(frames)

  def refine(
    self,
    first: Float[Array, 'b h w d'],
    second: Float[Array, 'b h w d'],
    context: Float[Array, 'b h w _'],
  ) -> tuple[Float[Array, 'b h w 2'], Float[Array, 'b H W 2']]:
    """Flow at an eighth of the size, in pixels of that size, and flow at full size.

    Takes the `features` of first and second frames and the `context` of first frames.
    """
    spec = SIZES[self.size]
    pyramid = correlation_pyramid(first, second, levels=LEVELS)
    b, h, w, _ = first.shape
    y, x = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing='ij')
    here = jnp.stack([x, y], axis=-1).astype(jnp.float32)

    def iterate(update, state, context):
      hidden, flow = state
      correlations = look_up(pyramid, here + flow, radius=spec['radius'])
      hidden, change = update(hidden, context, correlations, flow)
      return (hidden, flow + change), None

    same = dict(variable_broadcast='params', split_rngs={'params': False}, in_axes=nn.broadcast)
    scan = nn.scan(iterate, length=self.iterations, **same)
    hidden, context = jnp.split(context, [spec['hidden']], axis=-1)
    state = nn.tanh(hidden), jnp.zeros((b, h, w, 2), jnp.float32)
    (hidden, flow), _ = scan(self.update, state, nn.relu(context))
    if spec['convex']:
      return flow, upsample_convex(flow, self.convex_mask(hidden))
    return flow, upsample_bilinear(flow)

  def __call__(
    self, first: Float[Array, 'b H W 3'], second: Float[Array, 'b H W 3']
  ) -> Float[Array, 'b H W 2']:
    """The flow from first to second frames, which are RGB in [-1, 1].

    Returns:
      (x, y) in pixels: first[y, x] looks like second[y + flow_y, x + flow_x].

    Raises:
      UserError: a side of the frames is no multiple of 8.
    """
    features = self.features(jnp.concatenate([first, second]))
    return self.refine(*jnp.split(features, 2), self.context(first))[1]


def raft_flow(
  params: Mapping[str, Any],
  clip: Float[Array, 'b T H W 3'],
  *,
  pairs: Sequence[tuple[int, int]],
  size: str,
  iterations: int = 6,
  dtype: Any = jnp.float32,
  eighth: bool = False,
) -> Float[Array, 'b q H2 W2 2']:
  """Flow between pairs of frames of clips, all in one batch.

  The features of each frame are computed once. The 15 pairs of neighbours among 16 frames of 224
  pixels cost 133 GFLOP (small) or 590 GFLOP (large), compiled, with 6 iterations; the original's
  15 calls cost 140 and 752. The correlations of a clip take 49 MB.

  Args:
    params: RAFT's parameters.
    clip: RGB in [0, 1].
    pairs: (first, second) frames of each flow.
    eighth: Whether to return the flow at an eighth of the size, in pixels of that size.

  Returns:
    (x, y) in pixels, in the order of `pairs` for each clip.

  Raises:
    UserError: a side of the frames is no multiple of 8.
  """
  model = RAFT(size, iterations, dtype)
  b, T = clip.shape[:2]
  frames = 2 * clip.astype(jnp.float32) - 1
  first, second = np.array(pairs).T
  starts, of_pair = np.unique(first, return_inverse=True)

  def once(method, frames, picks):
    maps = model.apply(
      {'params': params}, einops.rearrange(frames, 'b t H W C -> (b t) H W C'), method=method
    )
    maps = einops.rearrange(maps, '(b t) h w d -> b t h w d', b=b)
    return [einops.rearrange(maps[:, pick], 'b q h w d -> (b q) h w d') for pick in picks]

  features = once('features', frames, [first, second])
  context = once('context', frames[:, starts], [of_pair])
  coarse, fine = model.apply({'params': params}, *features, *context, method='refine')
  return einops.rearrange(coarse if eighth else fine, '(b q) h w c -> b q h w c', b=b)


def load_raft(path: str | Path) -> tuple[str, dict[str, Any]]:
  """Size and parameters of RAFT from a file of `vmae_jax.convert`.

  Raises:
    UserError: no path is given, there is no such file, or it is not RAFT's.
  """
  if not path or not Path(path).is_file():
    where = f'there is no file {path}' if path else 'no file of weights is given'
    raise UserError(
      f"RAFT: {where}: download torchvision's raft_small weights "
      '(https://download.pytorch.org/models/raft_small_C_T_V2-01064c6d.pth) and convert them, '
      'python -m vmae_jax.convert FILE --out=FILE.'
    )
  params, config = load_params(path, kind=KIND)
  return config['size'], params
