"""How fast clips come out of video files, beside OpenCV and torchcodec, and whether rightly.

A clip is 16 frames at a stride of 4 from a random start. All decoders get the same ones, open
the file anew for each, as training does, have one thread and take turns. What counts is CPU
time: in training all cores decode.
"""

import importlib
import statistics
import time
from collections.abc import Callable, Sequence

import av
import numpy as np

from vmae_jax.data.sampling import dense_indices
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError, VideoError
from vmae_jax.types import Int, UInt8

FRAMES, STRIDE = 16, 4
# Decoders round colours in their own ways, which is less than 1 on average. Frames that differ
# by more are other frames, save in scenes so still that neighbours differ by less.
TOLERANCE = 3.0

Images = Sequence[np.ndarray | None]  # One for each index; None where a decoder gave none.


def _vmae_jax(path: str, indices: Int[np.ndarray, ' T']) -> Images:
  with Video(path) as video:
    return list(video.read(indices))


def _opencv(path: str, indices: Int[np.ndarray, ' T']) -> Images:
  """Frame after frame, converting only the wanted ones: it cannot seek exactly."""
  import cv2

  video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
  wanted, images = set(indices.tolist()), {}
  for i in range(max(wanted) + 1):
    if not video.grab():
      break
    if i in wanted:
      found, image = video.retrieve()
      if found:
        images[i] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  video.release()
  return [images.get(i) for i in indices.tolist()]


def _torchcodec(path: str, indices: Int[np.ndarray, ' T']) -> Images:
  from torchcodec.decoders import VideoDecoder

  video = VideoDecoder(path, dimension_order='NHWC', num_ffmpeg_threads=1, seek_mode='exact')
  return list(video.get_frames_at(indices.tolist()).data.numpy())


DECODERS: dict[str, tuple[str, Callable]] = {  # Name -> module that must be there, function.
  'vmae_jax': ('av', _vmae_jax),
  'opencv': ('cv2', _opencv),
  'torchcodec': ('torchcodec', _torchcodec),
}


def available() -> tuple[list[str], dict[str, str]]:
  """Names of the decoders that can be imported, and why the others cannot, in one line."""
  there, missing = [], {}
  for name, (module, _) in DECODERS.items():
    try:
      importlib.import_module(module)
      there.append(name)
    except (ImportError, OSError, RuntimeError) as e:  # torchcodec raises all, without FFmpeg.
      missing[name] = str(e).strip().split('\n')[0]
  return there, missing


def _every_frame(path: str):
  """Decodes a whole file, the plain way."""
  with av.open(path) as container:
    yield from container.decode(video=0)


def _reference(path: str, wanted: set[int]) -> dict[int, UInt8[np.ndarray, 'H W 3']]:
  """Frame -> image, by counting from the first one."""
  images = {}
  for i, frame in enumerate(_every_frame(path)):
    if i in wanted:
      images[i] = np.rot90(frame.to_ndarray(format='rgb24'), round(frame.rotation / 90))
  return images


def difference(image: np.ndarray | None, right: UInt8[np.ndarray, 'H W 3']) -> float:
  """Mean absolute difference of the values; 255 for none and for one of another size."""
  if image is None or image.shape != right.shape:
    return 255.0
  return float(np.abs(image.astype(np.int16) - right).mean())


def benchmark_decode(paths: Sequence[str], *, what: str, rounds: int, decoders: list[str]) -> dict:
  """Decodes one clip of every video in every round, with every decoder.

  Args:
    paths: The videos, whole files.
    what: A name for them.
    rounds: Each has other clips; reported is the median of the rounds.
    decoders: Names in DECODERS.

  Returns:
    For each decoder the median, smallest and largest clips per second of CPU time, how many
    frames it read, how many of them differ from the same frame of a sequential decode by
    TOLERANCE or more, and the largest difference.

  Raises:
    UserError: a video cannot be read.
  """
  seconds = {name: [0.0] * rounds for name in decoders}
  differences = {name: [] for name in decoders}
  for path in paths:
    try:
      count = sum(1 for _ in _every_frame(path))
      clips = [
        dense_indices(count, frames=FRAMES, stride=STRIDE, rng=np.random.default_rng(r))
        for r in range(rounds)
      ]
      right = _reference(path, set(np.concatenate(clips).tolist()))
      for name in decoders:  # What is done once only: loading libraries, reading from the disk.
        DECODERS[name][1](path, clips[0])
      for r, indices in enumerate(clips):
        for turn in range(len(decoders)):
          name = decoders[(r + turn) % len(decoders)]
          start = time.process_time()
          images = DECODERS[name][1](path, indices)
          seconds[name][r] += time.process_time() - start
          differences[name] += [
            difference(image, right[i]) for i, image in zip(indices.tolist(), images, strict=True)
          ]
    except (VideoError, av.FFmpegError) as e:
      reason = getattr(e, 'strerror', None) or e
      raise UserError(f'{path} cannot be read ({reason}): leave it out of --videos.') from e
  rows = {}
  for name in decoders:
    speeds = [len(paths) / s for s in seconds[name]]
    rows[name] = {
      'clips_per_cpu_second': statistics.median(speeds),
      'slowest': min(speeds),
      'fastest': max(speeds),
      'frames': len(differences[name]),
      'wrong_frames': sum(d >= TOLERANCE for d in differences[name]),
      'largest_difference': max(differences[name]),
    }
  return {'what': what, 'videos': len(paths), 'rounds': rounds, 'decoders': rows}


def table(result: dict) -> str:
  """The result as Markdown."""
  lines = [
    f'{result["what"]}: {result["videos"]} videos, clips of {FRAMES} frames at stride {STRIDE}, '
    f'one thread; medians of {result["rounds"]} rounds. A frame is wrong if it differs from a '
    f'sequential decode by {TOLERANCE:g} of 255 or more on average.',
    '',
    '| | clips per CPU-second | slowest to fastest round | vmae_jax / it | wrong frames | '
    'largest difference |',
    '|---|---|---|---|---|---|',
  ]
  ours = result['decoders']['vmae_jax']['clips_per_cpu_second']
  for name, row in result['decoders'].items():
    lines.append(
      f'| {name} | {row["clips_per_cpu_second"]:.1f} | {row["slowest"]:.1f} to '
      f'{row["fastest"]:.1f} | {ours / row["clips_per_cpu_second"]:.2f} | '
      f'{row["wrong_frames"]} of {row["frames"]} | {row["largest_difference"]:.2f} |'
    )
  return '\n'.join(lines)
