"""From a video file to the bytes that a shard keeps: re-encoded for fast random reading, or as is.

Clips are cheap to read because of few pixels (a short side of 320 or 256); keyframes close to each
other, so that decoding starts near every frame; H.264 without the two parts that cost a decoder
most (arithmetic coding and the deblocking filter, without which x264 spends about a tenth more
bits at the same quality); and frames that may be skipped: three of four are B-frames that no other
frame refers to, so a clip of every fourth frame decodes half of the frames between.
"""

import contextlib
import hashlib
import io
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from vmae_jax import storage
from vmae_jax.data.frame_folder import FrameFolder, open_video
from vmae_jax.data.frames import display_matrix, libav_errors, open_stream
from vmae_jax.data.video import Video
from vmae_jax.errors import VideoError

B_FRAMES = 3


@dataclass(frozen=True, kw_only=True)
class Encoding:
  """How videos are encoded."""

  short_side: int = 320  # Pixels of the shorter side; smaller videos keep their size.
  gop: int = 12  # Most frames from one keyframe to the next.
  crf: int = 20  # Constant quality of x264: lower is better and larger.


@dataclass(frozen=True, kw_only=True)
class Encoded:
  """One video as a shard keeps it."""

  data: bytes  # The video file.
  frames: int
  rate: float  # Average frames per second of the original, 0.0 if unknown.
  width: int  # As displayed.
  height: int

  @property
  def sha256(self) -> str:
    """Of the data."""
    return hashlib.sha256(self.data).hexdigest()


def encode_video(path: str, encoding: Encoding | None) -> Encoded:
  """Reads a video completely and re-encodes it.

  The same video gives the same bytes on every machine with the same PyAV.

  Args:
    path: The file, local or in a bucket; if it ends in /, a folder of frames.
    encoding: None keeps the file's own bytes, after all of its frames were decoded once.

  Raises:
    VideoError: some frame does not decode, or the video cannot be encoded.
  """
  with open_video(path) as video:
    if encoding is not None:
      return _encode(_timed(video), video, encoding)
    if isinstance(video, FrameFolder):
      raise VideoError('a folder of frames has no file whose bytes can be kept')
    video.check()
    return _described(storage.read(path), video, video.num_frames)


