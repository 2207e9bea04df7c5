"""MGMAE's masking: the visible tokens follow the optical flow.

A map of one base frame says which places are visible. It is warped along the flow to all other
frames, from neighbour to neighbour; in each time slot the tokens with the map's highest values are
visible. A moving object is therefore visible, or hidden, in all slots alike, and a hidden token
cannot be copied from the same content at another time.

Source: MGMAE (Huang et al., 2023), section 3, and its released code. Where that code has a mistake,
the default is what the paper describes, and an option named `released_...` does what the code does.
"""

import functools
import math

import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError, check_name, lookup
from vmae_jax.masking.base_maps import BASE_MAPS
from vmae_jax.masking.mask import Grid, Mask, count, split
from vmae_jax.motion.flow import Flow, Pair, needs_flow
from vmae_jax.motion.warp import HOLE_FILLINGS, chain, splat_forward, warp_backward
from vmae_jax.types import Array, Bool, Float, Int, Key

BASE_FRAMES = {'middle': lambda frames: frames // 2, 'first': lambda frames: 0, 'random': None}
WARPS = {'backward': warp_backward, 'forward': splat_forward}
TOP = ('slot', 'clip')


def flow_pairs(
  frames: int,
  *,
  base_frame: str = 'middle',
  warp: str = 'backward',
  released_left_flow: bool = False,
  **_,
) -> tuple[Pair, ...]:
  """The pairs of frames whose flow `motion_guided` needs, with the same options.

  Raises:
    UserError: a name is unknown.
  """
  below, above = _steps(frames, base_frame, warp, released_left_flow)
  return tuple(sorted({*below, *above}))


def _steps(
  frames: int, base_frame: str, warp: str, released_left_flow: bool
) -> tuple[list[Pair], list[Pair]]:
  """Pairs of frames in the order of the steps: those back from the base frame, those on."""
  check_name(warp, WARPS, 'masking motion_guided, warp')
  choose = lookup(BASE_FRAMES, base_frame, 'masking motion_guided, base_frame')
  # A random base frame may be any frame: both lists have all steps, and not all of them are taken.
  low, high = (choose(frames),) * 2 if choose else (frames - 1, 0)
  below = [(i, i + 1) for i in range(low - 1, -1, -1)]
  above = [(i, i - 1) for i in range(high + 1, frames)]
  if (warp == 'forward') != released_left_flow:
    below = [(j, i) for i, j in below]
  if warp == 'forward':
    above = [(j, i) for i, j in above]
  return below, above


@needs_flow(flow_pairs)
def motion_guided(
  key: Key[Array, ''],
  clip: Float[Array, 'T H W C'],
  flow: Flow,
  *,
  grid: Grid,
  ratio: float,
  base_map: str = 'gaussian_max',
  base_frame: str = 'middle',
  warp: str = 'backward',
  holes: str = 'consistent',
  top: str = 'slot',
  exposure: float = 0.0,
  released_count: bool = False,
  released_scale: bool = False,
  released_left_flow: bool = False,
) -> Mask:
  """Hides int(ratio * h * w) tokens in each time slot; the visible ones follow the motion.

  Args:
    key, clip, flow, grid, ratio: See `MASKINGS`.
    base_map: A name in BASE_MAPS: the map of the base frame.
    base_frame: `middle` (frame T // 2), `first`, or `random` for each clip (the released code
      draws one for a whole batch).
    warp: `backward` reads the neighbour's map along the flow towards the neighbour; `forward`, the
      paper's alternative, sends the neighbour's map along the flow from the neighbour.
    holes: The value of a place that no content of the neighbouring frame reaches: the base map's
      value there (`consistent`), the neighbouring map's (`previous`) or zero (`none`).
    top: Whether the tokens with the highest scores of each `slot` or of the whole `clip` are
      visible.
    exposure: Chance that normal noise is added to the scores of one random slot.
    released_count: int((1 - ratio) * h * w) tokens of a slot are visible: 19 of 196 for 0.9, while
      tube masking shows 20. The base map has 20 peaks in either case.
    released_scale: See `warp_backward`.
    released_left_flow: Before the base frame the flow has the wrong direction (from the neighbour
      nearer to the base instead of towards it), so that visible tokens move against the content.

  Raises:
    UserError: a name is unknown, or the flow's grid does not divide into tokens.
  """
  t, h, w = grid
  map_key, noise_key = jax.random.split(key)
  maps = warped_maps(
    map_key,
    clip,
    flow,
    grid=grid,
    ratio=ratio,
    base_map=base_map,
    base_frame=base_frame,
    warp=warp,
    holes=holes,
    released_scale=released_scale,
    released_left_flow=released_left_flow,
  )
  scores = token_scores(maps, grid=grid, pixels=math.prod(clip.shape[:3]))
  if exposure:
    scores = _expose(noise_key, scores, chance=exposure)
  visible = int(h * w * (1 - ratio)) if released_count else h * w - count(ratio, h * w)
  return split(_hide(scores, visible=visible, top=top), visible=t * visible)


def warped_maps(
  key: Key[Array, ''],
  clip: Float[Array, 'T H W C'],
  flow: Flow,
  *,
  grid: Grid,
  ratio: float,
  base_map: str = 'gaussian_max',
  base_frame: str = 'middle',
  warp: str = 'backward',
  holes: str = 'consistent',
  released_scale: bool = False,
  released_left_flow: bool = False,
  **_,
) -> Float[Array, 'T H2 W2']:
  """The base map warped to every frame, on the flow's grid.

  It takes all options of `motion_guided` and ignores those that do not concern the maps.

  Raises:
    UserError: a name is unknown, or the flow's grid does not divide into tokens.
  """
  t, h, w = grid
  frames = clip.shape[0]
  rows, columns = flow.values.shape[-3:-1]
  if rows % h or columns % w or frames % t:
    raise UserError(
      f'masking motion_guided: {frames} frames and flow of {rows} x {columns} do not divide '
      f'into {t} x {h} x {w} tokens: choose another data.size or motion.name.'
    )
  map_key, frame_key = jax.random.split(key)
  draw = lookup(BASE_MAPS, base_map, 'masking motion_guided, base_map')
  base = draw(
    map_key, grid=(h, w), cell=(rows // h, columns // w), visible=h * w - count(ratio, h * w)
  )
  below, above = _steps(frames, base_frame, warp, released_left_flow)
  choose = BASE_FRAMES[base_frame]
  middle = choose(frames) if choose else jax.random.randint(frame_key, (), 0, frames)
  warp_along = functools.partial(
    chain,
    base,
    warp=functools.partial(WARPS[warp], released_scale=released_scale),
    fill=lookup(HOLE_FILLINGS, holes, 'masking motion_guided, holes'),
  )
  down = warp_along(flow.take(below), jnp.arange(len(below))[::-1] < middle)[::-1]
  up = warp_along(flow.take(above), jnp.arange(frames - len(above), frames) > middle)

  def missing(maps):  # The base map, for frames that no step leads to.
    return jnp.broadcast_to(base, (frames - len(maps), *base.shape))

  down, up = jnp.concatenate([down, missing(down)]), jnp.concatenate([missing(up), up])
  return jnp.where((jnp.arange(frames) < middle)[:, None, None], down, up)


def token_scores(maps: Float[Array, 'T H W'], *, grid: Grid, pixels: int) -> Float[Array, 't h w']:
  """The sum of the maps over each token, scaled as if all maps together had `pixels` pixels."""
  t, h, w = grid
  frames, rows, columns = maps.shape
  cells = maps.reshape(t, frames // t, h, rows // h, w, columns // w)
  return cells.sum((1, 3, 5)) * (pixels / maps.size)


def _expose(
  key: Key[Array, ''], scores: Float[Array, 't h w'], *, chance: float
) -> Float[Array, 't h w']:
  """Adds normal noise to one random slot, with the given chance."""
  noise_key, slot_key, chance_key = jax.random.split(key, 3)
  noise = jax.random.normal(noise_key, scores.shape)
  chosen = jnp.arange(scores.shape[0]) == jax.random.randint(slot_key, (), 0, scores.shape[0])
  chosen &= jax.random.uniform(chance_key) < chance
  return scores + noise * chosen[:, None, None]


def _hide(scores: Float[Array, 't h w'], *, visible: int, top: str) -> Bool[Array, ' n']:
  """True for all but the tokens with the highest scores; of equal ones the first is visible."""
  t, h, w = scores.shape
  check_name(top, TOP, 'masking motion_guided, top')
  groups = scores.reshape((t, h * w) if top == 'slot' else (1, t * h * w))
  seen = t * visible // len(groups)
  order = jnp.argsort(-groups, axis=1, stable=True)
  rank: Int[Array, 'q k'] = jnp.argsort(order, axis=1)
  return (rank >= seen).reshape(-1)
