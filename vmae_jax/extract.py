"""Writes features of videos from a frozen encoder.

  python -m vmae_jax.extract runs/b_k400 --videos=LIST_OR_FOLDER_OR_VIDEO --out=DIR

writes
  OUT/features-SHARD-of-SHARDS.safetensors   `features`, and `video` and `start` of each row
  OUT/index.csv                              path, label, video (its number in the list), start
                                             (first frame of the clip, counted from where the
                                             line of the list starts), file, row
  OUT/broken.csv                             path, reason: videos that could not be read
By default it takes the middle clip of each video, with frames, stride and size of the run; with
--hop a window slides over the whole video. The same command continues where an earlier one stopped.
On several hosts start the same command on each with --distributed.
"""

import dataclasses
import hashlib

from absl import flags

from vmae_jax import cli, peers
from vmae_jax.cores import usable_cores

_VIDEOS = flags.DEFINE_string('videos', None, 'A list, a folder, one video, tfds:... .')
_ROOT = flags.DEFINE_string('root', '', "Where relative paths start; by default the list's folder.")
_OUT = flags.DEFINE_string('out', None, 'The folder that features are written to.')
_CLIP = cli.define_clip()
_SIZE = flags.DEFINE_string(
  'size', None, '224: the centre square; 480x880: whole frames, resized to rows x columns.'
)
_HOP = flags.DEFINE_integer(
  'hop',
  0,
  'Distance between the starts of clips, in video frames; 0: the middle clip alone.',
  lower_bound=0,
)
_LAYER = flags.DEFINE_integer('layer', -1, 'The block whose output is taken, -1 for the last.')
_POOL = flags.DEFINE_string(
  'pool', 'mean', 'tokens: t x h x w x d; slots: mean over each time slot, t x d; mean: d.'
)
_POSITIONS = flags.DEFINE_string(
  'positions', 'rebuild', 'Positions for sizes other than in training: rebuild or interpolate.'
)
_WEIGHTS = cli.define_weights()
_BATCH = flags.DEFINE_integer('batch_size', 16, 'Clips encoded at a time.', lower_bound=1)
_SHARD = flags.DEFINE_integer(
  'shard_videos',
  256,
  'Videos in a file; their features are held in memory together.',
  lower_bound=1,
)
_FORMAT = flags.DEFINE_enum('format', 'safetensors', ('safetensors', 'npz'), 'Format of the files.')
_THREADS = flags.DEFINE_integer('threads', 0, 'Videos decoded at a time; 0: one for each core.')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Joins several processes, see pretrain.')


def main(argv):
  checkpoint = cli.one_checkpoint(argv)
  cli.need(_VIDEOS, _OUT)
  out = cli.here(_OUT.value)
  if _DISTRIBUTED.value:
    peers.join()
  import jax

  from vmae_jax.data.sources import open_source
  from vmae_jax.evaluation.encoder import load_encoder, recut, resolve, weights_hash
  from vmae_jax.evaluation.extraction import extract_all
  from vmae_jax.evaluation.results import claim
  from vmae_jax.evaluation.windows import Windows
  from vmae_jax.models.patches import token_grid

  encoder_options = cli.values(_LAYER, _POOL, _POSITIONS)
  config, params, encode = load_encoder(checkpoint, **encoder_options, weights=_WEIGHTS.value)
  data = config.data
  if _HOP.value:  # A sliding window has a stride.
    data.sampling = 'dense'
  recut(config, cli.values(*_CLIP))
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
    'checkpoint': resolve(checkpoint),
    'weights': config.weights,
    'hash_of_weights': weights_hash(params),
    **encoder_options,
    **dataclasses.asdict(windows),
    **cli.values(_VIDEOS, _SHARD, _FORMAT),
    'hash_of_list': hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()[:16],
  }
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
  if jax.process_index() == 0:
    more = f', {broken} videos broken (see broken.csv)' if broken else ''
    print(f'features of {clips} clips in {out / "index.csv"}{more}')


if __name__ == '__main__':
  cli.run(main)
