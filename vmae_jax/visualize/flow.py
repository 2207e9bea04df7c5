"""Optical flow and motion-guided masks as pictures."""

import math
from collections.abc import Sequence

import einops
import numpy as np

from vmae_jax.types import Float, UInt8
from vmae_jax.visualize.images import Hidden, Shown, evenly, swatch, to_uint8, token_pixels

# Numbers of hues from red over yellow, green, cyan, blue and magenta to red again: more where the
# eye distinguishes more (Baker et al., A Database and Evaluation Methodology for Optical Flow,
# 2011, whose wheel nearly all pictures of flow use).
_STEPS = (15, 6, 4, 11, 13, 6)
_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
SHADE = 0.15  # Share of its brightness that a hidden token keeps.
MAP = (213, 94, 0)  # The colour of a map's largest value.
NONE = 225  # The grey of places without flow.


def colour_wheel() -> Float[np.ndarray, '55 3']:
  """The hues of the wheel, in [0, 1], beginning with red."""
  at = np.concatenate([[0], np.cumsum(_STEPS)])
  corners = np.array(_CORNERS, float)
  return np.stack([np.interp(np.arange(at[-1]), at, c) for c in corners.T], -1)


def flow_colours(
  flow: Float[np.ndarray, '*b H W 2'], *, longest: float | None = None
) -> UInt8[np.ndarray, '*b H W 3']:
  """Direction as hue, length as saturation: white is no motion, red is motion to the right.

  Args:
    flow: (x, y), y downwards; grey where it is NaN.
    longest: The length that gets the full colour (longer ones are darker); by default the longest.
  """
  flow = np.asarray(flow, np.float64)
  none = np.isnan(flow).any(-1, keepdims=True)
  flow = np.where(none, 0, flow)
  length = np.hypot(flow[..., 0], flow[..., 1])
  length = length / max(length.max() if longest is None else longest, 1e-9)
  wheel = colour_wheel()
  place = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1 * len(wheel)
  low = place.astype(int) % len(wheel)
  part = (place - np.floor(place))[..., None]
  hue = (1 - part) * wheel[low] + part * wheel[(low + 1) % len(wheel)]
  length = length[..., None]
  colours = to_uint8(np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue))
  return np.where(none, np.uint8(NONE), colours)


def wheel(side: int = 160) -> UInt8[np.ndarray, 'H W 3']:
  """The legend of flow: each direction and speed as a place on a disk, no motion in its centre."""
  at = (np.arange(side) + 0.5) / side * 2 - 1
  flow = np.stack(np.meshgrid(at, at), -1)
  inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1
  return np.where(inside[..., None], flow_colours(flow, longest=1.0), np.uint8(255))


def longest_of(flow: Float[np.ndarray, '*b 2']) -> float:
  """The speed that gets the full colour: the 0.98 quantile, as outliers would pale all others."""
  return max(float(np.nanquantile(np.hypot(flow[..., 0], flow[..., 1]), 0.98)), 1e-6)


def motion_grid(
  shown: Shown,
  flow: Float[np.ndarray, 'T H2 W2 2'],
  maps: Float[np.ndarray, 'T H2 W2'] | None,
  masks: dict[str, Hidden],
) -> UInt8[np.ndarray, '...']:
  """Draws a clip, its flow, the maps that follow the flow, and what masks leave visible.

  Args:
    flow: The result of `flow_of_frames`, on a grid that divides the frames.
    maps: The result of `warped_maps`, on the same grid; None for masks without such maps.
    masks: Label -> True where a token is hidden, such as of motion-guided and of tube masking.
  """
  video = shown.clip
  chosen = evenly(len(video), most=shown.most)
  factor = video.shape[1] // flow.shape[1], video.shape[2] // flow.shape[2]

  def enlarge(values):
    return values.repeat(factor[0], 1).repeat(factor[1], 2)

  longest = longest_of(flow)
  codec = shown.config is not None and shown.config.motion.name == 'codec'
  name = "motion vectors\n(the codec's)" if codec else 'flow\n(estimated)'
  rows = {'clip': to_uint8(video), name: enlarge(flow_colours(flow, longest=longest))}
  rim = longest * factor[1]
  legend = {f'direction and speed, {rim:.1f} pixels at the rim; white: no motion': wheel()}
  words = ''
  if maps is not None:  # Grey where the map is low, red where it is high.
    heat = enlarge(maps / maps.max())[..., None]
    grey = video.mean(-1, keepdims=True)
    rows['map'] = to_uint8((1 - heat) * grey + heat * np.array(MAP) / 255)
    legend['visible in the middle frame, and carried along the flow'] = swatch(MAP)
    words = 'In each slot the tokens with most of the map are visible.'
  for label, mask in masks.items():
    hidden = token_pixels(mask.reshape(shown.grid), video.shape)
    rows[label] = to_uint8(np.where(hidden, SHADE * video, video))
  rows = {label: [row[i] for i in chosen] for label, row in rows.items()}
  return shown.page(rows, chosen, words, legend=legend)


def flow_grid(shown: Shown) -> UInt8[np.ndarray, '...']:
  """Draws a clip, its flow, the predicted flow, and the predicted with the visible flow."""
  true, _ = shown.values
  (t, h, w), (pt, ph, pw) = shown.grid, shown.patch
  cells = math.isqrt(true.shape[-1] // (2 * pt))
  longest = longest_of(true.reshape(-1, 2))
  chosen = evenly(len(shown.clip), most=shown.most)

  def draw(values):
    order = '(t h w) (pt y x c) -> (t pt) (h y) (w x) c'
    flow = einops.rearrange(values, order, t=t, h=h, w=w, pt=pt, y=cells, x=cells)[chosen]
    return flow_colours(flow, longest=longest).repeat(ph // cells, 1).repeat(pw // cells, 2)

  deviations = shown.options.get('normalise') == 'patch'
  return shown.page(
    shown.rows(draw, chosen, name='flow\n(estimated)'),
    chosen,
    f'{"Deviations from the mean of each token. " if deviations else ""}The second row is an '
    'estimate, which is not always the true motion.',
    legend={'hue is direction, colour is speed; white: no motion': wheel()},
  )


def flow_of_frames(
  flow: Float[np.ndarray, 'q H W 2'], pairs: Sequence[tuple[int, int]], frames: int
) -> Float[np.ndarray, 'T H W 2']:
  """The flow of each frame forward in time, for pictures.

  A frame without a pair that goes forward gets the reverse of its backward flow. A frame that
  begins no pair gets the flow of the frame before that does, where pairs span several frames, else
  NaN.
  """
  out = np.full((frames, *flow.shape[1:]), np.nan, flow.dtype)
  for (i, j), values in sorted(zip(pairs, flow, strict=True), key=lambda entry: entry[0][1]):
    out[i] = values * np.sign(j - i)
  apart = min(abs(j - i) for i, j in pairs)
  for i in set(range(frames)) - {i for i, _ in pairs}:
    out[i] = out[i - i % apart]
  return out
