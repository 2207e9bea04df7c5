"""Writes features of videos from a frozen encoder.

  python -m vmae_jax.extract runs/b_k400 --videos=LIST_OR_FOLDER_OR_VIDEO --out=DIR

writes
  OUT/features-SHARD-of-SHARDS.safetensors   `features`, and `video` and `start` of each row
  OUT/index.csv                              path, label, video (its number in the list), start
                                             (first frame of the clip, counted from where the
                                             line of the list starts), file, row
  OUT/broken.csv                             path, reason: videos that could not be read
By default the middle clip of each video, of the frames, stride and size of the run; --hop makes a
window slide over all of it. The same command goes on where an earlier one stopped. On
several hosts start it on each with --distributed.
"""

import hashlib
import pathlib

from absl import flags

from vmae_jax import cli, peers
from vmae_jax.cores import usable_cores
from vmae_jax.errors import UserError

_VIDEOS = flags.DEFINE_string('videos', None, 'A list, a folder, one video, tfds:... .')
_ROOT = flags.DEFINE_string('root', '', "Where relative paths start; by default the list's folder.")
_OUT = flags.DEFINE_string('out', None, 'The folder that features are written to.')
_FRAMES = flags.DEFINE_integer('frames', None, 'Frames in a clip.', lower_bound=1)
_STRIDE = flags.DEFINE_integer('stride', None, 'Video frames from one to the next.', lower_bound=1)
_SAMPLING = flags.DEFINE_string(
  'sampling', None, 'dense: at the stride; segment: one frame from each of equal segments.'
)
_SIZE = flags.DEFINE_string(
  'size', None, '224: the centre square; 480x880: whole frames at these rows x columns.'
)
_HOP = flags.DEFINE_integer(
  'hop', 0, 'Video frames between starts of clips; 0: the middle clip alone.', lower_bound=0
)
_LAYER = flags.DEFINE_integer('layer', -1, 'The block whose output is taken, -1 for the last.')
_POOL = flags.DEFINE_string(
  'pool', 'mean', 'tokens: t x h x w x d; slots: mean over each time slot, t x d; mean: d.'
)
_POSITIONS = flags.DEFINE_string(
  'positions', 'rebuild', 'Of other sizes than in training: rebuild, interpolate.'
)
_WEIGHTS = flags.DEFINE_string(
  'weights', '', 'Of a run: params or ema; by default the moving average where there is one.'
)
_BATCH = flags.DEFINE_integer('batch_size', 16, 'Clips encoded at a time.', lower_bound=1)
_SHARD = flags.DEFINE_integer(
  'shard_videos', 256, 'Videos in a file, whose features are in memory together.', lower_bound=1
)
_FORMAT = flags.DEFINE_enum('format', 'safetensors', ('safetensors', 'npz'), 'Of the files.')
_THREADS = flags.DEFINE_integer('threads', 0, 'Videos decoded at a time; 0: one a core.')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Joins several processes, see pretrain.')


def main(argv):
  if len(argv) != 2:
    raise UserError(
      'give one checkpoint: a run, one of its checkpoints/STEP, or a model of transformers or .pth.'
    )
  for flag in (_VIDEOS, _OUT):
    if not flag.value:
      raise UserError(f'give --{flag.name}: {flags.FLAGS[flag.name].help}')
  if _DISTRIBUTED.value:
    peers.join()
  import jax

  from vmae_jax.data.sources import open_source
  from vmae_jax.evaluation.encoder import load_encoder, recut, resolve
  from vmae_jax.evaluation.extraction import extract_all
  from vmae_jax.evaluation.results import claim
  from vmae_jax.evaluation.windows import Windows
  from vmae_jax.models.patches import token_grid

  config, params, encode = load_encoder(
    argv[1],
    pool=_POOL.value,
    layer=_LAYER.value,
    positions=_POSITIONS.value,
    weights=_WEIGHTS.value,
  )
  data = config.data
  if _HOP.value:  # A window that slides has a stride.
    data.sampling = 'dense'
  recut(
    config,
    {'frames': _FRAMES.value, 'stride': _STRIDE.value, 'sampling': _SAMPLING.value},
  )
  windows = Windows(
    frames=data.frames,
    stride=data.stride,
    hop=_HOP.value,
    sampling=data.sampling,
    size=str(data.size) if _SIZE.value is None else _SIZE.value,
  )
  token_grid((windows.frames, *windows.sides), tuple(config.model.patch))
  source = open_source(_VIDEOS.value, root=_ROOT.value)
  names = '\n'.join(f'{source.name(i)} {source.label(i)}' for i in range(len(source)))
  settings = {
    'checkpoint': resolve(argv[1]),
    'weights': config.weights,
    'layer': _LAYER.value,
    'pool': _POOL.value,
    'positions': _POSITIONS.value,
    'frames': windows.frames,
    'stride': windows.stride,
    'hop': windows.hop,
    'sampling': windows.sampling,
    'size': windows.size,
    'videos': _VIDEOS.value,
    'hash_of_list': hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()[:16],
    'shard_videos': _SHARD.value,
    'format': _FORMAT.value,
  }
  out = pathlib.Path(_OUT.value)
  claim(out, settings)
  clips, broken = extract_all(
    source,
    encode,
    params,
    out,
    windows=windows,
    batch_size=_BATCH.value,
    shard_videos=_SHARD.value,
    threads=_THREADS.value or usable_cores(),
    form=_FORMAT.value,
    metadata={name: str(value) for name, value in settings.items()},
  )
  told = f', {broken} videos broken (see broken.csv)' if broken else ''
  if jax.process_index() == 0:
    print(f'features of {clips} clips in {out / "index.csv"}{told}')


if __name__ == '__main__':
  cli.run(main)
