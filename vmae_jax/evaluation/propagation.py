"""Label propagation: what is where in a frame, told by the frames before it.

Each token of a new frame takes the labels of the tokens most like it, in the first frame and
in the last few, near its own place. Nothing is learnt: what the masks are worth is what frozen
features are worth. Positions in the grid count tokens, in rows and columns.
"""

import functools
from dataclasses import dataclass, fields
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name
from vmae_jax.types import Array, Bool, Float, Int, UInt8

SHAPES = ('square', 'circle')
CHUNK = 128  # Queries at a time: bounds the memory that similarities take.
# One compiled program for most videos: labels have a multiple of so many channels.
CHANNELS = 8


@dataclass(frozen=True, kw_only=True)
class Protocol:
  """How labels are propagated. All of it changes the result: name it beside any figure.

  Attributes:
    size: What frames are resized to, see `vmae_jax.evaluation.segmentation.input_size`.
    topk: Tokens that a token takes its labels from; those equal to the last one count, too.
    last: Frames remembered beside the first.
    shape: Of the neighbourhood: 'square' or 'circle'.
    radius: Of the neighbourhood, in tokens: rows and columns, or distance, at most this.
    limit_first: Whether the neighbourhood holds for the first frame, too.
    temperature: Weights are exp(cosine similarity / temperature).
    pad: Whether the first frame fills the memory until there are `last` others.
  """

  size: str
  topk: int
  last: int
  shape: str
  radius: int
  limit_first: bool = True
  temperature: float
  pad: bool = False

  def __post_init__(self):
    check_name(self.shape, SHAPES, 'shape')
    for name in ('topk', 'last'):
      if getattr(self, name) < 1:
        raise UserError(f'{name} is {getattr(self, name)}: it must be at least 1.')
    if self.radius < 0 or self.temperature <= 0:
      raise UserError(
        f'radius is {self.radius} and temperature {self.temperature:g}: a radius is at least 0, '
        'a temperature above 0.'
      )

  def __str__(self) -> str:
    return ', '.join(f'{field.name} {getattr(self, field.name)}' for field in fields(self))


# As their released evaluations have them. Radii are in tokens of each one's own stride.
PRESETS = {
  # Caron et al. 2021, facebookresearch/dino, eval_video_segmentation.py; stride 16.
  'dino': Protocol(size='480/64', topk=5, last=7, shape='square', radius=12, temperature=0.1),
  # Jabri et al. 2020, ajabri/videowalk; stride 8.
  'crw': Protocol(
    size='native',
    topk=10,
    last=20,
    shape='circle',
    radius=12,
    limit_first=False,
    temperature=0.05,
    pad=True,
  ),
  # Xu and Wang 2021, xvjiarui/VFS: the radius is half of neighbor_range; stride 8.
  'vfs_r18': Protocol(size='480', topk=10, last=20, shape='circle', radius=12, temperature=0.07),
  'vfs_r50': Protocol(size='480', topk=10, last=20, shape='circle', radius=18, temperature=0.07),
  # Gupta et al. 2023 as evaluated in alexandre-eymael/CropMAE; stride 16.
  'siammae': Protocol(size='480x880', topk=7, last=20, shape='circle', radius=20, temperature=0.7),
  # Jang et al. 2024, huiwon-jang/RSP; stride 16.
  'rsp': Protocol(size='480x880', topk=7, last=30, shape='square', radius=30, temperature=0.1),
}


class Memory(NamedTuple):
  """Frames that labels are taken from: the first one, then `last` places used in turn.

  Attributes:
    features: Float 'f n d', of length 1.
    labels: Float 'f n c', soft.
    filled: Bool 'f'.
  """

  features: Float[Array, 'f n d']
  labels: Float[Array, 'f n c']
  filled: Bool[Array, ' f']


def unit(x: Float[Array, 'n d']) -> Float[Array, 'n d']:
  """Features of length 1 in float32."""
  x = x.astype(jnp.float32)
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames=('protocol',))
def remember_first(
  features: Float[Array, 'n d'], labels: Float[Array, 'n c'], *, protocol: Protocol
) -> Memory:
  """The memory before the second frame."""
  frames = 1 + protocol.last
  features, labels = (
    jnp.broadcast_to(x, (frames, *x.shape)) for x in (unit(features), labels.astype(jnp.float32))
  )
  return Memory(features, labels, (jnp.arange(frames) == 0) | protocol.pad)


