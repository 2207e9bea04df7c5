"""How good and how fast the estimators of flow are, beside OpenCV's.

Accuracy on real frames that are warped by known smooth motions, with and without noise and a
change of brightness; on natural frames the share of the difference to the next frame that the
flow's warp explains. Flow of OpenCV is computed at full resolution on one frame after another.
`codec` encodes the two frames with H.264; of natural frames `codec, the file's` takes the vectors
that the video has.
"""

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vmae_jax.data.frames import encode
from vmae_jax.data.video import Video
from vmae_jax.motion.codec import Blocks, codec_flow, cut_motion
from vmae_jax.motion.flow import ESTIMATORS
from vmae_jax.types import Float, UInt8

SIZE, FRAMES = 224, 16
START = 20  # First frame: some videos fade in.
STRIDES = (1, 4)  # Between natural frames.
CONDITIONS = ('clean', 'noise', 'brightness')
NOISE = 8.0  # Standard deviation, of 255.


def motions() -> dict[str, Float[np.ndarray, 'H W 2']]:
  """Name -> smooth motion in pixels of a SIZE x SIZE frame."""
  y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
  there = {
    f'translation, {d} px': np.broadcast_to([0.8 * d, -0.6 * d], (SIZE, SIZE, 2))
    for d in (1, 2, 4, 8, 12)
  }
  for degrees in (2, 4):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turned = np.stack([c * x - s * y, s * x + c * y], -1)
    there[f'rotation, {degrees} degrees'] = turned - np.stack([x, y], -1)
  for factor in (0.95, 1.05):
    there[f'zoom, {factor:g}'] = (factor - 1) * np.stack([x, y], -1)
  there['waves, to 6 px'] = 4.2 * np.stack([np.sin(y / 30), np.cos(x / 25)], -1)
  return there


def look_up(
  image: Float[np.ndarray, 'H W 3'], flow: Float[np.ndarray, 'H W 2'], *, order: int
) -> Float[np.ndarray, 'H W 3']:
  """image at p + flow(p), by splines of an order; edges are mirrored."""
  from scipy.ndimage import map_coordinates

  y, x = np.mgrid[: image.shape[0], : image.shape[1]]
  at = [y + flow[..., 1], x + flow[..., 0]]
  planes = [
    map_coordinates(plane, at, order=order, mode='mirror') for plane in image.T.swapaxes(1, 2)
  ]
  return np.stack(planes, -1)


def enlarge(flow: Float[np.ndarray, 'h w 2'], size: int) -> Float[np.ndarray, 'H W 2']:
  """Flow of a coarser grid in pixels of the frame."""
  planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(flow, -1, 0)]
  planes = [np.asarray(p.resize((size, size), Image.Resampling.BILINEAR)) for p in planes]
  return np.stack(planes, -1) * np.array([size / flow.shape[1], size / flow.shape[0]], np.float32)


def read_square(path: str, *, frames: int, stride: int) -> UInt8[np.ndarray, 'T H W 3']:
  """Frames from the middle of a video's frame, SIZE x SIZE."""
  return _read_square(path, frames=frames, stride=stride)[0]


def _read_square(path: str, *, frames: int, stride: int):
  """Frames as of `read_square`, the codec's motion in them, and the box that they are cut from."""
  with Video(path, vectors=True) as video:
    first = min(START, video.num_frames - 1 - (frames - 1) * stride)
    chosen = [first + i * stride for i in range(frames)]
    clip = video.read(chosen)
    blocks = [video.vectors.get(i) for i in chosen]
  side = min(clip.shape[1:3])
  top, left = (clip.shape[1] - side) // 2, (clip.shape[2] - side) // 2
  clip = clip[:, top : top + side, left : left + side]
  resized = [Image.fromarray(f).resize((SIZE, SIZE), Image.Resampling.BOX) for f in clip]
  return np.stack(resized), blocks, (left, top, side, side)


def _flow_of_blocks(
  blocks: list[Blocks | None], box: tuple[int, int, int, int], frames: int
) -> Float[np.ndarray, 'H W 2']:
  """From the first to the second of two, which are so many frames apart."""
  cells = cut_motion(blocks, box, flip=False, cells=SIZE // 8)
  flow = jax.jit(functools.partial(codec_flow, None, pairs=((0, 1),)))
  values = flow(vectors=jnp.asarray(cells[None]), times=jnp.array([[0, frames]]))
  return enlarge(np.asarray(values)[0, 0], SIZE)


def _codec(first, second):
  with Video(encode(np.stack([first, second]), rate=25), vectors=True) as video:
    video.read([0, 1])
    return _flow_of_blocks([video.vectors.get(i) for i in (0, 1)], (0, 0, SIZE, SIZE), 1)


def _ours(name: str) -> Callable:
  estimate = jax.jit(functools.partial(ESTIMATORS[name], pairs=((0, 1),)))

  def flow(first, second):
    clip = jnp.asarray(np.stack([first, second])[None], jnp.float32) / 255
    return enlarge(np.asarray(estimate(clip))[0, 0], SIZE)

  return flow


def _opencv(kind: str) -> Callable:
  import cv2

  def flow(first, second):
    first, second = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (first, second))
    if kind == 'dis':
      dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
      return dis.calc(first, second, None)
    return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 5, 15, 3, 5, 1.2, 0)

  return flow


