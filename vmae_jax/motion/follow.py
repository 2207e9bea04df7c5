"""Points that are followed from the start of every time slot of a clip, and their frames.

Axes beside those of `vmae_jax.types`: t time slots; L steps, from one of l = L + 1 frames to the
next; Hc and Wc rows and columns of cells, one point each.
"""

from collections.abc import Callable
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.motion.camera import camera_motion
from vmae_jax.motion.flow import Flow, estimate
from vmae_jax.motion.tracking import Tracks, median, track
from vmae_jax.types import Array, Float

RATES = ('video', 'clip', 'slot')


class Followed(NamedTuple):
  """What targets along trajectories need.

  Attributes:
    frames: The first frame of each slot and the frames that its steps end in, in [0, 1];
      `follow_slots` gives only the first.
    tracks: The tracks, with a batch axis (b t): the slots of a clip stand one after another.
  """

  frames: Float[Array, 'b t l H W C']
  tracks: Tracks


def clip_pairs(frames: int, *, gap: int = 1) -> list[tuple[int, int]]:
  """The pairs of frames whose flow `follow_clip` needs: neighbours in the clip.

  Args:
    frames: The number of frames of the clip.
    gap: For `follow_slots`, the frames of a time slot: pairs then lead from each slot's first frame
      to the next slot's.
  """
  return [(i, i + gap) for i in range(0, frames - gap, gap)]


def follow_window(
  window: Float[Array, 'b t l H W C'], *, estimator: Callable[..., Array], **options
) -> Followed:
  """Follows points at the video's own frame rate (MME's motion interpolation).

  The model sees every stride-th frame and has to predict how points move in between.

  Args:
    window: Consecutive frames of the video, starting with the first frame of each time slot.
    estimator: An entry of ESTIMATORS with its options bound.
    **options: The options of `_follow`.
  """
  rows = einops.rearrange(window, 'b t l H W C -> (b t) l H W C')
  flow = estimate(rows, pairs=clip_pairs(rows.shape[1]), estimator=estimator)
  return _follow(window, flow.values, **options)


def follow_clip(
  clip: Float[Array, 'b T H W C'], flow: Flow, *, slot: int, steps: int, **options
) -> Followed:
  """Follows points along the clip's own frames, which is cheaper and takes larger steps.

  Points of the last slots, whose steps would end after the clip, are not valid.

  Args:
    clip: The clips in [0, 1].
    flow: Flow of (at least) the pairs of `clip_pairs`.
    slot: Frames in a time slot.
    steps: L.
    **options: The options of `_follow`.
  """
  last = clip.shape[1] - 1
  frames = np.arange(0, last + 1, slot)[:, None] + np.arange(steps + 1)  # t L+1
  values = flow.take(clip_pairs(last + 1))[:, np.minimum(frames[:, :-1], last - 1)]
  whole = jnp.asarray(frames[:, -1] <= last)
  followed = _follow(
    clip[:, np.minimum(frames, last)],
    einops.rearrange(values, 'b t L h w c -> (b t) L h w c'),
    **options,
  )
  inside = followed.tracks.inside & jnp.tile(whole, len(clip))[:, None, None, None]
  return followed._replace(tracks=followed.tracks.replace(inside=inside))


def follow_slots(clip: Float[Array, 'b T H W C'], flow: Flow, *, slot: int, **options) -> Followed:
  """Follows the points of the clip's first frame from slot to slot.

  All slots have the same points, each in the cell where it starts in the clip's first frame. A slot
  has one step, from its first frame to the next slot's; the last slot repeats the step before.
  Points are valid in a slot if they have not left the frame until then.

  Args:
    clip, slot, **options: As in `follow_clip`.
    flow: Flow of the pairs of `clip_pairs` with the gap `slot`.

  Source: TrackMAE (Vandeghen et al., 2026), its released `engine_for_pretraining_cotracker.py`.
  """
  pairs = clip_pairs(clip.shape[1], gap=slot)
  tracks = _follow(clip[:, None, ::slot], flow.take(pairs), **options).tracks

  def each(x):  # Repeats the last step and moves slots into the batch axis.
    x = jnp.concatenate([x, x[:, -1:]], axis=1)
    return x.reshape(-1, 1, *x.shape[2:])

  last = tracks.positions[:, -1:] + tracks.displacements[:, -1:]
  positions = jnp.concatenate([tracks.positions, last], axis=1)
  both = jnp.stack([positions[:, :-1], positions[:, 1:]], axis=2)
  tracks = Tracks(
    displacements=each(tracks.displacements),
    positions=both.reshape(-1, *both.shape[2:]),
    inside=each(tracks.inside),
  )
  return Followed(clip[:, ::slot][:, :, None], tracks)


def _follow(
  frames: Float[Array, 'b t l H W C'],
  flow: Float[Array, 'bt L h w 2'],
  *,
  pitch: int,
  smooth: bool,
  camera: bool,
  integer: bool,
) -> Followed:
  """Moves one point of each cell along the flow.

  Args:
    frames: The frames of each slot.
    flow: Flow from each frame to the next, for all slots.
    pitch: Height and width of a cell in pixels.
    smooth: Whether to take the median of 3 x 3 flow values first.
    camera: Whether to record steps without the camera's motion; points still follow the whole flow.
    integer: See `track`.
  """
  flow = median(flow) if smooth else flow
  described = flow - camera_motion(flow) if camera else None
  tracks = track(flow, size=frames.shape[3:5], pitch=pitch, described=described, integer=integer)
  return Followed(frames, jax.lax.stop_gradient(tracks))