def kth_largest(x: Float[Array, '*s'], k: int) -> Float[Array, '']:
  """The k-th largest value of all, equal ones counted one by one.

  At most k passes over x, which on CPU take a twentieth of the time of `jax.lax.top_k`.
  """

  def lower(_, threshold: Float[Array, '']) -> Float[Array, '']:
    below = jnp.where(x < threshold, x, -jnp.inf).max()
    return jnp.where((x >= threshold).sum() < k, below, threshold)

  return jax.lax.fori_loop(0, k, lower, jnp.full((), jnp.inf, x.dtype))


@functools.partial(
  jax.jit, static_argnames=('grid', 'protocol', 'chunk'), donate_argnames=('memory',)
)
def propagate(
  memory: Memory,
  features: Float[Array, 'n d'],
  frame: Int[Array, ''],
  *,
  grid: tuple[int, int],
  protocol: Protocol,
  chunk: int = CHUNK,
) -> tuple[Float[Array, 'n c'], Memory]:
  """Labels of a frame, and the memory with it in place of the oldest.

  The k most similar tokens are looked for over all remembered frames at once. All that are as
  similar as the k-th count, as in DINO; the others keep k in any order.

  Args:
    memory: Of the frames before; its buffers are used again.
    features: Of the frame's tokens.
    frame: The frame's number, from 1.
    grid: Rows and columns of tokens.
    protocol: How.
    chunk: Tokens of the frame at a time.

  Returns:
    Soft labels, which sum to 1 where the remembered ones do, and the new memory.
  """
  features = unit(features)
  rows, columns = (x.reshape(-1) for x in jnp.indices(grid))
  k = min(protocol.topk, memory.features.shape[0] * features.shape[0])

  def one(query: tuple[Float[Array, ' d'], Int[Array, ''], Int[Array, '']]) -> Float[Array, ' c']:
    x, row, column = query
    away = jnp.abs(rows - row), jnp.abs(columns - column)
    if protocol.shape == 'square':
      near = jnp.maximum(*away) <= protocol.radius
    else:
      near = away[0] ** 2 + away[1] ** 2 <= protocol.radius**2
    allowed = jnp.broadcast_to(near, memory.features.shape[:2])
    if not protocol.limit_first:
      allowed = allowed.at[0].set(True)
    # In full precision: GPUs and TPUs would round it, and change who is most similar.
    logits = jnp.einsum('fnd,d->fn', memory.features, x, precision='highest')
    logits = jnp.where(allowed & memory.filled[:, None], logits / protocol.temperature, -jnp.inf)
    weights = jnp.exp(logits - logits.max())
    weights = jnp.where(logits >= kth_largest(logits, k), weights, 0)
    labels = jnp.einsum('fn,fnc->c', weights, memory.labels, precision='highest')
    return labels / weights.sum()

  labels = jax.lax.map(one, (features, rows, columns), batch_size=min(chunk, len(features)))
  place = 1 + (frame - 1) % protocol.last
  return labels, Memory(
    memory.features.at[place].set(features),
    memory.labels.at[place].set(labels),
    memory.filled.at[place].set(True),
  )


@functools.partial(jax.jit, static_argnames=('grid', 'patch'))
def decide(
  labels: Float[Array, 'n c'], *, grid: tuple[int, int], patch: tuple[int, int]
) -> UInt8[Array, 'H W']:
  """The object of each pixel, as DINO decides it.

  Labels are enlarged bilinearly to the frame, and each channel that is anywhere above 0 is
  stretched to [0, 1], so that small and faint objects hold out; the largest channel wins.
  """
  (h, w), (ph, pw) = grid, patch
  maps = labels.reshape(h, w, -1)
  maps = jax.image.resize(maps, (h * ph, w * pw, maps.shape[-1]), 'bilinear')
  low, high = maps.min((0, 1)), maps.max((0, 1))
  stretch = (high > 0) & (high > low)  # A channel that is the same everywhere stays.
  scaled = (maps - low) / jnp.where(stretch, high - low, 1)
  return jnp.where(stretch, scaled, maps).argmax(-1).astype(jnp.uint8)