def contenders(names: Sequence[str]) -> dict[str, Callable]:
  """Name -> (frame, frame) -> flow at full size; OpenCV's two if it is installed."""
  there = {name: _ours(name) for name in names} | {'codec': _codec}
  if importlib.util.find_spec('cv2'):
    there |= {'opencv dis': _opencv('dis'), 'opencv farneback': _opencv('farneback')}
  return there


def benchmark_flow(paths: Sequence[str], *, estimators: Sequence[str], rounds: int) -> dict:
  """Measures accuracy on the videos, and the cost of a clip's 15 pairs.

  Args:
    paths: Videos.
    estimators: Names in ESTIMATORS.
    rounds: Of which the median time is reported.

  Returns:
    `known`: motion -> condition -> contender -> median end-point error in pixels over all
    videos' pixels that stay in the frame. `natural`: stride -> video -> contender -> share of
    the mean absolute difference of neighbouring frames that the warp explains. `seconds`:
    estimator -> of FRAMES - 1 pairs of one clip.
  """
  there = contenders(estimators)
  return {
    'videos': len(paths),
    'known': _known(paths, there),
    'natural': {str(s): {p: _explained(p, s, there) for p in paths} for s in STRIDES},
    'seconds': {name: _seconds(name, rounds) for name in estimators},
    'rounds': rounds,
  }


def _known(paths: Sequence[str], there: dict[str, Callable]) -> dict:
  rng, rows = np.random.default_rng(0), {}
  frames = [read_square(path, frames=1, stride=1)[0].astype(np.float32) for path in paths]
  y, x = np.mgrid[:SIZE, :SIZE]
  for motion, true in motions().items():
    target = np.stack([x, y], -1) + true
    inside = ((target >= 0) & (target <= SIZE - 1)).all(-1)
    errors = {c: {name: [] for name in there} for c in CONDITIONS}
    for second in frames:
      first = look_up(second, true, order=3)
      for condition in CONDITIONS:
        pair = np.stack([first, second])
        if condition == 'noise':
          pair = pair + rng.normal(0, NOISE, pair.shape)
        if condition == 'brightness':
          pair[1] = 0.85 * pair[1] + 20
        pair = np.clip(np.round(pair), 0, 255).astype(np.uint8)
        for name, flow in there.items():
          error = np.linalg.norm(flow(*pair) - true, axis=-1)
          errors[condition][name].append(error[inside])
    rows[motion] = {
      c: {name: float(np.median(np.concatenate(e))) for name, e in by_name.items()}
      for c, by_name in errors.items()
    }
  return rows


def _explained(path: str, stride: int, there: dict[str, Callable]) -> dict[str, float]:
  (first, second), *moved = _read_square(path, frames=2, stride=stride)
  there = there | {"codec, the file's": lambda *_: _flow_of_blocks(*moved, stride)}
  before = np.abs(second.astype(np.float32) - first).mean()
  left = {
    name: np.abs(look_up(second.astype(np.float32), flow(first, second), order=1) - first).mean()
    for name, flow in there.items()
  }
  return {name: float(1 - after / before) for name, after in left.items()}


def _seconds(name: str, rounds: int) -> float:
  clip = jax.random.uniform(jax.random.key(0), (1, FRAMES, SIZE, SIZE, 3))
  pairs = tuple((i, i + 1) for i in range(FRAMES - 1))
  estimate = jax.jit(functools.partial(ESTIMATORS[name], pairs=pairs))
  jax.block_until_ready(estimate(clip))
  times = []
  for _ in range(rounds):
    start = time.perf_counter()
    jax.block_until_ready(estimate(clip))
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def table(result: dict) -> str:
  """The result as Markdown."""
  names = list(next(iter(result['known'].values()))['clean'])
  head = ' | '.join(names)
  lines = [
    f'Flow: median end-point error (pixels of {SIZE} x {SIZE}) on frames of {result["videos"]} '
    'videos, warped by known motions',
    '',
    f'| motion | | {head} |',
    '|---|---|' + '---|' * len(names),
  ]
  for motion, conditions in result['known'].items():
    for condition, row in conditions.items():
      values = ' | '.join(f'{row[name]:.2f}' for name in names)
      lines.append(f'| {motion} | {condition} | {values} |')
  lines += [
    '',
    'Share of the difference of natural frames that the warp explains (median over videos)',
    '',
  ]
  names = list(next(iter(next(iter(result['natural'].values())).values())))
  lines += [f'| frames apart | {" | ".join(names)} |', '|---|' + '---|' * len(names)]
  for stride, videos in result['natural'].items():
    medians = [statistics.median(row[name] for row in videos.values()) for name in names]
    lines.append(f'| {stride} | ' + ' | '.join(f'{m:.2f}' for m in medians) + ' |')
  lines += [
    '',
    f'{FRAMES - 1} pairs of a clip, seconds, median of {result["rounds"]}: '
    + ', '.join(f'{name} {seconds:.3f}' for name, seconds in result['seconds'].items()),
  ]
  return '\n'.join(lines)
