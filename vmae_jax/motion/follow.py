"""Points followed from the start of every time slot of a clip, with the frames they are in.

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

RATES = ('video', 'clip')


class Followed(NamedTuple):
  """What targets along trajectories need.

  Attributes:
    frames: The first frame of each slot and those that its steps end in, in [0, 1].
    tracks: The tracks, with a batch axis (b t): the slots of a clip one after another.
  """

  frames: Float[Array, 'b t l H W C']
  tracks: Tracks


def clip_pairs(frames: int) -> list[tuple[int, int]]:
  """The pairs whose flow `follow_clip` needs: neighbours in the clip."""
  return [(i, i + 1) for i in range(frames - 1)]


def follow_window(
  window: Float[Array, 'b t l H W C'], *, estimator: Callable[..., Array], **options
) -> Followed:
  """Follows points at the video's own rate (MME's motion interpolation).

  The encoder sees every stride-th frame and has to predict how points move in between.

  Args:
    window: Consecutive frames of the video from the first one of each time slot on.
    estimator: An entry of ESTIMATORS with its options bound.
    **options: The options of `_follow`.
  """
  rows = einops.rearrange(window, 'b t l H W C -> (b t) l H W C')
  flow = estimate(rows, pairs=clip_pairs(rows.shape[1]), estimator=estimator)
  return _follow(window, flow.values, **options)


def follow_clip(
  clip: Float[Array, 'b T H W C'], flow: Flow, *, slot: int, steps: int, **options
) -> Followed:
  """Follows points along the clip's own frames: cheaper, and in larger steps.

  In the last slots the steps end after the clip; points that start there are not valid.

  Args:
    clip: The clips in [0, 1].
    flow: Flow of `clip_pairs`, at least.
    slot: Frames in a time slot.
    steps: L.
    **options: The options of `_follow`.
  """
  last = clip.shape[1] - 1
  frames = np.arange(0, last + 1, slot)[:, None] + np.arange(steps + 1)  # t L+1
  values = flow.take(clip_pairs(last + 1))[:, np.minimum(frames[:, :-1], last - 1)]
  inside = jnp.asarray(frames[:, -1] <= last)
  followed = _follow(
    clip[:, np.minimum(frames, last)],
    einops.rearrange(values, 'b t L h w c -> (b t) L h w c'),
    **options,
  )
  valid = followed.tracks.valid & jnp.tile(inside, len(clip))[:, None, None]
  return followed._replace(tracks=followed.tracks.replace(valid=valid))


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
    flow: Flow from each of them to the next, for all slots.
    pitch: Height and width of a cell in pixels.
    smooth: Takes the median of 3 x 3 flow values first.
    camera: Records steps without the camera's motion; points still follow the whole flow.
    integer: See `track`.
  """
  flow = median(flow) if smooth else flow
  described = flow - camera_motion(flow) if camera else None
  tracks = track(flow, size=frames.shape[3:5], pitch=pitch, described=described, integer=integer)
  return Followed(frames, jax.lax.stop_gradient(tracks))
