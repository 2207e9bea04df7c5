"""Features of all clips of a list of videos, in shards, each of which is complete once it exists.

Shard s holds the videos from s * n up to (s + 1) * n of the list, for any number of devices.
Process i of p computes the shards i, i + p, i + 2 p, ...
"""

import functools
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import save
from tqdm import tqdm

from vmae_jax import storage
from vmae_jax.data.sources import Source
from vmae_jax.errors import UserError
from vmae_jax.evaluation.features import check_finite, one_behind
from vmae_jax.evaluation.results import write_csv
from vmae_jax.evaluation.windows import Found, Windows, read_windows
from vmae_jax.sharding import batch_sharding, make_mesh, replicated
from vmae_jax.types import Array, Float

FORMATS = ('safetensors', 'npz')
_DONE = '.shards'  # Holds a JSON file for each finished shard: its rows and broken videos.


def extract_all(
  source: Source,
  encode: Callable[..., Array],
  params: Any,
  out: Path,
  *,
  windows: Windows,
  batch_size: int,
  shard_videos: int,
  threads: int,
  form: str,
  metadata: dict[str, str],
) -> tuple[int, int]:
  """Writes features, an index and a list of broken videos; continues where it was stopped.

  Args:
    encode: (parameters, uint8 clips 'b T H W 3') -> features 'b ...'.
    out: The folder for `features-SHARD-of-SHARDS.FORM`, `index.csv` (path, label, video's number
      in the list from 0, start, file, row) and `broken.csv` (path, reason).
    batch_size: Clips encoded at a time; rounded up to a multiple of the devices.
    shard_videos: Videos in a shard.
    threads: Videos decoded at a time.
    form: One of FORMATS.
    metadata: How the features were made; written into each file.

  Returns:
    The numbers of clips with features and of broken videos.

  Raises:
    UserError: features are not finite, or no video can be read.
  """
  done = out / _DONE
  done.mkdir(exist_ok=True)
  count = -(-len(source) // shard_videos)
  name = f'features-{{:05d}}-of-{count:05d}.{form}'
  mine = range(jax.process_index(), count, jax.process_count())
  left = [s for s in mine if not (done / f'{s:05d}.json').exists()]
  videos = [range(s * shard_videos, min((s + 1) * shard_videos, len(source))) for s in left]
  mesh = make_mesh(devices=jax.local_devices())
  params = jax.device_put(params, replicated(mesh))
  total = sum(map(len, videos))
  with jax.set_mesh(mesh), tqdm(total=total, unit='video', desc='encoding') as bar:
    for s, part in zip(left, videos, strict=True):
      found = read_windows(source, part, windows, threads=threads)
      encoded = functools.partial(encode, params)
      features, rows, broken = _encode(found, encoded, mesh, windows, batch_size, bar)
      if rows:
        _save(out / name.format(s), features, rows, form, metadata)
      about = json.dumps({'rows': rows, 'broken': broken})
      storage.write_text(f'{done}/{s:05d}.json', about)
  multihost_utils.sync_global_devices('all shards are written')
  return _write_index(source, out, [(name.format(s), done / f'{s:05d}.json') for s in range(count)])


def _encode(
  found: Iterator[Found], encode, mesh, windows: Windows, batch_size: int, bar: tqdm
) -> tuple[Float[np.ndarray, 's ...'] | None, list[tuple[int, int]], dict[int, str]]:
  """Features of a shard's clips, (video, first frame) of each, and video -> why it is broken.

  A broken video has no row, even if some of its clips could be read.
  """
  batch_size = -(-batch_size // mesh.size) * mesh.size
  rows, broken, clips = [], {}, []

  def run() -> tuple[Array, int]:
    used = len(clips)
    batch = np.zeros((batch_size, windows.frames, *windows.sides, 3), np.uint8)
    batch[:used] = clips
    clips.clear()
    return encode(jax.device_put(batch, batch_sharding(mesh))), used

  def started() -> Iterator[tuple[Array, int]]:
    for item in found:
      if item.clip is None:
        bar.update()
        if item.reason:
          broken[item.video] = item.reason
        continue
      rows.append((item.video, item.start))
      clips.append(item.clip)
      if len(clips) == batch_size:
        yield run()
    if clips:
      yield run()

  features = [np.asarray(x)[:used] for x, used in one_behind(started())]
  whole = [video not in broken for video, _ in rows]
  if not any(whole):
    return None, [], broken
  array = np.concatenate(features)[whole]
  check_finite(array)
  return array, [row for row, keep in zip(rows, whole, strict=True) if keep], broken


def _save(path: Path, features, rows, form: str, metadata: dict[str, str]) -> None:
  video, start = np.array(rows, np.int64).T.copy()
  arrays = {'features': features, 'video': video, 'start': start}
  if form == 'npz':
    file = io.BytesIO()
    np.savez(file, **arrays, **{name: np.array(value) for name, value in metadata.items()})
    data = file.getvalue()
  else:
    data = save(arrays, metadata)
  storage.write(str(path), data)


def _write_index(source: Source, out: Path, shards: list[tuple[str, Path]]) -> tuple[int, int]:
  """Writes index.csv and broken.csv from the JSON file of each shard."""
  index, broken = [], []
  for name, path in shards:
    about = json.loads(path.read_text(encoding='utf-8'))
    for row, (i, start) in enumerate(about['rows']):
      index.append((source.name(i), source.label(i), i, start, name, row))
    broken += [(source.name(int(i)), reason) for i, reason in about['broken'].items()]
  if jax.process_index() == 0:
    columns = ('path', 'label', 'video', 'start', 'file', 'row')
    write_csv(f'{out}/index.csv', [columns, *index])
    write_csv(f'{out}/broken.csv', [('path', 'reason'), *broken])
  if not index:
    raise UserError(
      f'none of the {len(broken)} videos can be read, such as {broken[0][0]} ({broken[0][1]}): '
      f'{out / "broken.csv"} lists all.'
    )
  return len(index), len(broken)
