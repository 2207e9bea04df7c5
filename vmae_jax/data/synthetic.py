"""Made-up clips in which only motion tells the class.

One textured sprite over a textured background. What the two look like, how large the sprite
is, where and at what phase and speed it starts do not depend on the class, and the frame is a
torus (what leaves on the right comes back on the left). So at *every* frame index, and for
every class alike, place, angle, log size and the phase of the background are uniform and
independent: a single frame, whichever it is, says nothing about the class. Lengths are in
sides of the frame, so that a clip is the same film at any size.

`vmae_jax.prepare.synthetic_set` writes them as files, in processes that start fast as long as
this file imports nothing larger than numpy.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8

from vmae_jax.errors import lookup

# Directions and senses of rotation are those seen on the screen.
CLASSES = (
  'right',
  'left',
  'up',
  'down',
  'rotate_cw',
  'rotate_ccw',
  'approach',
  'recede',
  'circle_cw',
  'circle_ccw',
  'bounce',
  'still',
)
CLIPS = {'train': 8192, 'val': 2048}  # Of each split, unless the caller says otherwise.
RATE = 8  # Frames a second: slow enough to watch.
RADIUS = 0.2, 0.33  # The sprite's, least and greatest: several patches; with lobes, one frame.
_WAVES = 1  # The background's finest wavelength is 1 / _WAVES of the frame.
VERSION = 3  # Of the pixels: raise it when a seed makes other ones.


class Course(NamedTuple):
  """Where the sprite and the background are at each frame.

  Attributes:
    x: The sprite's centre, to the right, on the torus [0, 1).
    y: The same, downwards.
    angle: By how much the sprite is turned clockwise, in radians.
    size: Place in the range of log sizes, in [0, 1).
    pan_x: By how much the background has moved to the right.
    pan_y: The same, downwards.
  """

  x: Float[np.ndarray, ' T']
  y: Float[np.ndarray, ' T']
  angle: Float[np.ndarray, ' T']
  size: Float[np.ndarray, ' T']
  pan_x: Float[np.ndarray, ' T']
  pan_y: Float[np.ndarray, ' T']


def draw_course(rng: np.random.Generator, name: str, frames: int) -> Course:
  """Draws the course of one clip of the class `name`.

  Every class takes the same random numbers in the same order, so that what is drawn
  afterwards (looks) does not depend on the class.
  """
  t = np.arange(frames)
  x, y, size = rng.random((3, 1))
  angle, phase, pan_direction = rng.uniform(0, 2 * np.pi, (3, 1))
  speed, pan_speed = rng.uniform(0.0375, 0.1, 2)  # 1.5 to 4 pixels a frame of 40.
  turn = np.deg2rad(rng.uniform(10, 25)) * t
  zoom = rng.uniform(0.06, 0.1) * t  # 6 to 10 % a frame.
  radius = rng.uniform(0.15, 0.25)
  circle = np.deg2rad(rng.uniform(18, 32)) * t
  height = rng.uniform(0.2, 0.35)
  hops = t / rng.uniform(7, 11)  # So many frames a hop.
  # Half of all clips pan, and `still` always does, for something has to move. Given that a
  # clip pans, direction and speed are drawn alike for all classes.
  pan = pan_speed * t * (rng.random() < 0.5 or name == 'still')

  match name:
    case 'right':
      x = x + speed * t
    case 'left':
      x = x - speed * t
    case 'up':
      y = y - speed * t
    case 'down':
      y = y + speed * t
    case 'rotate_cw':
      angle = angle + turn
    case 'rotate_ccw':
      angle = angle - turn
    case 'approach':  # A sawtooth: on reaching the greatest size it starts from the least.
      size = size + zoom
    case 'recede':
      size = size - zoom
    case 'circle_cw':
      x, y = x + radius * np.cos(phase + circle), y + radius * np.sin(phase + circle)
    case 'circle_ccw':
      x, y = x + radius * np.cos(phase - circle), y + radius * np.sin(phase - circle)
    case 'bounce':
      y = y - height * np.abs(np.sin(phase + np.pi * hops))
  still = np.zeros(frames)
  return Course(
    x=(x + still) % 1,
    y=(y + still) % 1,
    angle=angle + still,
    size=(size + still) % 1,
    pan_x=pan * np.cos(pan_direction),
    pan_y=pan * np.sin(pan_direction),
  )


def _waves(phase: Float[np.ndarray, ' T'], size: int) -> Float32[np.ndarray, 'T size q']:
  """1, cos and sin of each wave number, at every pixel's centre moved back by `phase`."""
  at = 2 * np.pi * ((np.arange(size) + 0.5) / size - phase[:, None])
  waves = [f(k * at) for k in range(1, _WAVES + 1) for f in (np.cos, np.sin)]
  return np.stack([np.ones_like(at), *waves], -1).astype(np.float32)


