"""What all videos share: opening files with libav, its errors, reading frames by their index."""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from vmae_jax.errors import VideoError
from vmae_jax.motion.codec import Blocks
from vmae_jax.patience import Closed
from vmae_jax.types import Int, UInt8

# Only files of these formats are opened. The other 300 that libav knows are texts that refer to
# other files (concat, playlists, SDP), pictures, sounds, subtitles, games and devices.
_FORMATS = (
  'mov,matroska,avi,asf,flv,live_flv,kux,mpeg,mpegts,mpegvideo,mxf,ogg,nut,ivf,obu,av1,h261,h263,'
  'h264,hevc,vvc,vc1,m4v,mjpeg,dirac,cavsvideo,dv,gxf,wtv,rm,swf,nsv,nuv,dhav,gif,apng,yuv4mpegpipe'
)
_OPTIONS = {'options': {'format_whitelist': _FORMATS}}
if int(av.__version__.partition('.')[0]) < 19:
  # These versions refuse a video whose title is not in UTF-8.
  _OPTIONS['metadata_errors'] = 'ignore'
Frame = UInt8[np.ndarray, 'H W 3']  # RGB in [0, 255].
# From a decoded frame to what is kept of it, such as a part of it at another size.
Shrink = Callable[[Frame], UInt8[np.ndarray, 'h w 3']]
# Takes a frame and its place among the indices that were asked for.
Put = Callable[[int, Frame], None]

Cut = UInt8[np.ndarray, 'n h w 3']


