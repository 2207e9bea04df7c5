"""From a video file to the bytes that a shard keeps: re-encoded for fast random reading, or as is.

What makes clips cheap to read: few pixels (a short side of 320 or 256), keyframes close to each
other, so that decoding starts near every frame, H.264 without the two parts that cost a decoder
most (arithmetic coding and the deblocking filter, for which x264 spends about a tenth more bits
at the same quality), and frames that may be left out: three of four are B-frames that no other
frame refers to, so a clip of every fourth frame needs half of what lies between.
"""

import hashlib
import io
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from vmae_jax import storage
from vmae_jax.data.frame_folder import FrameFolder, open_video
from vmae_jax.data.video import Video, VideoError

B_FRAMES = 3


@dataclass(frozen=True, kw_only=True)
class Encoding:
  """How videos are encoded.

  Attributes:
    short_side: Pixels of the shorter side; smaller videos keep their size.
    gop: Most frames from one keyframe to the next.
    crf: Constant quality of x264: lower is better and larger.
  """

  short_side: int = 320
  gop: int = 12
  crf: int = 20


@dataclass(frozen=True, kw_only=True)
class Encoded:
  """One video as a shard keeps it.

  Attributes:
    data: The bytes of a video file.
    frames: How many it has.
    rate: Average frames a second of the original, 0.0 if it does not say.
    width: As displayed.
    height: As displayed.
  """

  data: bytes
  frames: int
  rate: float
  width: int
  height: int

  @property
  def sha256(self) -> str:
    """Of the data."""
    return hashlib.sha256(self.data).hexdigest()


def encode_video(path: str, encoding: Encoding | None) -> Encoded:
  """Reads a video completely and encodes it anew.

  The same video gives the same bytes, wherever and whenever this is done with the same PyAV.

  Args:
    path: The file, here or elsewhere, or, where it ends in /, a folder of frames.
    encoding: None keeps the file's own bytes, after all of its frames were decoded once.

  Raises:
    VideoError: some frame does not decode, or the video cannot be encoded.
  """
  with open_video(path) as video:
    if encoding is None:
      if isinstance(video, FrameFolder):
        raise VideoError('frames in a folder are no file whose bytes could be kept')
      video.check()
      data = storage.read(path)
    else:
      try:
        data = _encode(video, encoding)
      except (av.FFmpegError, ValueError, OverflowError) as e:
        raise VideoError(f'cannot be encoded: {" ".join(str(e).split())}') from e
    with Video(io.BytesIO(data)) as encoded:
      if encoded.num_frames != video.num_frames:
        raise VideoError(f'{video.num_frames} frames became {encoded.num_frames}')
      return Encoded(
        data=data,
        frames=video.num_frames,
        rate=video.rate,
        width=encoded.width,
        height=encoded.height,
      )


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
  """Width and height with this shorter side, even as 4:2:0 wants them; nothing is enlarged."""
  scale = min(1.0, short_side / min(width, height))
  if scale == 1.0:
    return max(2, width // 2 * 2), max(2, height // 2 * 2)
  return round(width * scale / 2) * 2, round(height * scale / 2) * 2


def _encode(video: Video | FrameFolder, encoding: Encoding) -> bytes:
  """An MP4 file with every frame of the video, at its own time and turned as it was; no sound."""
  out = io.BytesIO()
  converter = VideoReformatter()
  options = {
    'preset': 'medium',
    'tune': 'fastdecode',
    'crf': str(encoding.crf),
    'g': str(encoding.gop),
    'bf': str(B_FRAMES),
    'b_strategy': '0',  # Always so many.
    # mbtree gives other bytes every few times, where there are B-frames.
    'x264-params': 'b-pyramid=none:mbtree=0',
  }
  # `bitexact` leaves out what the muxer would say of itself: the picture decides the bytes.
  with av.open(out, 'w', format='mp4', options={'fflags': '+bitexact'}) as container:
    stream, first, last = None, 0, -1
    for frame in video.decode():
      if stream is None:
        rate = Fraction(video.rate or 25).limit_denominator(100_000)
        stream = container.add_stream('libx264', rate=rate, options=options)
        stream.width, stream.height = scaled_size(frame.width, frame.height, encoding.short_side)
        stream.pix_fmt = 'yuv420p'
        stream.time_base = stream.codec_context.time_base = video.time_base
        stream.codec_context.thread_count = 1  # The bytes depend on it.
        if frame.rotation:
          stream.set_display_rotation(frame.rotation)
        step = max(1, round(1 / (rate * video.time_base)))
        first = frame.pts or 0
      image = converter.reformat(
        frame,
        width=stream.width,
        height=stream.height,
        format='yuv420p',
        interpolation=Interpolation.AREA,
        threads=1,
      )
      if last < 0:  # Matrix and range of the colours stay what they were.
        stream.codec_context.colorspace = image.colorspace
        stream.codec_context.color_range = image.color_range
      # Where time stamps are missing or run back, the video's rate counts on.
      time = None if frame.pts is None else frame.pts - first
      last = time if time is not None and time > last else last + step
      image.pts, image.time_base = last, video.time_base
      image.pict_type = PictureType.NONE  # Else x264 would do what the first encoder did.
      container.mux(stream.encode(image))
    container.mux(stream.encode(None))
  return out.getvalue()
