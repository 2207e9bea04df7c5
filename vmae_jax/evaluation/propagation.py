"""Label propagation: finds the objects of a frame from the frames before it.

Each token of a new frame takes the labels of the most similar tokens near its own place, in the
first frame and in the last few. Nothing is learnt, so the masks measure the frozen features.
"""

import functools
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name
from vmae_jax.types import Array, Bool, Float, Int, UInt8

SHAPES = ('square', 'circle')
FIRST_MASKS = ('nearest', 'linear')
CHUNK = 128  # Queries at a time: bounds the memory that similarities take.
CHANNELS = 8  # Labels have a multiple of these, so that most videos share a compiled program.


@dataclass(frozen=True, kw_only=True)
class Protocol:
  """How labels are propagated. Every field changes the result, so report all with any figure."""

  size: str  # Size of resized frames, see `vmae_jax.evaluation.segmentation.input_size`.
  topk: int  # The number of tokens that a token takes its labels from.
  last: int  # Frames remembered beside the first.
  shape: str  # Shape of the neighbourhood: 'square' or 'circle'.
  # Size of the neighbourhood in tokens: in a square, rows and columns are at most this far away; in
  # a circle, tokens are nearer than this.
  radius: int
  limit_first: bool = True  # Whether the neighbourhood also limits the first frame.
  temperature: float  # Weights are exp(cosine similarity / temperature).
  pad: int = 0  # How many of the `last` frames are copies of the first one at the start.
  # Whether tokens that are as similar as the k-th share the remaining places among the k;
  # otherwise all of them count in full.
  exact_k: bool = False
  # How the given mask becomes labels of tokens: 'nearest', or 'linear', which mixes the objects of
  # four pixels (as OpenCV's INTER_LINEAR does).
  first_mask: str = 'nearest'
  # Whether labels of tokens are enlarged to the frame. Otherwise they are enlarged to the encoder's
  # input, from which each pixel of the frame takes the nearest pixel.
  enlarge_to_frame: bool = False
  # Whether each object's labels are stretched to [0, 1] over the frame before the largest wins,
  # which keeps small and faint objects.
  stretch: bool = True

  def __post_init__(self):
    check_name(self.shape, SHAPES, 'shape')
    check_name(self.first_mask, FIRST_MASKS, 'first_mask')
    for name in ('topk', 'last'):
      if getattr(self, name) < 1:
        raise UserError(f'{name} is {getattr(self, name)}: it must be at least 1.')
    least = int(self.shape == 'circle')
    if self.radius < least or self.temperature <= 0 or self.pad < 0:
      raise UserError(
        f'radius is {self.radius}, temperature {self.temperature:g} and pad {self.pad}: the radius '
        f'of a {self.shape} is at least {least}, a temperature above 0, and pad at least 0.'
      )

  def __str__(self) -> str:
    return ', '.join(f'{field.name} {getattr(self, field.name)}' for field in fields(self))


_DINO = Protocol(size='480/64', topk=5, last=7, shape='square', radius=12, temperature=0.1)
_CRW = Protocol(
  size='native',
  topk=10,
  last=20,
  shape='circle',
  radius=12,
  limit_first=False,
  temperature=0.05,
  pad=20,
  exact_k=True,
  first_mask='linear',
  enlarge_to_frame=True,
  stretch=False,
)
_VFS = Protocol(
  size='480',
  topk=10,
  last=20,
  shape='circle',
  radius=12,
  temperature=0.07,
  pad=1,
  exact_k=True,
  enlarge_to_frame=True,
)
# How the released code of each method turns features into masks; tests compare with its values. The
# rest is the same for all: frames are resized linearly to whole patches, as OpenCV and all of them
# do, and normalised as in the model's training; masks are scored at DAVIS's own size (CropMAE and
# RSP first resize DAVIS to 480 x 880, RSP by the nearest pixel, and score it there). Radii are in
# tokens of each method's own stride: 8 pixels for crw and vfs, 16 for the others.
PRESETS = {
  # Caron et al. 2021, facebookresearch/dino, eval_video_segmentation.py.
  'dino': _DINO,
  # Jabri et al. 2020, ajabri/videowalk, test.py with the options of its README.
  'crw': _CRW,
  # Xu and Wang 2021, xvjiarui/VFS: the radius is half of neighbor_range.
  'vfs_r18': _VFS,
  'vfs_r50': replace(_VFS, radius=18),
  # Gupta et al. 2023 as evaluated in alexandre-eymael/CropMAE, which has CRW's code.
  'siammae': replace(
    _CRW, size='480x880', topk=7, radius=20, temperature=0.7, enlarge_to_frame=False
  ),
  # Jang et al. 2024, huiwon-jang/RSP, which has DINO's code. It resizes DAVIS to 480 x 880 first,
  # then as DINO does: 480 x 832 for all sequences.
  'rsp': replace(_DINO, size='480x832', topk=7, last=30, radius=30),
}


