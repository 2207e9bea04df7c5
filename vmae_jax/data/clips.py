"""From one visit of a video to its clips: choose frames, decode once, cut out.

Everything random is a function of (seed, epoch, sample, repeat), never of the process, the
thread or what was drawn before.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmae_jax.data import crop as crops
from vmae_jax.data.augment import RandAugment, apply
from vmae_jax.data.frames import Cut, Frame, Writer, read_once
from vmae_jax.data.sampling import SAMPLINGS, clip_indices, dense_views, segment_views
from vmae_jax.data.sources import Source
from vmae_jax.errors import UNAVAILABLE, Unavailable, UserError, VideoError, check_name, may_pass
from vmae_jax.motion.codec import cut_motion
from vmae_jax.patience import NOT_ITS_FAULT, reason
from vmae_jax.types import UInt8

CROPS = ('multi_scale', 'resized', 'centre')
MAX_ATTEMPTS = 16
# Keeps random numbers of replacements apart from those of repeats, whose seed ends in 1 + repeat.
_REPLACEMENTS = 10**6


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
  """Says how clips are drawn; a call draws those of one visit of a video."""

  frames: int = 16  # In a clip.
  size: int = 224  # Height and width of a clip.
  stride: int = 4  # Video frames from one clip frame to the next, for dense sampling.
  sampling: str = 'dense'  # Or 'linspace' or 'segment', see `vmae_jax.data.sampling`.
  released_end: bool = False  # See `vmae_jax.data.sampling.dense_indices`.
  crop: str = 'multi_scale'  # Or 'resized' or 'centre', see `vmae_jax.data.crop`.
  area: tuple[float, float] = (0.5, 1.0)  # Bounds of the share of the picture for 'resized'.
  resampling: str = 'antialiased'  # Or 'bilinear', see `vmae_jax.data.crop.resize`.
  augment: RandAugment | None = None  # Changes whole frames before a training clip is cut.
  flip: bool = False  # Half of the clips are mirrored. Wrong where left and right have a meaning.
  repeats: int = 1  # Clips cut from one decoded video: the same frames, each with its own crop.
  # If not 0, each time slot of the clip comes with a window of so many consecutive video frames,
  # from the slot's first frame on, which show motion at the video's own rate.
  window: int = 0
  slot: int = 2  # Clip frames in a time slot.
  vectors: int = 0  # Cells along each side of the grid of the codec's motion; 0 reads none.
  seed: int = 0  # Of the run.
  train: bool = True  # False takes the middle frames and the centre, without a flip.

  def __post_init__(self):
    check_name(self.sampling, SAMPLINGS, 'data.sampling')
    check_name(self.crop, CROPS, 'data.crop')
    check_name(self.resampling, crops.RESAMPLINGS, 'data.resampling')
    for name in ('frames', 'size', 'stride', 'repeats'):
      if getattr(self, name) < 1:
        raise UserError(f'data.{name} is {getattr(self, name)}: it must be at least 1.')

  def shape(self, source: Source, *, whole: bool = False) -> tuple[int, int, int, int]:
    """What is copied to the devices for a visit: number of cut-outs, their frames, height, width.

    The devices resize what is cut out of the frames to `size` x `size`. If the source says how
    large its pictures are, a cut-out has room for the largest box, up to 10 / 7 of `size`; else up
    to 8 / 7 of `size`. Larger boxes are resized on the host. If the whole picture is smaller than
    all cut-outs of a visit, the clips share one cut-out with room for the whole picture. If several
    devices share the visit, each clip has a cut-out with this room instead: so the devices resize
    the same boxes, and pixels do not depend on the mesh.

    Args:
      source: Its `largest`, if it has that, is the (height, width) that no picture exceeds.
      whole: Whether each device has all clips of a visit.
    """
    known = getattr(source, 'largest', None)
    side = max(self.size, min(min(known), self.size * 10 // 7) if known else self.size * 8 // 7)
    frames = self.places
    if self.window:
      span = self.frames * self.stride + self.window
      lengths = (*range(1, span), 3 * span) if self.sampling == 'dense' else ()
      distinct = [len(np.unique(self.wanted(n, None))) for n in lengths]
      # The first frame of each window is also in the clip.
      frames = max(distinct, default=frames - len(range(0, self.frames, self.slot)))
    smaller = known and not self.augment and math.prod(known) < self.repeats * side**2
    if smaller and (whole or self.repeats > 1):
      return 1 if whole else self.repeats, frames, *known
    return self.repeats, frames, side, side

  @property
  def places(self) -> int:
    """Frames of a clip and its windows."""
    return self.frames + len(range(0, self.frames, self.slot)) * self.window

  def __call__(self, source: Source, epoch: int, sample: int) -> dict[str, Any]:
    """Draws the clips of one visit and resizes them on the host.

    Returns:
      video: UInt8 'r T S S 3'; window, if asked for: UInt8 'r t w S S 3'; and what `draw` returns.
    """
    rows, *shape = self.shape(source)
    pixels = [np.empty((*shape, 3), np.uint8) for _ in range(rows)]
    drawn = self.draw(source, epoch, sample, pixels)
    resize = functools.partial(crops.resize_visit, size=self.size, resampling=self.resampling)
    clips = np.concatenate(list(map(resize, pixels, drawn['box'][:, None])))
    return drawn | self.arrange(clips, np.stack([drawn['places']] * rows), np)

  def arrange(self, clips: Any, places: Any, xp: Any) -> dict[str, Any]:
    """Divides resized frames into `video` and, if asked for, `window`.

    Args:
      clips: UInt8 'b n S S 3', each frame once.
      places: Int32 'b m': which of them are the frames of `video`, then those of `window`.
      xp: numpy or jax.numpy.
    """
    if not self.window:
      return {'video': clips}
    clips = xp.take_along_axis(clips, places[:, :, None, None, None], 1)
    window = clips[:, self.frames :]
    window = window.reshape(len(window), -1, self.window, *window.shape[2:])
    return {'video': clips[:, : self.frames], 'window': window}

  def draw(self, source: Source, epoch: int, sample: int, pixels: Sequence[Cut]) -> dict[str, Any]:
    """Draws the clips of one visit.

    A video that cannot be read is replaced by another one, which the seed, epoch and sample decide.

    Args:
      source: The data set, see `vmae_jax.data.frames.read_once`.
      epoch: Which pass over the data set.
      sample: Which video, in [0, len(source)).
      pixels: Arrays that the cut-outs are written to, as many and as large as `shape` says. A
        smaller cut-out leaves the rest of its array as it was.

    Returns:
      box: Int32 'r 5', what is resized, see `vmae_jax.data.crop.resize_visit`; places: Int32 'm',
      see `arrange`; times: Int32 'r m', which of the video's frames these are; vectors, if asked
      for: Float16 'r m c c 2', see `vmae_jax.motion.codec.cut_motion`; label: of the video that was
      read, -1 if unknown; replaced: whether it is another one than asked for; failures: a list of
      (name, reason).

    Raises:
      Unavailable: two of the videos that were tried cannot be read for a reason that may pass.
      UserError: MAX_ATTEMPTS videos in a row cannot be read. If one of the reasons is no
        VideoError, that exception is raised instead.
    """
    failures, bug, away = [], None, set()
    for attempt in range(MAX_ATTEMPTS):
      i = sample
      if attempt:
        rng = np.random.default_rng([self.seed, epoch, sample, _REPLACEMENTS + attempt])
        i = int(rng.integers(len(source)))
      try:
        read = functools.partial(self._read, source, i, epoch, sample)
        drawn = read_once(source, i, read, pixels)
      except NOT_ITS_FAULT:
        raise
      except Exception as e:  # No fault of one video may end the run, and again at each restart.
        bug = bug if isinstance(e, VideoError) else e
        if may_pass(e):
          away.add(i)
        failures.append((source.name(i), UNAVAILABLE * (i in away) + reason(e)))
        if len(away) > 1:  # A single one may lie on a damaged part of the disk.
          raise Unavailable(
            f'two videos in a row cannot be read, last {source.name(i)} ({reason(e)}): is the '
            'disk, mount or store that they lie on alive?'
          ) from None
        continue
      return drawn | dict(label=source.label(i), replaced=attempt > 0, failures=failures)
    if bug is not None:  # More likely than so many broken videos.
      raise bug
    raise UserError(
      f'{MAX_ATTEMPTS} videos in a row cannot be read, such as {failures[0][0]} '
      f'({failures[0][1]}): run python -m vmae_jax.check_data on the data.'
    )

  def wanted(self, num_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """The indices of the clip's frames, then its windows'; past the end they repeat the last."""
    indices = clip_indices(
      num_frames,
      sampling=self.sampling,
      frames=self.frames,
      stride=self.stride,
      rng=rng,
      released_end=self.released_end,
    )
    windows = indices[:: self.slot, None] + np.arange(self.window)
    return np.concatenate([indices, np.minimum(windows, num_frames - 1).ravel()])

  def _read(
    self, source: Source, i: int, epoch: int, sample: int, writer: Writer
  ) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([self.seed, epoch, sample, 0]) if self.train else None
    with source.open(i, **{'vectors': True} if self.vectors else {}) as video:
      if video.num_frames < 1:
        raise VideoError('no frames')
      times = self.wanted(video.num_frames, rng)
      frames, places = times, np.arange(len(times))
      if self.window:
        frames, places = np.unique(times, return_inverse=True)
      cuts: list[crops.CutOut] = []

      def put(place: int, frame: Frame) -> None:
        if not cuts:  # Boxes depend on the picture's size.
          cuts.extend(self._cuts(*frame.shape[:2], writer, epoch, sample))
        for row, cut in enumerate(cuts[: len(writer.pixels)]):
          writer.put(row, place, cut.of(frame))

      video.read(frames, put=put)
    read = dict(box=[cut.inner for cut in cuts], places=places, times=[times] * len(cuts))
    read = {name: np.array(values, np.int32) for name, values in read.items()}
    if self.vectors:
      blocks = [video.vectors.get(i) for i in frames.tolist()]
      moved = [cut_motion(blocks, cut.box, flip=cut.inner[-1], cells=self.vectors) for cut in cuts]
      read['vectors'] = np.stack(moved)[:, places]
    return read

  def _cuts(
    self, height: int, width: int, writer: Writer, epoch: int, sample: int
  ) -> list[crops.CutOut]:
    """For each clip what is cut out of each frame of a video of this height and width."""
    room = writer.pixels[0].shape[1:3]
    drawn = [self._draw_box(height, width, epoch, sample, r) for r in range(self.repeats)]
    if len(writer.pixels) < self.repeats:
      plain = [(box, flip) for _, box, flip in drawn]
      return crops.cut_together(plain, (height, width), room=room)
    options = dict(room=room, size=self.size, resampling=self.resampling)
    return [
      crops.cut_out(functools.partial(apply, augmentations), box, flip, **options)
      for augmentations, box, flip in drawn
    ]

  def _draw_box(
    self, height: int, width: int, epoch: int, sample: int, repeat: int
  ) -> tuple[list[tuple[str, float]], crops.Box, bool]:
    """One clip's augmentations, its box in pictures of this size, and whether it is mirrored."""
    rng = np.random.default_rng([self.seed, epoch, sample, 1 + repeat])
    augmentations = self.augment.draw(rng) if self.train and self.augment else []
    if not self.train or self.crop == 'centre':
      box = crops.centre_box(height, width)
    elif self.crop == 'multi_scale':
      box = crops.multi_scale_box(height, width, size=self.size, rng=rng)
    else:
      box = crops.resized_box(height, width, rng=rng, area=self.area)
    return augmentations, box, self.train and self.flip and bool(rng.random() < 0.5)