def _background(
  rng: np.random.Generator, course: Course, size: int
) -> Float32[np.ndarray, 'T 3 size size']:
  """A band-limited random field on the torus, shifted without interpolation."""
  q = 2 * _WAVES + 1
  number = np.arange(1, q + 1) // 2  # 0 1 1 2 2: the wave number of each basis function.
  scale = np.exp(-(number[:, None] ** 2 + number**2) / 4)
  field = rng.normal(size=(3, q, q)) * scale / np.sqrt((scale**2).sum() / 2)
  # Separable, and tiny: rows by waves, waves by waves, waves by columns.
  rows = _waves(course.pan_y, size)[:, None] @ field.astype(np.float32)
  video = rows @ _waves(course.pan_x, size).transpose(0, 2, 1)[:, None]
  return np.tanh(1.5 * video, out=video)


def _sprite(
  rng: np.random.Generator, course: Course, size: int
) -> tuple[Float32[np.ndarray, 'T size size'], Float32[np.ndarray, 'T size size']]:
  """Opacity and texture, in [-1, 1], of a lobed blob with a few waves in all directions.

  The waves are a radius and more long: what is finer than a patch teaches a small model nothing.
  """
  lobes, lobe_phases = rng.uniform(0.12, 0.25, 2), rng.uniform(0, 2 * np.pi, 2)
  waves, heights = rng.normal(scale=2, size=(4, 2)), rng.uniform(0.5, 1, 4)
  phases = rng.uniform(0, 2 * np.pi, 4)

  low, high = np.log(RADIUS)
  radius = np.exp(low + (high - low) * course.size)
  at = (np.arange(size) + 0.5) / size

  def column(a: Float[np.ndarray, ' T']) -> Float32[np.ndarray, 'T 1 1']:
    return a.astype(np.float32)[:, None, None]

  def offsets(centre: Float[np.ndarray, ' T']) -> Float32[np.ndarray, 'T size']:
    return ((at - centre[:, None] + 0.5) % 1 - 0.5).astype(np.float32)

  dx, dy = offsets(course.x)[:, None, :], offsets(course.y)[:, :, None]
  cos, sin = column(np.cos(course.angle) / radius), column(np.sin(course.angle) / radius)
  u, v = cos * dx + sin * dy, cos * dy - sin * dx  # Turned back: y points down.
  rho, phi = np.hypot(u, v), np.arctan2(v, u)
  edge = np.float32(1)
  for k, (a, b) in enumerate(zip(lobes, lobe_phases, strict=True), start=2):
    edge = edge + np.float32(a) * np.cos(k * phi + np.float32(b))
  opacity = np.clip((edge - rho) * column(radius * size) + np.float32(0.5), 0, 1)
  field = np.zeros_like(u)
  for (a, b), height, phase in zip(waves.astype(np.float32), heights, phases, strict=True):
    field += np.float32(height) * np.sin(a * u + b * v + np.float32(phase))
  return opacity, np.tanh(np.float32(1.2) * field)


