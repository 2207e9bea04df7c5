"""Synthetic clips with two independent labels: how something moves, and what it looks like.

A clip shows one textured sprite over a textured background. The look, a family of shapes and
textures, is seen in any single frame and says nothing about the motion. The motion is seen in no
single frame: the sprite's size, place, phase and speed at the start do not depend on it, and the
frame is a torus (what leaves on the right comes back on the left). So at *every* frame index, and
for every motion alike, place, angle, log size and the phase of the background are uniform and
independent. The unit of length is the side of the frame, so a clip is the same film at any size.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vmae_jax.data.frames import ArrayVideo, Frames, encode
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, lookup

# Directions and senses of rotation are those seen on the screen.
MOTIONS = (
  *('right', 'left', 'up', 'down', 'rotate_cw', 'rotate_ccw'),
  *('approach', 'recede', 'circle_cw', 'circle_ccw', 'bounce', 'still'),
)
SHAPES = 'disc', 'triangle', 'square', 'star'
TEXTURES = 'stripes', 'checks', 'rings'
LOOKS = tuple(f'{texture}_{shape}' for texture, shape in itertools.product(TEXTURES, SHAPES))
LABELS = {'motion': MOTIONS, 'look': LOOKS}
CLIPS = {'train': 8192, 'val': 2048}  # Of each split, unless the caller says otherwise.
RATE = 8  # Frames per second: slow enough to watch.
RADIUS = 0.2, 0.29  # The sprite's, least and greatest; a triangle's corners reach 1.7 as far.
VERSION = 4  # Of the pixels: raise it if a seed gives other pixels.


def label_of(index: int, label: str = 'motion') -> int:
  """The class of a clip; each pair of motion and look occurs once in every 144 clips."""
  motion, look = index % len(MOTIONS), index // len(MOTIONS) % len(LOOKS)
  return {'motion': motion, 'look': look}[label]


# Options of `render_with_opacity`: default and least value.
OPTIONS: dict[str, tuple[float, float]] = {
  'frames': (16, 1),
  'size': (48, 16),
  'speed': (1.0, 0),
  'detail': (1, 1),
  'moving': (1.0, 0),
}


class Course(NamedTuple):
  """Where the sprite and the background are at each frame."""

  x: Float[np.ndarray, ' T']  # The sprite's centre, to the right, on the torus [0, 1).
  y: Float[np.ndarray, ' T']  # The same, downwards.
  angle: Float[np.ndarray, ' T']  # By how much it is turned clockwise, in radians.
  size: Float[np.ndarray, ' T']  # Its place in the range of log sizes, in [0, 1).
  pan_x: Float[np.ndarray, ' T']  # By how much the background has moved to the right.
  pan_y: Float[np.ndarray, ' T']  # The same, downwards.


def draw_course(
  rng: np.random.Generator, name: str, frames: int, *, speed: float = 1.0, moving: float = 1.0
) -> Course:
  """Draws the course of one clip of the motion `name`.

  Every motion draws the same random numbers in the same order, so that what is drawn afterwards
  (the look) does not depend on it.
  """
  t = np.arange(frames) * speed * (rng.random() < moving)  # 0: the first frame, repeated.
  x, y, size = rng.random((3, 1))
  angle, phase, pan_direction = rng.uniform(0, 2 * np.pi, (3, 1))
  step, pan_speed = rng.uniform(0.0375, 0.1, 2)  # 1.5 to 4 pixels a frame of 40.
  turn = np.deg2rad(rng.uniform(10, 25)) * t
  zoom = rng.uniform(0.08, 0.13) * t  # 8 to 13 % a frame.
  radius = rng.uniform(0.15, 0.25)
  circle = np.deg2rad(rng.uniform(18, 32)) * t
  height = rng.uniform(0.2, 0.35)
  hops = t / rng.uniform(7, 11)  # A hop takes 7 to 11 frames.
  # Half of all clips pan; `still` always does, as something has to move. Direction and speed of
  # the pan are drawn alike for all classes.
  pan = pan_speed * t * (rng.random() < 0.5 or name == 'still')

  match name:
    case 'right' | 'left':
      x = x + (step if name == 'right' else -step) * t
    case 'up' | 'down':
      y = y + (step if name == 'down' else -step) * t
    case 'rotate_cw' | 'rotate_ccw':
      angle = angle + (turn if name == 'rotate_cw' else -turn)
    case 'approach' | 'recede':  # A sawtooth: after the greatest size comes the least.
      size = size + (zoom if name == 'approach' else -zoom)
    case 'circle_cw' | 'circle_ccw':
      at = phase + (circle if name == 'circle_cw' else -circle)
      x, y = x + radius * np.cos(at), y + radius * np.sin(at)
    case 'bounce':
      y = y - height * np.abs(np.sin(phase + np.pi * hops))
  x, y, angle, size = (value + np.zeros(frames) for value in (x, y, angle, size))
  pan_x, pan_y = pan * np.cos(pan_direction), pan * np.sin(pan_direction)
  return Course(x % 1, y % 1, angle, size % 1, pan_x, pan_y)


def _waves(
  phase: Float[np.ndarray, ' T'], size: int, finest: int
) -> Float32[np.ndarray, 'T size q']:
  """1, cos and sin of each wave number, at every pixel's centre moved back by `phase`."""
  at = 2 * np.pi * ((np.arange(size) + 0.5) / size - phase[:, None])
  waves = [f(k * at) for k in range(1, finest + 1) for f in (np.cos, np.sin)]
  return np.stack([np.ones_like(at), *waves], -1).astype(np.float32)