@contextmanager
def libav_errors() -> Iterator[None]:
  """Turns whatever a damaged file makes PyAV raise into a VideoError."""
  try:
    yield
  except (av.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as e:
    text = getattr(e, 'strerror', None) or str(e) or type(e).__name__
    raise VideoError(' '.join(text.split())) from e


@contextmanager
def libav_log() -> Iterator[list[str]]:
  """A list to which, at the end, the errors are added that libav has logged in this thread."""
  logged: list[str] = []
  av.logging.set_level(av.logging.ERROR)
  av.logging.set_skip_repeated(False)
  try:
    with av.logging.Capture(local=True) as lines:
      yield logged
      logged += dict.fromkeys(f'{name}: {" ".join(text.split())}' for _, name, text in lines)
  finally:
    av.logging.set_level(None)


def _declared_size(head: bytes) -> int:
  """The size in bytes that the beginning of an AVI or Matroska file declares; 0 if it does not."""
  if head.startswith(b'RIFF') and head[4:8] != b'\xff' * 4:
    return 8 + int.from_bytes(head[4:8], 'little')
  # Matroska: a name of four bytes, then a length, whose first byte says how many bytes it has.
  at = 0 if head.startswith(b'\x1a\x45\xdf\xa3') else len(head)
  while at + 12 <= len(head):
    name, digits = head[at : at + 4], 9 - head[at + 4].bit_length()
    start, unknown = at + 4 + digits, (1 << 7 * digits) - 1
    length = int.from_bytes(head[at + 4 : start]) & unknown
    if name == b'\x18\x53\x80\x67':  # The segment: all that follows.
      return 0 if length == unknown else start + length
    at = start + length
  return 0


def open_stream(file: str | os.PathLike | io.IOBase) -> tuple[InputContainer, VideoStream]:
  """Opens a video file and finds its video stream, the only one that will be demuxed.

  Raises:
    VideoError: the file is missing, is no video, or ends too early.
  """
  path = isinstance(file, str | os.PathLike)
  if path and not os.path.isfile(file):  # A pipe or a device could block for ever.
    raise VideoError('file is missing' if not os.path.exists(file) else 'not a file')
  with libav_errors(), open(file, 'rb') if path else nullcontext(file) as f:
    head = f.read(4096)
    size = f.seek(0, io.SEEK_END)
    f.seek(0)
  if size == 0:
    raise VideoError('empty file')
  if (declared := _declared_size(head)) > size:
    raise VideoError(f'truncated: {size} of {declared} bytes are in the file')
  with libav_errors():
    try:
      # An absolute path, as libav would take the `12` of `12:30.mp4` for a protocol.
      container = av.open(os.path.abspath(file) if path else file, **_OPTIONS)
    except av.ArgumentError as e:
      raise VideoError('not a video file, but of another format that libav knows') from e
  stream = container.streams.best('video')
  if stream is None or Disposition.attached_pic in stream.disposition:  # The cover of a song.
    container.close()
    raise VideoError('no video stream')
  if stream.codec_context is None:
    container.close()
    raise VideoError('no decoder for its video stream')
  for other in container.streams:
    if other is not stream:
      other.discard = Discard.all
  return container, stream


def display_matrix(frame: av.VideoFrame) -> Int[np.ndarray, '3 3'] | None:
  """Where the frame's points are shown; None if it has no such matrix.

  A point (x, y, 1) of the stored picture is shown at (x, y, 1) @ matrix, x to the right and y
  down, in libav's fixed-point numbers.
  """
  stored = frame.side_data.get(Type.DISPLAYMATRIX)
  return None if stored is None else np.frombuffer(bytes(stored), np.int32).reshape(3, 3)


def orientation(frame: av.VideoFrame) -> tuple[bool, tuple[bool, bool]]:
  """How a frame is shown: the nearest of eight orientations.

  Returns:
    Whether columns are shown as rows; whether, after that, (top and bottom, left and right) are
    mirrored.
  """
  matrix = display_matrix(frame)
  if matrix is None or not matrix[:2, :2].any():
    return False, (False, False)
  (a, b), (c, d) = matrix[:2, :2].astype(int)
  swap = bool(abs(a) + abs(d) < abs(b) + abs(c))  # x is shown along y.
  return swap, (bool((b if swap else d) < 0), bool((c if swap else a) < 0))


def orient(image: Frame, frame: av.VideoFrame) -> UInt8[np.ndarray, '... 3']:
  """The image of a frame as it is shown."""
  swap, (up, left) = orientation(frame)
  image = image.transpose(1, 0, 2) if swap else image
  return image[:: -1 if up else 1, :: -1 if left else 1]


def digest(image: Frame) -> UInt8[np.ndarray, '1 4 3']:
  """A short hash of an image, in the shape of an image."""
  return np.frombuffer(hashlib.md5(image.tobytes()).digest()[:12], np.uint8).reshape(1, 4, 3)


class Frames:
  """A video whose frames are read by their index in the order of display."""

  num_frames: int  # That a player would show.
  rate: float = 0.0  # Average frames per second; 0.0 if it is not known.
  # Frame -> the codec's motion, where known, of the frames of the last `read` if it was asked for.
  vectors: Mapping[int, Blocks] = {}

  @property
  def height(self) -> int:
    """Height of a frame that is read, in stored pixels: they need not be square."""
    return self.read([0]).shape[1]

  @property
  def width(self) -> int:
    """Width of a frame that is read, in stored pixels: they need not be square."""
    return self.read([0]).shape[2]

  def images(self, wanted: list[int]) -> Iterator[tuple[int, Frame]]:
    """The index and image of each wanted frame, in any order and maybe more than once.

    `wanted` holds ascending indices.
    """
    raise NotImplementedError

  def read(
    self,
    indices: Sequence[int] | Int[np.ndarray, ' T'],
    *,
    shrink: Shrink | None = None,
    put: Put | None = None,
  ) -> UInt8[np.ndarray, 'T H W 3']:
    """Returns the frames of these indices, in this order; an index may come repeatedly.

    Args:
      indices: Places in the order of display, in [0, num_frames).
      shrink: Is applied to each frame as soon as it is decoded, in any order; only its results,
        which must be of one size, are held.
      put: Takes the place in `indices` and the frame, a view, perhaps more than once. Then no
        frame is held, and the result has no pixels.

    Returns:
      RGB in [0, 255].

    Raises:
      VideoError: a wanted frame cannot be read whole, or they are not all of one size.
    """
    indices = np.asarray(indices)
    wanted = np.unique(indices).tolist()
    if not wanted or wanted[0] < 0 or wanted[-1] >= self.num_frames:
      raise IndexError(f'frames {wanted} of a video of {self.num_frames}')
    clip, shape = np.empty((len(indices), 0, 0, 3), np.uint8), None
    for i, image in self.images(wanted):
      if image.shape != (shape or image.shape):
        raise VideoError('frames are not all of one size')
      shape = image.shape
      places = np.flatnonzero(indices == i)
      if put:
        for place in places.tolist():
          put(place, image)
        continue
      image = shrink(image) if shrink else image
      if not clip.size:
        clip = np.empty((len(indices), *image.shape), np.uint8)
      clip[places] = image
    return clip

  def close(self) -> None:
    """Frees what is open."""

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self.close()


class ArrayVideo(Frames):
  """A video whose frames are in memory."""

  def __init__(self, frames: UInt8[np.ndarray, 'T H W 3'], *, rate: float = 0.0):
    self._frames, self.num_frames, self.rate = frames, len(frames), rate

  def images(self, wanted: list[int]) -> Iterator[tuple[int, Frame]]:
    return ((i, self._frames[i]) for i in wanted)


class Writer:
  """Writes the frames of one attempt to read a video, until that is given up."""

  def __init__(self, pixels: Sequence[Cut]):
    self.pixels = pixels
    self._lock, self._open = threading.Lock(), True

  def put(self, row: int, place: int, image: Frame) -> None:
    """Writes into the upper left corner of a frame of a cut-out."""
    height, width = image.shape[:2]
    with self._lock:
      if not self._open:
        raise Closed
      self.pixels[row][place, :height, :width] = image

  def close(self) -> None:
    """Makes every later `put` fail, as a thread may still be reading."""
    with self._lock:
      self._open = False


def read_once(source: Any, i: int, read: Callable[[Writer], Any], pixels: Sequence[Cut]) -> Any:
  """What `read` of video i returns, with the frames in `pixels`, however often it is called.

  If the source has a method `ask` (`vmae_jax.patience.PatientSource`), that calls `read` again when
  it is late or has failed. The first call writes to `pixels`; later ones write to arrays of their
  own, which are copied.
  """
  first = Writer(pixels)
  writers = iter([first])

  def reading() -> tuple[Any, Writer]:
    writer = next(writers, None) or Writer([np.empty_like(x) for x in pixels])
    return read(writer), writer

  try:
    ask = getattr(source, 'ask', None)
    result, writer = ask(i, reading) if ask else reading()
  finally:
    first.close()
  if writer is not first:
    for x, y in zip(pixels, writer.pixels, strict=True):
      x[:] = y
  return result


def encode(video: UInt8[np.ndarray, 'T H W 3'], *, rate: int) -> io.BytesIO:
  """An MP4 file of a clip: H.264 of a quality that keeps small motions."""
  file = io.BytesIO()
  with av.open(file, 'w', format='mp4') as container:
    # Short clips decode fastest without B-frames. With more threads or mbtree, one file in a
    # hundred has other bytes.
    options = {'crf': '18', 'preset': 'fast', 'bf': '0', 'x264-params': 'mbtree=0:threads=1'}
    stream = container.add_stream('libx264', rate=rate, options=options)
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt, stream.codec_context.thread_count = 'yuv420p', 1
    for frame in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())
  return file
