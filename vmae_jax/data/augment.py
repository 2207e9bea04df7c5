"""RandAugment: random operations, the same for all frames of a clip.

As in VideoMAE's fine-tuning (timm's `rand-m7-n4-mstd0.5-inc1`): operations are drawn with
replacement from 15, and each is applied with probability one half. A larger strength changes the
picture more. Resampling is bicubic; areas from outside the picture become grey.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from vmae_jax.types import UInt8

Operation = Callable[[Image.Image, float], Image.Image]
GREY = (128, 128, 128)
MAX_MAGNITUDE = 10.0


def _affine(image: Image.Image, matrix: tuple[int | float, ...]) -> Image.Image:
  return image.transform(
    image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY
  )


def _enhance(kind) -> Operation:
  """Enhances by a factor around 1, which is 0.1 or 1.9 at full strength."""
  return lambda image, x: kind(image).enhance(max(0.1, 1 + 0.9 * x))


def _solarize_add(image: Image.Image, x: float) -> Image.Image:
  add = min(128, int(110 * abs(x)))
  table = [min(255, i + add) if i < 128 else i for i in range(256)]
  return image.point(table * 3)


# Name -> (image, strength) -> image; the strength lies in [-1, 1] and its sign is random.
# Operations without a direction use its absolute value or ignore it.
OPERATIONS: dict[str, Operation] = {
  'auto_contrast': lambda image, x: ImageOps.autocontrast(image),
  'equalize': lambda image, x: ImageOps.equalize(image),
  'invert': lambda image, x: ImageOps.invert(image),
  'rotate': lambda image, x: image.rotate(30 * x, Image.Resampling.BICUBIC, fillcolor=GREY),
  'posterize': lambda image, x: ImageOps.posterize(image, max(1, 4 - int(4 * abs(x)))),
  'solarize': lambda image, x: ImageOps.solarize(image, 256 - int(256 * abs(x))),
  'solarize_add': _solarize_add,
  'color': _enhance(ImageEnhance.Color),
  'contrast': _enhance(ImageEnhance.Contrast),
  'brightness': _enhance(ImageEnhance.Brightness),
  'sharpness': _enhance(ImageEnhance.Sharpness),
  'shear_x': lambda image, x: _affine(image, (1, 0.3 * x, 0, 0, 1, 0)),
  'shear_y': lambda image, x: _affine(image, (1, 0, 0, 0.3 * x, 1, 0)),
  'translate_x': lambda image, x: _affine(image, (1, 0, 0.45 * x * image.width, 0, 1, 0)),
  'translate_y': lambda image, x: _affine(image, (1, 0, 0, 0, 1, 0.45 * x * image.height)),
}


@dataclass(frozen=True)
class RandAugment:
  """Draws the operations of a clip."""

  operations: int  # How many are drawn.
  magnitude: float  # Mean strength, from 0 to 10.
  deviation: float  # Of the strength, which is drawn for each operation.
  chance: float  # That a drawn operation is applied.

  def draw(self, rng: np.random.Generator) -> list[tuple[str, float]]:
    """The operations of one clip and their strengths in [-1, 1]."""
    names = list(OPERATIONS)
    drawn = []
    for _ in range(self.operations):
      name = names[rng.integers(len(names))]
      magnitude = float(np.clip(rng.normal(self.magnitude, self.deviation), 0, MAX_MAGNITUDE))
      strength = magnitude / MAX_MAGNITUDE * (1 if rng.random() < 0.5 else -1)
      if rng.random() < self.chance:
        drawn.append((name, strength))
    return drawn


def apply(
  drawn: list[tuple[str, float]], frame: UInt8[np.ndarray, 'H W 3']
) -> UInt8[np.ndarray, 'H W 3']:
  """Applies what `RandAugment.draw` has drawn to a frame, RGB in [0, 255]."""
  if not drawn:
    return frame
  image = Image.fromarray(frame)
  for name, strength in drawn:
    image = OPERATIONS[name](image, strength)
  return np.asarray(image)
