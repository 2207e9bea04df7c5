"""Exact, cheap reading of single frames out of a video file, with PyAV.

All packets of the video stream are read first, without decoding (1 to 2 ms for ten seconds):
their time stamps say which frames there are and in which order they are shown, and their
flags say where decoding can start. A read then decodes from the keyframe before each wanted
frame to that frame and nothing more, leaves out unwanted frames that no other frame needs,
and converts the colours of wanted frames only. Nothing seeks, so nothing can land wrongly.

An open video holds its compressed packets in memory, a few MB for a clip of ten seconds. Cut
films into clips before training on them.
"""

import bisect
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
from av.stream import Discard
from av.video.reformatter import VideoReformatter

from vmae_jax.types import Int, UInt8

# A title in another encoding than UTF-8 is no reason not to read a video: PyAV before 19 has to
# be told, later ones know.
OPTIONS = {'metadata_errors': 'ignore'} if int(av.__version__.partition('.')[0]) < 19 else {}

# What becomes of a frame before it is kept, such as a part of it at another size.
Shrink = Callable[[UInt8[np.ndarray, 'H W 3']], UInt8[np.ndarray, 'h w 3']]


class VideoError(Exception):
  """A video that cannot be read; the message is the reason, in one line, without the path."""


@contextmanager
def libav_errors() -> Iterator[None]:
  """Turns whatever a damaged file makes PyAV raise into a VideoError."""
  try:
    yield
  except (av.FFmpegError, ValueError, OverflowError, MemoryError) as e:
    text = getattr(e, 'strerror', None) or str(e) or type(e).__name__
    raise VideoError(' '.join(text.split())) from e


def _orient(image: UInt8[np.ndarray, 'H W 3'], degrees: int) -> UInt8[np.ndarray, '... 3']:
  """Turns an image counterclockwise by the rotation of its display matrix."""
  return np.rot90(image, round(degrees / 90)) if degrees else image


class Clip:
  """Frames that are put together one by one, in one array.

  Args:
    indices: The video's frames that it consists of.
    shrink: What becomes of each; None keeps it.
  """

  frames: UInt8[np.ndarray, 'T H W 3']

  def __init__(self, indices: Sequence[int] | Int[np.ndarray, ' T'], shrink: Shrink | None):
    self._indices = np.asarray(indices)
    self._shrink = shrink
    self._missing = set(self._indices.tolist())
    self._shape = None

  @property
  def full(self) -> bool:
    return not self._missing

  def fill(self, images: Iterable[tuple[int, UInt8[np.ndarray, 'H W 3']]]) -> None:
    """Takes frames with their indices, in any order.

    Raises:
      VideoError: frames are not all of one size.
    """
    for i, image in images:
      if image.shape != (self._shape or image.shape):
        raise VideoError('frames are not all of one size')
      image, self._shape = image if self._shrink is None else self._shrink(image), image.shape
      if not hasattr(self, 'frames'):
        self.frames = np.empty((len(self._indices), *image.shape), np.uint8)
      self.frames[self._indices == i] = image
      self._missing.discard(i)