def _background(
  rng: np.random.Generator, course: Course, size: int, detail: int = 1
) -> Float32[np.ndarray, 'T 3 size size']:
  """A band-limited random field on the torus, shifted without interpolation."""
  q = 2 * detail + 1
  number = np.arange(1, q + 1) // 2  # 0 1 1 2 2: the wave number of each basis function.
  scale = np.exp(-(number[:, None] ** 2 + number**2) / (4 * detail**2))
  field = rng.normal(size=(3, q, q)) * scale / np.sqrt((scale**2).sum() / 2)
  # Separable, and tiny: rows by waves, waves by waves, waves by columns.
  rows = _waves(course.pan_y, size, detail)[:, None] @ field.astype(np.float32)
  video = rows @ _waves(course.pan_x, size, detail).transpose(0, 2, 1)[:, None]
  return np.tanh(1.5 * video, out=video)


def _edge(shape: str, phi: Float32[np.ndarray, 'T H W']) -> Float32[np.ndarray, 'T H W']:
  """How far a shape of about the area of the unit disc reaches in each direction."""
  if shape == 'disc':
    return np.ones_like(phi)
  if shape == 'star':
    return 1 + np.float32(0.35) * np.cos(5 * phi)
  sides = {'triangle': 3, 'square': 4}[shape]
  apothem = np.sqrt(np.pi / (sides * np.tan(np.pi / sides)))  # Of the polygon of area pi.
  turn = 2 * np.pi / sides
  return (apothem / np.cos(phi % turn - turn / 2)).astype(np.float32)


def _sprite(
  rng: np.random.Generator, course: Course, size: int, look: str
) -> tuple[Float32[np.ndarray, 'T size size'], Float32[np.ndarray, 'T size size']]:
  """Opacity, in [0, 1], and texture, in [-1, 1], of a sprite.

  Random lobes make each shape irregular, and one side of each texture is darker, so that a rotation
  is seen whatever the look.
  """
  kind, shape = look.split('_')
  lobes, lobe_phases = rng.uniform((0.1, 0.03), (0.18, 0.1)), rng.uniform(0, 2 * np.pi, 2)
  tilt, phase, shade, place = rng.uniform(0, 2 * np.pi, 4)
  wave = rng.uniform(3, 4.5)  # A wavelength is 1.4 to 2.1 radii.
  depth = rng.uniform(0.4, 0.8)  # Of the shade.

  low, high = np.log(RADIUS)
  radius = np.exp(low + (high - low) * course.size)
  at = (np.arange(size) + 0.5) / size

  def column(a: Float[np.ndarray, ' T']) -> Float32[np.ndarray, 'T 1 1']:
    return a.astype(np.float32)[:, None, None]

  def offsets(centre: Float[np.ndarray, ' T']) -> Float32[np.ndarray, 'T size']:
    return ((at - centre[:, None] + 0.5) % 1 - 0.5).astype(np.float32)

  def along(angle: float) -> Float32[np.ndarray, 'T size size']:
    return np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v

  dx, dy = offsets(course.x)[:, None, :], offsets(course.y)[:, :, None]
  cos, sin = column(np.cos(course.angle) / radius), column(np.sin(course.angle) / radius)
  u, v = cos * dx + sin * dy, cos * dy - sin * dx  # Turned back: y points down.
  rho, phi = np.hypot(u, v), np.arctan2(v, u)
  edge = _edge(shape, phi)
  for k, (a, b) in enumerate(zip(lobes, lobe_phases, strict=True), start=2):
    edge = edge + np.float32(a) * np.cos(k * phi + np.float32(b))
  opacity = np.clip((edge - rho) * column(radius * size) + np.float32(0.5), 0, 1)
  if kind == 'stripes':
    field = np.sin(np.float32(wave) * along(tilt) + np.float32(phase))
  elif kind == 'checks':
    across = np.sin(np.float32(wave) * along(tilt + np.pi / 2) + np.float32(place))
    field = np.float32(1.4) * np.sin(np.float32(wave) * along(tilt) + np.float32(phase)) * across
  else:
    centre = np.float32(0.3 * np.cos(place)), np.float32(0.3 * np.sin(place))
    field = np.sin(np.float32(wave) * np.hypot(u - centre[0], v - centre[1]) + np.float32(phase))
  return opacity, np.tanh(np.float32(1.5) * field + np.float32(depth) * along(shade))