def cut_film(
  path: str,
  encoding: Encoding,
  *,
  seconds: float,
  done: Callable[[int], bool] = lambda number: False,
) -> Iterator[Encoded | None]:
  """Encodes a film, in one pass, as clips that together hold each of its frames once, in order.

  Only one clip is held at a time.

  Args:
    path: As that of `encode_video`.
    encoding: How.
    seconds: The length of a clip. The last one has what is left, maybe one frame. If no frame of
      the film lies in a clip's time, there is no such clip.
    done: Whether the clip of a number, from 0, need not be encoded.

  Yields:
    Each clip, None for those that are done.

  Raises:
    VideoError: as `encode_video`, also after some clips.
  """
  with contextlib.closing(FrameFolder(path) if path.endswith('/') else _Film(path)) as film:
    length = Fraction(seconds) / film.time_base
    clips = itertools.groupby(_timed(film), key=lambda timed: timed[0] // length)
    for number, (_, frames) in enumerate(clips):
      if done(number):
        deque(frames, maxlen=0)
        yield None
      else:
        yield _encode(frames, film, encoding)


class _Film:
  """A video file that is decoded while it is read, with a part of the interface of `Video`."""

  def __init__(self, path: str):
    self._container, stream = open_stream(storage.stream(path))
    stream.codec_context.thread_count = 1
    self._stream = stream
    self.rate = float(stream.average_rate or stream.guessed_rate or 0)
    self.time_base = stream.time_base

  def decode(self) -> Iterator[av.VideoFrame]:
    """As `Video.decode`, but a truncated file is only found at its end."""
    count = 0
    with libav_errors():
      for frame in self._decode():
        if frame.is_corrupt:
          raise VideoError(f'frame {count} is damaged')
        count += 1
        yield frame
    if not count:
      raise VideoError('no frames')

  def _decode(self) -> Iterator[av.VideoFrame]:
    packets, last = 0, None
    for packet in self._container.demux(self._stream):
      if packet.size:  # An empty packet would tell the decoder that the stream has ended.
        packets, last = packets + 1, packet
        yield from self._stream.codec_context.decode(packet)
    yield from self._stream.codec_context.decode(None)
    if packets < (whole := len(self._stream.index_entries)):
      raise VideoError(f'truncated: {packets} of {whole} frames are in the file')
    if last is not None and last.is_corrupt:
      raise VideoError('truncated: the last frame is not whole')

  def close(self) -> None:
    self._container.close()


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
  """Width and height with this shorter side, even as 4:2:0 needs them; nothing is enlarged."""
  scale = min(1.0, short_side / min(width, height))
  if scale == 1.0:
    return max(2, width // 2 * 2), max(2, height // 2 * 2)
  return round(width * scale / 2) * 2, round(height * scale / 2) * 2


def _timed(video: Video | FrameFolder | _Film) -> Iterator[tuple[int, av.VideoFrame]]:
  """Every frame with its time, which grows from 0.

  Where a time stamp is missing or does not grow, one frame's time at the video's rate is added.
  """
  step = max(1, round(1 / (_rate(video) * video.time_base)))
  first, last = 0, -1
  for frame in video.decode():
    if last < 0:
      first = frame.pts or 0
    time = None if frame.pts is None else frame.pts - first
    last = time if time is not None and time > last else last + step
    yield last, frame


def _rate(video: Video | FrameFolder | _Film) -> Fraction:
  return Fraction(video.rate or 25).limit_denominator(100_000)


def _encode(
  frames: Iterable[tuple[int, av.VideoFrame]],
  video: Video | FrameFolder | _Film,
  encoding: Encoding,
) -> Encoded:
  """An MP4 file of these frames, at least one, with their display matrix and without sound.

  Times count from that of the first frame.
  """
  out = io.BytesIO()
  converter = VideoReformatter()
  options = {
    'preset': 'medium',
    'tune': 'fastdecode',
    'crf': str(encoding.crf),
    'g': str(encoding.gop),
    'bf': str(B_FRAMES),
    'b_strategy': '0',  # Always so many.
    # With B-frames, mbtree gives other bytes every few times.
    'x264-params': 'b-pyramid=none:mbtree=0',
  }
  stream, first, count = None, 0, 0
  try:
    # `bitexact` leaves out the muxer's version: bytes depend on the frames alone.
    with av.open(out, 'w', format='mp4', options={'fflags': '+bitexact'}) as container:
      for count, (time, frame) in enumerate(frames, 1):
        if stream is None:
          first = time
          stream = container.add_stream('libx264', rate=_rate(video), options=options)
          stream.width, stream.height = scaled_size(frame.width, frame.height, encoding.short_side)
          stream.pix_fmt = 'yuv420p'
          stream.time_base = stream.codec_context.time_base = video.time_base
          stream.codec_context.thread_count = 1  # The bytes depend on it.
          if (shown := display_matrix(frame)) is not None:
            stream.set_display_matrix(shown.ravel())
        image = converter.reformat(
          frame,
          width=stream.width,
          height=stream.height,
          format='yuv420p',
          interpolation=Interpolation.AREA,
          threads=1,
        )
        if count == 1:  # Keeps the matrix and range of the colours.
          stream.codec_context.colorspace = image.colorspace
          stream.codec_context.color_range = image.color_range
        image.pts, image.time_base = time - first, video.time_base
        image.pict_type = PictureType.NONE  # Else x264 would reuse the types of the original.
        container.mux(stream.encode(image))
      container.mux(stream.encode(None))
  except (av.FFmpegError, ValueError, OverflowError) as e:
    raise VideoError(f'cannot be encoded: {" ".join(str(e).split())}') from e
  return _described(out.getvalue(), video, count)


def _described(data: bytes, video: Video | FrameFolder | _Film, frames: int) -> Encoded:
  """Reads the encoded file's size and checks that it has so many frames."""
  with Video(io.BytesIO(data)) as encoded:
    if encoded.num_frames != frames:
      raise VideoError(f'{frames} frames became {encoded.num_frames}')
    return Encoded(
      data=data, frames=frames, rate=video.rate, width=encoded.width, height=encoded.height
    )