def render_with_opacity(
  seed: int, index: int, *, frames: int = 16, size: int = 48
) -> tuple[UInt8[np.ndarray, 'T H W 3'], Float32[np.ndarray, 'T H W'], int]:
  """As `render`, with the opacity of the sprite at each pixel (0 is background)."""
  rng = np.random.default_rng([seed, index])
  label = index % len(CLASSES)
  course = draw_course(rng, CLASSES[label], frames)
  background = _background(rng, course, size)
  opacity, texture = _sprite(rng, course, size)
  # The background's channels vary each by itself, rather dark; the sprite's texture runs
  # between a light colour and a strong one.
  light, strong = rng.uniform(0.75, 1, 3), rng.permutation([0.0, rng.uniform(0, 1), 1.0])
  middle, swing = (light + strong) / 2, (light - strong) / 2
  video = background
  video *= np.float32(0.32)
  video += np.float32(0.36)
  sprite = texture[:, None] * swing.astype(np.float32)[:, None, None]
  sprite += middle.astype(np.float32)[:, None, None]
  sprite -= video
  sprite *= opacity[:, None]
  video += sprite
  video *= 255
  video += np.float32(0.5)
  pixels = np.ascontiguousarray(video.astype(np.uint8).transpose(0, 2, 3, 1))
  return pixels, opacity, label


def render(
  seed: int, index: int, *, frames: int = 16, size: int = 48
) -> tuple[UInt8[np.ndarray, 'T H W 3'], int]:
  """Draws clip `index`: a function of the arguments alone.

  Args:
    seed: Of the whole set.
    index: Of the clip; its class is `index % len(CLASSES)`.
    frames: T.
    size: H and W.

  Returns:
    The clip, RGB, and its class, an index into `CLASSES`.
  """
  video, _, label = render_with_opacity(seed, index, frames=frames, size=size)
  return video, label


def split_seed(split: str, seed: int) -> int:
  """The seed of `render` for one split: no two splits share one, whatever their sets."""
  return len(CLIPS) * seed + list(CLIPS).index(split)


def clip_name(split: str, index: int) -> str:
  """Where a clip of a written set lies: SPLIT/CLASS/INDEX.mp4."""
  return f'{split}/{CLASSES[index % len(CLASSES)]}/{index:06d}.mp4'


class SyntheticVideo:
  """One clip with the interface of a video file."""

  def __init__(self, seed: int, index: int, *, frames: int, size: int):
    self.num_frames, self.height, self.width, self.rate = frames, size, size, float(RATE)
    self._render = functools.partial(render, seed, index, frames=frames, size=size)

  def read(
    self, indices: Sequence[int] | Integer[np.ndarray, ' T'], *, shrink=None, put=None
  ) -> UInt8[np.ndarray, 'T H W 3']:
    """The frames of these indices, in this order; `shrink` and `put` as those of `Video.read`."""
    frames = self._render()[0][np.asarray(indices)]
    if put is not None:
      for place, frame in enumerate(frames):
        put(place, frame)
      return frames[:, :0, :0]
    return frames if shrink is None else np.stack([shrink(frame) for frame in frames])

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    pass


class SyntheticSource:
  """The synthetic set as a source of clips, drawn when they are read.

  Args:
    split: 'train' or 'val'; no clip is in both, whatever the seeds.
    clips: How many; None for the usual number.
    frames: T.
    size: H and W.
    seed: Of the set.

  Raises:
    UserError: there is no such split.
  """

  class_names: tuple[str, ...] = CLASSES

  def __init__(
    self,
    split: str,
    *,
    clips: int | None = None,
    frames: int = 16,
    size: int = 48,
    seed: int = 0,
  ):
    usual = lookup(CLIPS, split, 'the split of the synthetic set')
    self._split, self._clips = split, usual if clips is None else clips
    self._seed = split_seed(split, seed)
    self._frames, self._size = frames, size
    self.largest = (size, size)

  def __len__(self) -> int:
    return self._clips

  def name(self, i: int) -> str:
    return clip_name(self._split, i)

  def label(self, i: int) -> int:
    return i % len(CLASSES)

  def about(self) -> str:
    return f'{self._seed}, {self._frames} frames of {self._size} pixels'

  def open(self, i: int) -> SyntheticVideo:
    return SyntheticVideo(self._seed, i, frames=self._frames, size=self._size)