@dataclass(frozen=True, kw_only=True)
class ViewSampler(ClipSampler):
  """Cuts all views of a video, segment by segment; nothing is random. `repeats` is their number."""

  segments: int = 1  # Clips along the time of a video.
  crops: int = 1  # Of each of these clips.
  train: bool = False

  def __post_init__(self):
    for name in ('segments', 'crops'):
      if getattr(self, name) < 1:
        raise UserError(f'test.{name} is {getattr(self, name)}: it must be at least 1.')
    super().__post_init__()
    if self.repeats != self.segments * self.crops:
      raise ValueError(f'{self.repeats} repeats for {self.segments} x {self.crops} views')

  def shape(self, source: Source, *, whole: bool = False) -> tuple[int, int, int, int]:
    """As that of `ClipSampler`; the host resizes views."""
    return self.repeats, self.frames, self.size, self.size

  def draw(self, source: Source, epoch: int, sample: int, pixels: Sequence[Cut]) -> dict[str, Any]:
    """All views of one video, as `ClipSampler` draws its clips, already resized.

    A video that cannot be read gives black clips with `replaced` set, not those of another video.
    """
    failures, boxes = [], np.tile(np.int32([0, 0, self.size, self.size, 0]), (self.repeats, 1))
    try:
      read_once(source, sample, lambda writer: self._views(source, sample, writer), pixels)
    except NOT_ITS_FAULT:
      raise
    except Exception as e:
      boxes[:] = 0
      failures.append((source.name(sample), reason(e)))
    return dict(
      box=boxes,
      places=np.arange(self.frames, dtype=np.int32),
      label=source.label(sample),
      replaced=bool(failures),
      failures=failures,
    )

  def _views(self, source: Source, sample: int, writer: Writer) -> None:
    with source.open(sample) as video:
      if video.num_frames < 1:
        raise VideoError('no frames')
      dense = functools.partial(dense_views, stride=self.stride)
      views = segment_views if self.sampling == 'segment' else dense
      indices = views(video.num_frames, frames=self.frames, segments=self.segments)
      # Windows overlap in short videos: each frame is decoded once.
      wanted, place = np.unique(indices, return_inverse=True)
      place = place.reshape(indices.shape)

      def put(t: int, frame: Frame) -> None:
        squares = self._squares(frame)
        for segment, at in np.argwhere(place == t).tolist():
          for k, square in enumerate(squares):
            writer.put(segment * self.crops + k, at, square)

      video.read(wanted, put=put)

  def _squares(self, frame: Frame) -> list[UInt8[np.ndarray, 'S S 3']]:
    """The crops of a frame.

    With 'bilinear' the whole frame is resized before it is cut, as in VideoMAE's test.
    """
    if self.resampling == 'bilinear':
      height, width = frame.shape[:2]
      shorter = min(height, width)
      size = self.size * height // shorter, self.size * width // shorter
      frame = crops.resize(frame, size, resampling='bilinear')
    boxes = crops.view_boxes(*frame.shape[:2], crops=self.crops)
    return [crops.crop_resize(frame, box, self.size) for box in boxes]
