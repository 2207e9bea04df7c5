"""Exact, cheap reading of single frames out of a video file, with PyAV.

All packets of the video stream are read first, without decoding (1 to 2 ms for ten seconds):
their time stamps say which frames there are and in which order they are shown, and their
flags say where decoding can start. A read then decodes from the keyframe before each wanted
frame to that frame and nothing more, skips unwanted frames that no other frame needs, and
converts the colours of wanted frames only. It never seeks, so it cannot land at a wrong frame.

A decoder gives frames in the order of display. If time stamps contradict that, or a packet is
wrongly marked as a keyframe, frames are counted from the start instead, which is slower. That is
so for H.264 with B-frames in AVI, WMV and MXF, which store no display times, or copied from
these, for intra refresh, and for VP8.

An open video holds its compressed packets in memory, a few MB for a clip of ten seconds, and at
most LARGEST bytes. Cut films into clips before training on them.
"""

import bisect
import contextlib
import functools
import io
import os
from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorTrc, VideoReformatter

from vmae_jax.data.frames import (
  Frame,
  Frames,
  digest,
  libav_errors,
  libav_log,
  open_stream,
  orient,
  orientation,
)
from vmae_jax.errors import VideoError
from vmae_jax.motion.codec import Blocks, block_motion, reference_gaps

# Bytes of packets: as many for each of a hundred threads fit into the memory of a training host.
LARGEST = 2**29

# The picture types of keyframes; codecs without such types say NONE.
_WHOLE_PICTURES = (PictureType.NONE, PictureType.I, PictureType.SI)
_HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


class _Doubt(Exception):
  """The packets' times or flags are not reliable: frames have to be counted."""


