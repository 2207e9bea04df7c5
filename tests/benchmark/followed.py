"""Whether visible tokens stay on the same content: on made-up clips, whose motion is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.data import synthetic
from vmae_jax.masking.motion_guided import flow_pairs, motion_guided
from vmae_jax.masking.random import tube
from vmae_jax.motion.flow import ESTIMATORS, Flow, estimate
from vmae_jax.types import Bool, Float

RATIO = 0.9
# In sides of a token: half its diagonal is 0.71, so no place is further from the nearest one.
NEAR = 0.75
PURE = 0.8  # Tokens that show less of either sprite or background are mixed.
MOVED = 0.25  # Content that moves by as much from slot to slot counts as moving.
SIZES = {224: (16, 16), 64: (16, 8), 32: (8, 8)}  # Side of the frame -> frames, side of a token.


def true_flow(
  index: int, pair: tuple[int, int], *, frames: int, size: int, seed: int = 0
) -> tuple[Float[np.ndarray, 'H W 2'], Bool[np.ndarray, 'H W']]:
  """How the content of clip `index` really moves from frame i to j, and where that is known.

  It is known where content stays in the frame and is not covered by the sprite.
  """
  i, j = pair
  name = synthetic.MOTIONS[index % len(synthetic.MOTIONS)]
  course = synthetic.draw_course(np.random.default_rng([seed, index]), name, frames)
  _, opacity = synthetic.render_with_opacity(seed, index, frames=frames, size=size)
  sprite = opacity > 0.5
  x, y = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)

  def shift(a):  # On the torus, the short way.
    return (a[j] - a[i] + 0.5) % 1 - 0.5

  low, high = np.log(synthetic.RADIUS)
  grown = course.size[j] - course.size[i]
  factor, turn = np.exp((high - low) * grown), course.angle[j] - course.angle[i]
  dx, dy = (x - course.x[i] + 0.5) % 1 - 0.5, (y - course.y[i] + 0.5) % 1 - 0.5
  along = factor * (np.cos(turn) * dx - np.sin(turn) * dy) - dx + shift(course.x)
  down = factor * (np.sin(turn) * dx + np.cos(turn) * dy) - dy + shift(course.y)
  background = np.broadcast_to([shift(course.pan_x), shift(course.pan_y)], (size, size, 2))
  flow = np.where(sprite[i][..., None], np.stack([along, down], -1), background) * size
  target = np.floor(np.stack([x, y], -1) * size + flow).astype(int)
  inside = ((target >= 0) & (target < size)).all(-1)
  target = target.clip(0, size - 1)
  same = sprite[j][target[..., 1], target[..., 0]] == sprite[i]
  jump = sprite[i] & (abs(grown) > 0.5)  # The size starts anew.
  return flow, inside & same & ~jump


def benchmark_followed(
  *, clips: int, size: int, estimator: str = 'inverse_search', batch: int = 8
) -> dict:
  """The share of visible tokens whose content is visible in the next time slot, too.

  A token's content is what its middle shows in the first frame of its slot. It is visible in
  the next slot if the true motion takes it to within NEAR of the middle of a visible token.
  Content that leaves the frame or is covered does not count, nor do tokens that show both
  sprite and background.

  Args:
    clips: How many, of all classes alike.
    size: A key of SIZES.
    estimator: A name in ESTIMATORS.
    batch: Clips at a time.

  Returns:
    For masking guided by the estimated flow, and by the true one, and for tube masking: the
    share over `all` tokens and over those whose content is `moving`.
  """
  frames, patch = SIZES[size]
  grid = frames // 2, size // patch, size // patch
  pairs = flow_pairs(frames)
  rule = functools.partial(motion_guided, grid=grid, ratio=RATIO)
  still = functools.partial(tube, grid=grid, ratio=RATIO)

  @jax.jit
  def masks(keys, video, truth):
    clip = video.astype(jnp.float32) / 255
    flow = estimate(clip, pairs=pairs, estimator=ESTIMATORS[estimator])
    truth = Flow(truth, pairs)
    return {
      estimator: jax.vmap(rule)(keys, clip, flow).visible,
      'true flow': jax.vmap(rule)(keys, clip, truth).visible,
      'tube': jax.vmap(lambda key: still(key, None, None))(keys).visible,
    }

  votes = {}
  for start in range(0, clips, batch):
    indices = range(start, min(start + batch, clips))
    video = np.stack([synthetic.render(0, i, frames=frames, size=size) for i in indices])
    truth = np.stack([
      np.stack([true_flow(i, pair, frames=frames, size=size)[0] for pair in pairs])
      for i in indices
    ]).astype(np.float32)  # fmt: skip
    keys = jax.vmap(jax.random.key)(np.array(indices))
    for name, visible in jax.device_get(masks(keys, video, truth)).items():
      for i, tokens in zip(indices, visible, strict=True):
        shown = np.zeros(np.prod(grid), bool)
        shown[tokens] = True
        votes.setdefault(name, []).append(_stays(shown.reshape(grid), i, frames, size))
  rows = {}
  for name, entries in votes.items():
    stays, moves = (np.concatenate(x) for x in zip(*entries, strict=True))
    rows[name] = {'all': float(stays.mean()), 'moving': float(stays[moves].mean())}
  return {'clips': clips, 'size': size, 'frames': frames, 'patch': patch, 'masks': rows}


def _stays(
  shown: Bool[np.ndarray, 't h w'], index: int, frames: int, size: int
) -> tuple[Bool[np.ndarray, ' k'], Bool[np.ndarray, ' k']]:
  """For visible tokens whose way is known: whether they stay, and whether they move."""
  stays, moves = [], []
  patch = size // shown.shape[1]
  _, opacity = synthetic.render_with_opacity(0, index, frames=frames, size=size)
  tokens = opacity.reshape(frames, size // patch, patch, size // patch, patch)
  share = tokens.mean((2, 4)).repeat(patch, 1).repeat(patch, 2)
  one_thing = (share < 1 - PURE) | (share > PURE)
  for slot in range(len(shown) - 1):
    flow, known = true_flow(index, (2 * slot, 2 * slot + 2), frames=frames, size=size)
    middles = np.argwhere(shown[slot]) * patch + patch // 2
    middles = middles[(known & one_thing[2 * slot])[middles[:, 0], middles[:, 1]]]
    step = flow[middles[:, 0], middles[:, 1]][:, ::-1]
    next_middles = np.argwhere(shown[slot + 1]) * patch + patch // 2
    gap = (middles + step)[:, None] - next_middles
    stays.append(np.hypot(*np.moveaxis(gap, -1, 0)).min(1) <= NEAR * patch)
    moves.append(np.hypot(*step.T) >= MOVED * patch)
  return np.concatenate(stays), np.concatenate(moves)


def table(results: list[dict]) -> str:
  """What `benchmark_followed` returned for several sizes, as Markdown."""
  lines = [
    f'Share of visible tokens ({1 - RATIO:.0%} of all) whose content is visible in the next '
    'slot, too; made-up clips',
    '',
    '| clip | token | mask | all tokens | moving content |',
    '|---|---|---|---|---|',
  ]
  for result in results:
    for name, row in result['masks'].items():
      lines.append(
        f'| {result["frames"]} x {result["size"]} x {result["size"]} | {result["patch"]} px | '
        f'{name} | {row["all"]:.3f} | {row["moving"]:.3f} |'
      )
  return '\n'.join(lines)
