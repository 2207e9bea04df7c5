"""Videos written on the fly, for the tests of this folder."""

import io
from fractions import Fraction

import av
import numpy as np

from vmae_jax.data.sources import Entry, FileSource


def write_video(
  path,
  *,
  frames=30,
  height=48,
  width=64,
  codec='libx264',
  pix_fmt='yuv420p',
  options=None,
  container_options=None,
  times=None,
  rotation=0,
  mirror=(False, False),
  colour=None,
  title='',
  noise=0,
):
  """Writes a clip of moving colour gradients in which no two frames are alike.

  Args:
    times: Time stamps in thousandths of a second; by default 25 frames a second from 0.
    rotation: Degrees counterclockwise of the display matrix.
    mirror: Left and right, top and bottom, after that.
    colour: (colorspace, color_range) of the stream.
    title: A text in the file.
    noise: Its largest value, which is added.
  """
  y, x = np.mgrid[:height, :width]
  rng = np.random.default_rng(0)
  with av.open(str(path), 'w', options=container_options or {}) as container:
    container.metadata['title'] = title
    stream = container.add_stream(codec, rate=25, options=options or {})
    stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
    stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
    if codec == 'mpeg4':
      stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
    if rotation or any(mirror):
      stream.set_display_rotation(rotation, *mirror)
    if colour:
      stream.codec_context.colorspace, stream.codec_context.color_range = colour
    for t in range(frames):
      rgb = np.stack([x * 3 + t * 7, y * 4 + t * 5, (x + y) * 2 + t * 11], -1)
      rgb = (rgb + rng.integers(0, noise + 1, rgb.shape)) % 256
      frame = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format='rgb24')
      if colour:
        frame = frame.reformat(format=pix_fmt, dst_colorspace=colour[0], dst_color_range=colour[1])
      frame.time_base = stream.codec_context.time_base
      frame.pts = times[t] if times else t * (1 if codec == 'mpeg4' else 40)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return str(path)


def decode_all(file):
  """Every frame of a file or its bytes, one after the other, the plain way."""
  with av.open(io.BytesIO(file) if isinstance(file, bytes) else str(file)) as container:
    frames = list(container.decode(video=0))
    return [np.rot90(f.to_ndarray(format='rgb24'), f.rotation // 90) for f in frames]


def some_broken(folder):
  """A source of six videos, of which the third is broken and the fifth is not there."""
  paths = [write_video(folder / f'{i}.mp4', frames=20 + i) for i in range(6)]
  (folder / 'broken.mp4').write_bytes(b'no video')
  paths[2] = str(folder / 'broken.mp4')
  paths[4] = str(folder / 'missing.mp4')
  return FileSource(tuple(Entry(path, label=i) for i, path in enumerate(paths)))
