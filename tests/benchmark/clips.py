"""Videos to measure with where none are given: moving textures, like Kinetics at 340 x 256."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from vmae_jax.types import Float, UInt8

HEIGHT, WIDTH, RATE = 256, 340, 30
GOPS = (250, 30)  # Most frames from one keyframe to the next: x264's default, and a short one.
# x264's own settings otherwise (B-frames, three reference frames), as most clips are made.
ENCODING = {'crf': '23', 'threads': '1'}
_GRAIN = 2.0  # Standard deviation of the noise that a camera adds, so that bits are spent on it.


def make_clips(folder: Path, *, gop: int, count: int = 2, frames: int = 10 * RATE) -> list[str]:
  """Encodes clips with H.264, which takes seconds each; returns their paths."""
  paths = [folder / f'gop{gop}_{i}.mp4' for i in range(count)]
  for seed, path in enumerate(paths):
    _write(path, _moving_texture(frames, seed=seed), gop)
  return [str(path) for path in paths]


def _write(path: Path, video: UInt8[np.ndarray, 'T H W 3'], gop: int) -> None:
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=RATE, options=ENCODING | {'g': str(gop)})
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    stream.time_base = stream.codec_context.time_base = Fraction(1, RATE)
    for image in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
    container.mux(stream.encode())


def _texture(rng: np.random.Generator, size: int) -> Float[np.ndarray, 'S S 3']:
  """Noise of every scale that repeats at its edges, in [0, 255]."""
  total = np.zeros((size, size, 3))
  for cells in (4, 8, 16, 32, 64, 128):
    noise = np.pad(rng.normal(size=(cells, cells, 3)), ((1, 1), (1, 1), (0, 0)), mode='wrap')
    edge = size // cells  # One cell, which the padding adds on each side.
    whole = (size + 2 * edge, size + 2 * edge)
    for c in range(3):
      layer = Image.fromarray(noise[..., c].astype(np.float32))
      layer = np.asarray(layer.resize(whole, Image.Resampling.BICUBIC))
      total[..., c] += layer[edge : edge + size, edge : edge + size] / cells**0.5
  return np.clip(128 + 60 * total / total.std(), 0, 255)


def _moving_texture(frames: int, *, seed: int) -> UInt8[np.ndarray, 'T H W 3']:
  """A disc with a texture of its own that circles before a moving background."""
  rng = np.random.default_rng(seed)
  background, sprite = _texture(rng, 512), _texture(rng, 512)
  velocity = rng.uniform(2, 4, 2)  # Pixels a frame: neighbouring frames differ everywhere.
  y, x = np.mgrid[:HEIGHT, :WIDTH]
  video = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
  for t in range(frames):
    dy, dx = (velocity * t).round().astype(int)
    image = background[(y + dy) % 512, (x + dx) % 512]
    cy, cx = HEIGHT / 2 + 70 * np.sin(t / 15), WIDTH / 2 + 100 * np.cos(t / 15)
    disc = (y - cy) ** 2 + (x - cx) ** 2 < 50**2
    image[disc] = sprite[(y - round(cy)) % 512, (x - round(cx)) % 512][disc]
    image += rng.normal(0, _GRAIN, (HEIGHT, WIDTH, 1))
    video[t] = np.clip(image, 0, 255).astype(np.uint8)
  return video