class Video(Frames):
  """A video file, or its bytes; `vectors` says whether the codec's motion is wanted.

  Raises:
    VideoError: the file is missing, is no video, is truncated, or is larger than LARGEST.
  """

  time_base: Fraction  # Seconds that one step of the frames' time stamps lasts.
  vectors: dict[int, Blocks]  # As shown; empty if the codec reorders frames and they are counted.

  def __init__(self, file: str | os.PathLike | io.IOBase, *, vectors: bool = False):
    self._with_vectors = vectors
    self._container, self._stream = open_stream(file)
    self._context = self._stream.codec_context
    try:
      with libav_errors():
        self._read_packets()
    except BaseException:
      self.close()
      raise

  def _read_packets(self) -> None:
    container, stream = self._container, self._stream
    self._converter = VideoReformatter()
    self.rate = float(stream.average_rate or stream.guessed_rate or 0)
    self.time_base = stream.time_base

    self._packets, size = [], 0
    for packet in container.demux(stream):
      if packet.size:  # An empty packet would tell the decoder that the stream has ended.
        self._packets.append(packet)
        size += packet.size
        if size > LARGEST:
          raise VideoError(
            f'larger than {LARGEST >> 20} MB: cut it into clips with python -m vmae_jax.prepare '
            '... --cut=SECONDS'
          )
    if not self._packets:
      raise VideoError('no frames')
    if len(self._packets) < len(stream.index_entries):
      whole = len(stream.index_entries)
      raise VideoError(f'truncated: {len(self._packets)} of {whole} frames are in the file')
    if self._packets[-1].is_corrupt:
      raise VideoError('truncated: the last frame is not whole')
    self._open_decoder()

    times = [packet.pts for packet in self._packets]
    self._indexed = (
      self.codec != 'vp8'  # Some of its packets are invisible frames.
      and None not in times
      and len(set(times)) == len(times)
      and self._packets[0].is_keyframe
      and times[0] == min(times)
      # If the codec reorders frames but the times do not, these may be the times of decoding.
      and not (self._context.has_b_frames and times == sorted(times) and len(times) > 1)
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

  def _open_decoder(self) -> None:
    context = self._context
    # One thread a file: the loader reads many files at once. Frame threads would also decode
    # beyond the last wanted frame.
    context.thread_count = 1
    if any(packet.is_discard for packet in self._packets):
      # Hidden frames never come out of the decoder, so nobody sees their flag of damage.
      context.options |= {'err_detect': 'explode'}
    if self._with_vectors:
      context.options |= {'export_side_data': 'mvs'}
    context.open(strict=False)  # Now, as dav1d takes skip_frame only when it is opened.
    # The first packet of H.264 names the build of x264, whose faults the decoder makes up for.
    if self.codec == 'h264':
      context.skip_frame = 'ALL'
      with contextlib.suppress(av.FFmpegError):
        context.decode(self._packets[0])
      context.flush_buffers()

  @property
  def codec(self) -> str:
    """The codec's name in libav, such as h264."""
    return self._context.codec.canonical_name

  def images(self, wanted: list[int]) -> Iterator[tuple[int, Frame]]:
    """As `Frames.images`.

    Colours are converted as the stream's matrix and range say; pictures are turned and mirrored as
    the display matrix says. Pixels that are not square stay so, and fields stay interlaced.
    """
    self.vectors = {}
    if self._indexed:
      try:
        yield from self._decode_wanted(wanted)
        return
      except _Doubt:
        self.vectors = {}
    yield from self._decode_counting(wanted)

  def decode(self) -> Iterator[av.VideoFrame]:
    """Every frame in the order of display, as libav gives it: neither converted nor turned.

    Raises:
      VideoError: libav reports an error, a frame is damaged, or some are missing.
    """
    count = 0
    with libav_errors():
      for frame in self._decode(self._packets):
        if frame.is_corrupt:
          raise VideoError(f'frame {count} is damaged')
        count += 1
        yield frame
    if count != self.num_frames:
      raise VideoError(f'only {count} of {self.num_frames} frames decode')

  def check(self) -> list[str]:
    """Decodes every frame in order, and then, as `read` does, from each keyframe on.

    Returns:
      What may look wrong though all frames decode: fields, HDR, pixels that are not square, and
      errors that libav logs.

    Raises:
      VideoError: as `decode` does, or the two ways do not give the same frames.
    """
    groups = self._places()
    places = {i for group in groups for i in group}
    digests, odd = {}, set()
    with libav_log() as logged:
      for i, frame in enumerate(self.decode()):
        if i in places:
          digests[i] = digest(self._convert(frame))
        odd |= {'interlaced'} if frame.interlaced_frame else set()
        odd |= {'HDR colours'} if frame.color_trc in _HDR else set()
    for group in groups:
      for i, again in zip(group, self.read(group, shrink=digest), strict=True):
        if (again != digests[i]).any():
          raise VideoError(f'frame {i} differs when decoding starts at a keyframe')
    shape = float(self._stream.sample_aspect_ratio or 1)
    if abs(shape - 1) > 0.02:
      odd.add(f'pixels {shape:.3g} times as wide as high')
    return [*sorted(odd), *logged[:2]]

  def _places(self) -> list[list[int]]:
    """The frames farthest from each keyframe: reading them decodes all that follows it."""
    if not self._indexed:
      return []
    frame = np.full(len(self._packets), -1)  # Packet -> frame.
    frame[self._shown] = np.arange(self.num_frames)
    latest = np.maximum.accumulate(frame)
    groups = []
    for end in (*self._keys[1:], len(frame)):
      # The last one shown, the last one stored, and one that may need both keyframes around it.
      ends = {latest[end - 1], frame[end - 1], *frame[end + 1 : end + 2]} - {-1}
      groups += [sorted(map(int, ends))] if ends else []
    return groups

  def _decode_wanted(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """As `images`; raises _Doubt if frames do not come out as the packets say."""
    packets = self._packets
    spans = []
    for last in (self._shown[i] for i in wanted):
      # A frame shown before a keyframe may follow it in the stream, but needs the one before.
      keys = reversed(self._keys[: bisect.bisect_right(self._keys, last)])
      spans.append((next(k for k in keys if packets[k].pts <= packets[last].pts), last))
    runs: list[list[int]] = []  # First and last packet of each part that has to be decoded.
    for first, last in sorted(spans):
      if runs and first <= runs[-1][1] + 1:
        runs[-1][1] = max(runs[-1][1], last)
      else:
        runs.append([first, last])
    frame_at = {packets[self._shown[i]].pts: i for i in wanted}
    with libav_errors():
      for first, last in runs:
        start, before = packets[first], None
        needed = {start.pts, *frame_at}
        for frame in self._decode(packets[first : last + 1], needed):
          if frame.is_corrupt or frame.pts is None:
            raise _Doubt  # Frames predicted from it are not marked, and may be shown before it.
          if frame.pts < start.pts:
            continue  # It needs what lies before the keyframe.
          if before is None and not start.is_discard:
            if frame.pts != start.pts or frame.pict_type not in _WHOLE_PICTURES:
              raise _Doubt  # No keyframe.
          elif before is not None and frame.pts <= before:
            raise _Doubt  # These times are not those of display.
          before = frame.pts
          if before in frame_at:
            yield self._take(frame_at.pop(before), frame)
    if frame_at:
      raise _Doubt

  def _decode_counting(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """As `images`, by decoding and counting all frames from the start."""
    for i, frame in enumerate(self.decode()):
      if i in wanted:
        yield self._take(i, frame, counted=True)
      # All frames were counted at opening. Damage to one may show in up to 16 frames before it.
      if i == wanted[-1] + 16 and not self._indexed:
        return

  def _decode(
    self, packets: Sequence[av.Packet], needed: Collection[int] | None = None
  ) -> Iterator[av.VideoFrame]:
    """Decodes a run of packets that starts at a keyframe.

    Args:
      packets: In the order of the stream.
      needed: Time stamps of the frames that must come out; None means all. Others are skipped if
        no frame refers to them.
    """
    context = self._context
    try:
      for packet in packets:
        context.skip_frame = 'DEFAULT' if needed is None or packet.pts in needed else 'NONREF'
        yield from context.decode(packet)
      yield from context.decode(None)  # What the decoder still holds back.
    finally:
      context.flush_buffers()

  @functools.cached_property
  def _gaps(self) -> list[tuple[int, int]]:
    return reference_gaps(self._packets, self._context, timed=self._indexed)

  def _take(self, i: int, frame: av.VideoFrame, *, counted: bool = False) -> tuple[int, np.ndarray]:
    ordered = not self._context.has_b_frames and self.num_frames == len(self._packets)
    if self._with_vectors and (ordered or not counted):
      blocks = block_motion(frame, self._gaps[i if counted else self._shown[i]], codec=self.codec)
      self.vectors[i] = blocks.turned((frame.height, frame.width), *orientation(frame))
    return i, self._convert(frame)

  def _convert(self, frame: av.VideoFrame) -> Frame:
    # One converter a file, as making one costs more than using it.
    rgb = self._converter.reformat(frame, format='rgb24', threads=1)
    plane = rgb.planes[0]
    shape, strides = (rgb.height, rgb.width, 3), (plane.line_size, 3, 1)
    return orient(np.ndarray(shape, np.uint8, buffer=plane, strides=strides), frame)

  def close(self) -> None:
    """Frees the file and its packets."""
    self._packets = []
    self._container.close()
