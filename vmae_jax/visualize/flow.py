"""Optical flow and motion-guided masks as pictures."""

import math
from collections.abc import Sequence
from typing import Any

import einops
import numpy as np

from vmae_jax.models.patches import token_grid
from vmae_jax.types import Bool, Float, UInt8
from vmae_jax.visualize.images import (
  Layout,
  evenly,
  frame_names,
  labelled_rows,
  prediction_rows,
  to_uint8,
  token_pixels,
)

# Steps from red over yellow, green, cyan, blue and magenta to red again: more where the eye
# distinguishes more hues (Baker et al., A Database and Evaluation Methodology for Optical Flow,
# 2011, the wheel of nearly all pictures of flow).
_STEPS = (15, 6, 4, 11, 13, 6)
_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
SHADE = 0.15  # What is left of the brightness of a hidden token.


def colour_wheel() -> Float[np.ndarray, '55 3']:
  """The hues of the wheel, in [0, 1], beginning with red."""
  at = np.concatenate([[0], np.cumsum(_STEPS)])
  corners = np.array(_CORNERS, float)
  return np.stack([np.interp(np.arange(at[-1]), at, c) for c in corners.T], -1)


def flow_colours(
  flow: Float[np.ndarray, '*b H W 2'], *, longest: float | None = None
) -> UInt8[np.ndarray, '*b H W 3']:
  """Direction as hue, length as saturation: no motion is white, red is motion to the right.

  Args:
    flow: (x, y), y downwards.
    longest: The length that gets the full colour; longer ones are darkened. None for the longest
      of the flow.
  """
  flow = np.asarray(flow, np.float64)
  length = np.hypot(flow[..., 0], flow[..., 1])
  length = length / max(length.max() if longest is None else longest, 1e-9)
  wheel = colour_wheel()
  place = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1 * len(wheel)
  low = place.astype(int) % len(wheel)
  part = (place - np.floor(place))[..., None]
  hue = (1 - part) * wheel[low] + part * wheel[(low + 1) % len(wheel)]
  length = length[..., None]
  return to_uint8(np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue))


def motion_grid(
  video: Float[np.ndarray, 'T H W 3'],
  flow: Float[np.ndarray, 'T H2 W2 2'],
  maps: Float[np.ndarray, 'T H2 W2'],
  masks: dict[str, Bool[np.ndarray, ' n']],
  *,
  patch: tuple[int, int, int],
  title: str = '',
  caption: str = '',
  most: int | None = 8,
  layout: Layout = labelled_rows,
) -> UInt8[np.ndarray, '...']:
  """Draws a clip, its flow, the maps that follow the flow, and what masks leave visible.

  Args:
    video: The clip in [0, 1].
    flow: The flow of each frame, on a grid that divides the frames; zero where there is none.
    maps: What `warped_maps` gives, on the same grid.
    masks: Label -> True where a token is hidden; such as motion-guided and tube.
    patch: Frames, height and width of a patch.
    title: Text above the picture.
    caption: Text below it.
    most: The most columns; None for all frames.
    layout: See `reconstruction_grid`.
  """
  frames, height, width, _ = video.shape
  chosen = evenly(frames, most=most)
  factor = height // flow.shape[1], width // flow.shape[2]
  grey = video.mean(-1, keepdims=True)
  heat = (maps / maps.max()).repeat(factor[0], 1).repeat(factor[1], 2)[..., None]
  # Grey where the map is low, red where it is high.
  overlay = (1 - heat) * grey + heat * np.array([1.0, 0.15, 0.1])
  rows = {
    'clip': to_uint8(video),
    'flow': flow_colours(flow).repeat(factor[0], 1).repeat(factor[1], 2),
    'map': to_uint8(overlay),
  }
  for label, mask in masks.items():
    hidden = mask.reshape(frames // patch[0], height // patch[1], width // patch[2])
    rows[label] = to_uint8(np.where(token_pixels(hidden, video.shape), SHADE * video, video))
  return layout(
    {label: [row[i] for i in chosen] for label, row in rows.items()},
    columns=frame_names(chosen),
    title=title,
    caption=caption,
  )


def flow_grid(
  video: Float[np.ndarray, 'T H W 3'],
  masked_tokens: Bool[np.ndarray, ' n'],
  true: Float[np.ndarray, 'n f'],
  predicted: Float[np.ndarray, 'm f'],
  *,
  patch: tuple[int, int, int],
  options: dict[str, Any],
  title: str = '',
  most: int | None = 8,
  layout: Layout = labelled_rows,
) -> UInt8[np.ndarray, '...']:
  """Draws a clip, its flow, the predicted flow, and this among the visible one.

  Arguments are those of `reconstruction_grid`, except for:

  Args:
    true: The target `optical_flow` of all tokens.
    predicted: The model's values, in the order of the hidden tokens' indices.
    options: The target's options.
  """
  (t, h, w), (pt, ph, pw) = token_grid(video.shape[:3], patch), patch
  cells = math.isqrt(true.shape[-1] // (2 * pt))
  longest = max(float(np.quantile(np.hypot(*true.reshape(-1, 2).T), 0.995)), 1e-6)
  chosen = evenly(len(video), most=most)

  def draw(values):
    order = '(t h w) (pt y x c) -> (t pt) (h y) (w x) c'
    flow = einops.rearrange(values, order, t=t, h=h, w=w, pt=pt, y=cells, x=cells)[chosen]
    return flow_colours(flow, longest=longest).repeat(ph // cells, 1).repeat(pw // cells, 2)

  deviations = options.get('normalise') == 'patch'
  return layout(
    {'input': list(to_uint8(video[chosen]))}
    | prediction_rows(true, predicted, masked_tokens, draw=draw, name='estimated\nflow'),
    columns=frame_names(chosen),
    title=title,
    caption='Hue is direction (red: to the right), colour is speed; white is no motion, or not '
    f'shown. {"Deviations from the mean of each token. " if deviations else ""}'
    'The first row is what the estimator says, which is not always the true motion.',
  )


def flow_of_frames(
  flow: Float[np.ndarray, 'q H W 2'], pairs: Sequence[tuple[int, int]], frames: int
) -> Float[np.ndarray, 'T H W 2']:
  """The flow of each frame forward in time, for pictures.

  A frame with no pair that goes forward gets the reverse of one that goes backward; a frame with
  no pair gets zeros.
  """
  out = np.zeros((frames, *flow.shape[1:]), flow.dtype)
  for (i, j), values in sorted(zip(pairs, flow, strict=True), key=lambda entry: entry[0][1]):
    out[i] = values * np.sign(j - i)
  return out