class Video:
  """A video file, or its bytes, whose frames are read by their index in the order of display.

  Attributes:
    num_frames: Frames that a player would show.
    rate: Average frames per second; 0.0 if the file does not say.
    time_base: Seconds that one step of the frames' time stamps lasts.

  Raises:
    VideoError: the file is missing, is no video, or is truncated.
  """

  num_frames: int
  rate: float
  time_base: Fraction

  def __init__(self, file: str | os.PathLike | io.BytesIO):
    if not isinstance(file, io.BytesIO):
      file = os.fspath(file)
      if not os.path.isfile(file):  # A pipe or a device could block for ever.
        raise VideoError('file is missing' if not os.path.exists(file) else 'not a file')
      if os.path.getsize(file) == 0:
        raise VideoError('empty file')
    with libav_errors():
      self._container = av.open(file, **OPTIONS)
    try:
      with libav_errors():
        self._read_packets()
    except BaseException:
      self.close()
      raise

  def _read_packets(self) -> None:
    container = self._container
    stream = container.streams.best('video')
    if stream is None:
      raise VideoError('no video stream')
    if stream.codec_context is None:
      raise VideoError('no decoder for its video stream')
    for other in container.streams:
      if other is not stream:
        other.discard = Discard.all
    self._context = stream.codec_context
    # One thread a file: the loader reads many files at once. Frame threads would also decode
    # beyond the last wanted frame.
    self._context.thread_count = 1
    self._context.open(strict=False)  # Now, as dav1d takes skip_frame only when it is opened.
    self._converter = VideoReformatter()
    self.rate = float(stream.average_rate or stream.guessed_rate or 0)
    self.time_base = stream.time_base

    # Empty packets would tell the decoder that the stream has ended.
    self._packets = [packet for packet in container.demux(stream) if packet.size]
    if not self._packets:
      raise VideoError('no frames')
    if len(self._packets) < len(stream.index_entries) or self._packets[-1].is_corrupt:
      whole = max(len(stream.index_entries), len(self._packets))
      raise VideoError(f'truncated: {len(self._packets)} of {whole} frames are in the file')

    times = [packet.pts for packet in self._packets]
    self._indexed = (
      self.codec != 'vp8'  # Some of its packets are invisible frames.
      and None not in times
      and len(set(times)) == len(times)
      and self._packets[0].is_keyframe
      and times[0] == min(times)
    )
    if self._indexed:
      shown = [i for i, packet in enumerate(self._packets) if not packet.is_discard]
      self._shown = sorted(shown, key=times.__getitem__)  # Frame -> packet.
      self._keys = [i for i, packet in enumerate(self._packets) if packet.is_keyframe]
      self.num_frames = len(self._shown)
    else:
      self.num_frames = sum(1 for _ in self._decode(self._packets))
    if not self.num_frames:
      raise VideoError('no frames')

  @property
  def height(self) -> int:
    """Height as displayed, after rotation."""
    return self.read([0]).shape[1]

  @property
  def width(self) -> int:
    """Width as displayed, after rotation."""
    return self.read([0]).shape[2]

  @property
  def codec(self) -> str:
    """The codec's name in libav, such as h264."""
    return self._context.codec.canonical_name

  def read(
    self, indices: Sequence[int] | Int[np.ndarray, ' T'], *, shrink: Shrink | None = None
  ) -> UInt8[np.ndarray, 'T H W 3']:
    """Returns the frames of these indices, in this order; an index may come repeatedly.

    Args:
      indices: Places in the order of display, in [0, num_frames).
      shrink: What becomes of each frame as soon as it is decoded, always of one size: only that
        is held. It gets the frames in any order.

    Returns:
      RGB in [0, 255], converted as the stream's colour matrix and range say, rotated as the
      display matrix says.

    Raises:
      VideoError: libav reports an error, or a wanted frame does not decode.
    """
    wanted = sorted({int(i) for i in indices})
    if not wanted or wanted[0] < 0 or wanted[-1] >= self.num_frames:
      raise IndexError(f'frames {wanted} of a video of {self.num_frames}')
    clip = Clip(indices, shrink)
    if self._indexed:
      clip.fill(self._decode_wanted(wanted))
    if not clip.full:
      # No usable time stamps, or a keyframe after which not all frames decode (intra refresh).
      clip.fill(self._decode_counting(wanted))
    return clip.frames

  def decode(self) -> Iterator[av.VideoFrame]:
    """Every frame in the order of display, as libav gives it: neither converted nor rotated.

    Raises:
      VideoError: libav reports an error, a frame is damaged, or some are missing.
    """
    count = 0
    frames = self._decode(self._packets)
    while True:
      with libav_errors():  # Not around the yield: the caller's errors are its own.
        frame = next(frames, None)
      if frame is None:
        break
      if frame.is_corrupt:
        raise VideoError(f'frame {count} is damaged')
      count += 1
      yield frame
    if count != self.num_frames:
      raise VideoError(f'only {count} of {self.num_frames} frames decode')

  def check(self) -> None:
    """Decodes every frame; raises a VideoError as `decode` does."""
    for _ in self.decode():
      pass

  def _decode_wanted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """As many of the wanted frames, each with its image, as decode from their keyframes."""
    packets = self._packets
    spans = []
    for last in (self._shown[i] for i in wanted):
      # A frame shown before a keyframe may follow it in the stream, but needs the one before.
      keys = reversed(self._keys[: bisect.bisect_right(self._keys, last)])
      spans.append((next(k for k in keys if packets[k].pts <= packets[last].pts), last))
    runs: list[list[int]] = []  # First and last packet of what has to be decoded.
    for first, last in sorted(spans):
      if runs and first <= runs[-1][1] + 1:
        runs[-1][1] = max(runs[-1][1], last)
      else:
        runs.append([first, last])
    frame_at = {packets[self._shown[i]].pts: i for i in wanted}
    with libav_errors():
      for first, last in runs:
        for frame in self._decode(packets[first : last + 1], frame_at):
          if frame.pts in frame_at:
            yield frame_at[frame.pts], self._convert(frame)

  def _decode_counting(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """All wanted frames, each with its image, found by decoding and counting from the start."""
    count = 0
    with libav_errors():
      for frame in self._decode(self._packets):
        if count in wanted:
          yield count, self._convert(frame)
        count += 1
        if count > wanted[-1] and not self._indexed:  # They were counted at opening.
          return
    if count != self.num_frames:
      raise VideoError(f'only {count} of {self.num_frames} frames decode')

  def _decode(self, packets, needed=None) -> Iterator[av.VideoFrame]:
    """Decodes a run of packets that starts at a keyframe.

    Args:
      packets: In the order of the stream.
      needed: Time stamps of the frames that must come out; None means all. Others may be left
        out where no other frame refers to them.
    """
    context = self._context
    try:
      for packet in packets:
        context.skip_frame = 'DEFAULT' if needed is None or packet.pts in needed else 'NONREF'
        yield from context.decode(packet)
      yield from context.decode(None)  # What the decoder still holds back.
    finally:
      context.flush_buffers()

  def _convert(self, frame: av.VideoFrame) -> UInt8[np.ndarray, 'H W 3']:
    if frame.is_corrupt:
      raise VideoError('a frame is damaged')
    # One converter a file, as making one costs more than using it.
    rgb = self._converter.reformat(frame, format='rgb24', threads=1)
    return _orient(rgb.to_ndarray(), frame.rotation)

  def close(self) -> None:
    """Frees the file and its packets."""
    self._packets = []
    self._container.close()

  def __enter__(self) -> 'Video':
    return self

  def __exit__(self, *_) -> None:
    self.close()