class Memory(NamedTuple):
  """Frames that labels are taken from: the first one, and `last` places that are reused in turn.

  Features have length 1, labels are soft, and `filled` says which places hold a frame.
  """

  features: Float[Array, 'f n d']
  labels: Float[Array, 'f n c']
  filled: Bool[Array, ' f']


def unit(x: Float[Array, '*b d']) -> Float[Array, '*b d']:
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
  # Frame t has the place 1 + t modulo `last`; copies of the first frame are frames before 0.
  padded = -jnp.arange(protocol.last) % protocol.last < protocol.pad
  return Memory(features, labels, jnp.append(True, padded))


def kth_largest(x: Float[Array, '*s'], k: int) -> Float[Array, '']:
  """The k-th largest value of all, counting equal values one by one.

  It takes at most k passes over x; on CPU they take a twentieth of the time of `jax.lax.top_k`.
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
  """Soft labels of a frame, and the memory with this frame in place of the oldest.

  The k most similar tokens are chosen among all remembered frames together. Labels sum to 1 if the
  remembered ones do.

  Args:
    memory: The frames before; its buffers are reused.
    frame: The frame's number, from 1.
    grid: Rows and columns of tokens.
    chunk: Tokens of the frame at a time, to limit memory.
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
      near = away[0] ** 2 + away[1] ** 2 < protocol.radius**2
    allowed = jnp.broadcast_to(near, memory.features.shape[:2])
    if not protocol.limit_first:
      allowed = allowed.at[0].set(True)
    # Full precision: by default GPUs and TPUs round, which changes which tokens are most similar.
    logits = jnp.einsum('fnd,d->fn', memory.features, x, precision='highest')
    logits = jnp.where(allowed & memory.filled[:, None], logits / protocol.temperature, -jnp.inf)
    weights = jnp.exp(logits - logits.max())
    least = kth_largest(logits, k)
    weights = jnp.where(logits >= least, weights, 0)
    if protocol.exact_k:
      equal = logits == least
      weights = jnp.where(equal, weights * (k - (logits > least).sum()) / equal.sum(), weights)
    labels = jnp.einsum('fn,fnc->c', weights, memory.labels, precision='highest')
    return labels / weights.sum()

  labels = jax.lax.map(one, (features, rows, columns), batch_size=min(chunk, len(features)))
  place = 1 + frame % protocol.last
  return labels, Memory(
    memory.features.at[place].set(features),
    memory.labels.at[place].set(labels),
    memory.filled.at[place].set(True),
  )


@functools.partial(jax.jit, static_argnames=('grid', 'size', 'stretch'))
def decide(
  labels: Float[Array, 'n c'], *, grid: tuple[int, int], size: tuple[int, int], stretch: bool
) -> UInt8[Array, 'H W']:
  """The object of each pixel: labels are enlarged bilinearly, and the largest wins.

  Args:
    size: Rows and columns of pixels.
    stretch: See `Protocol`; a channel with the same value everywhere is left as it is.
  """
  maps = jax.image.resize(labels.reshape(*grid, -1), (*size, labels.shape[-1]), 'bilinear')
  if stretch:
    low, high = maps.min((0, 1)), maps.max((0, 1))
    uneven = (high > 0) & (high > low)
    maps = jnp.where(uneven, (maps - low) / jnp.where(uneven, high - low, 1), maps)
  return maps.argmax(-1).astype(jnp.uint8)