def render_with_opacity(
  seed: int,
  index: int,
  *,
  frames: int = 16,
  size: int = 48,
  speed: float = 1.0,
  detail: int = 1,
  moving: float = 1.0,
) -> tuple[UInt8[np.ndarray, 'T H W 3'], Float32[np.ndarray, 'T H W']]:
  """Draws clip `index`, whose classes are `label_of(index, ...)`, from the arguments alone.

  Args:
    seed: Of the whole set.
    index: Of the clip.
    frames: T.
    size: H and W.
    speed: Factor of all motion; at 1 sprites move by 1.5 to 4 pixels a frame of 40.
    detail: The background's finest wavelength is 1 / detail of the frame.
    moving: Share of the clips that move at all; the others stand still but keep their label.

  Returns:
    The clip, RGB, and the opacity of the sprite at each pixel; 0 is background.
  """
  rng = np.random.default_rng([seed, index])
  motion, look = (names[label_of(index, label)] for label, names in LABELS.items())
  course = draw_course(rng, motion, frames, speed=speed, moving=moving)
  opacity, texture = _sprite(rng, course, size, look)
  # The background's channels vary each by itself, rather dark; the sprite's texture runs
  # between a light colour and a strong one.
  light, strong = rng.uniform(0.75, 1, 3), rng.permutation([0.0, rng.uniform(0, 1), 1.0])
  middle, swing = (light + strong) / 2, (light - strong) / 2
  video = _background(rng, course, size, detail)
  grey = video.mean(1, keepdims=True)
  video = np.float32(0.35) + np.float32(0.25) * grey + np.float32(0.1) * (video - grey)
  sprite = texture[:, None] * swing.astype(np.float32)[:, None, None]
  sprite += middle.astype(np.float32)[:, None, None]
  sprite -= video
  sprite *= opacity[:, None]
  video += sprite
  video *= 255
  video += np.float32(0.5)
  return np.ascontiguousarray(video.astype(np.uint8).transpose(0, 2, 3, 1)), opacity


def render(*args: int, **options: int | float) -> UInt8[np.ndarray, 'T H W 3']:
  """The clip of `render_with_opacity`."""
  return render_with_opacity(*args, **options)[0]


class SyntheticSource:
  """The synthetic set as a source of clips, drawn when they are read.

  Args:
    split: 'train' or 'val'; no clip is in both, whatever the seeds.
    label: Which label the method `label` returns, a key of LABELS.
    clips: How many; None means as many as CLIPS says.
    seed: Of the set.
    options: See OPTIONS.

  Raises:
    UserError: there is no such split or label, or an option is out of range.
  """

  def __init__(
    self,
    split: str,
    *,
    label: str = 'motion',
    clips: int | None = None,
    seed: int = 0,
    **options: int | float,
  ):
    usual = lookup(CLIPS, split, 'the split of the synthetic set')
    self._split, self._clips = split, usual if clips is None else clips
    self.class_names: tuple[str, ...] = lookup(LABELS, label, 'the label of the synthetic set')
    # No two splits share a seed of `render`, whatever their sets.
    self._label, self._seed = label, len(CLIPS) * seed + list(CLIPS).index(split)
    self._options = {name: usual for name, (usual, _) in OPTIONS.items()} | options
    least = {'clips': 1, 'seed': 0} | {name: least for name, (_, least) in OPTIONS.items()}
    for name, value in {'clips': self._clips, 'seed': seed, **options}.items():
      if value < least[name]:
        raise UserError(f'{name} is {value}: it must be at least {least[name]}.')
    self.largest = (self._options['size'],) * 2

  def __len__(self) -> int:
    return self._clips

  def name(self, i: int) -> str:
    return f'{self._split}/{MOTIONS[label_of(i)]}/{i:06d}.mp4'

  def label(self, i: int) -> int:
    return label_of(i, self._label)

  def about(self) -> str:
    return f'version {VERSION}, seed {self._seed}, {self._options}'

  def open(self, i: int, *, vectors: bool = False) -> Frames:
    clip = render(self._seed, i, **self._options)
    if vectors:  # Only an encoded video has them.
      return Video(encode(clip, rate=RATE), vectors=True)
    return ArrayVideo(clip, rate=float(RATE))


def named_source(spec: str) -> SyntheticSource:
  """The source of a name, such as `train` or `val,label=look,size=32`.

  Raises:
    UserError: there is none of this name.
  """
  split, *options = spec.split(',')
  if split not in CLIPS:
    raise UserError(f"'synthetic:{spec}': the splits are synthetic:train and synthetic:val.")
  kinds = {'label': str, 'clips': int, 'seed': int} | {k: type(x) for k, (x, _) in OPTIONS.items()}
  values = {}
  for name, _, value in (option.partition('=') for option in options):
    try:
      values[name] = lookup(kinds, name, f'synthetic:{spec}')(value)
    except ValueError:
      raise UserError(f'synthetic:{spec}: {name} is {value!r}: give a number.') from None
  return SyntheticSource(split, **values)
