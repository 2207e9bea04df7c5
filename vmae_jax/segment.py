"""Segments videos from the mask of the first frame, by frozen features (label propagation).

  python -m vmae_jax.segment runs/b_k400 --davis=data/DAVIS --out=results/davis
  python -m vmae_jax.segment runs/b_k400 --frames=FOLDER_OR_VIDEO --mask=FIRST.png --out=DIR

writes
  OUT/masks/SEQUENCE/FRAME.png   palette PNGs of the frames' size, as DAVIS's server takes them
  OUT/pictures/SEQUENCE.png      a few frames with their masks
and for DAVIS, where masks of all frames are known, J, F and J&F as in its official evaluation:
  OUT/global_results-SPLIT.csv, OUT/per-sequence_results-SPLIT.csv, OUT/results.md

--preset names the protocol of a paper (vmae_jax/evaluation/propagation.py has the table); flags
such as --topk change it. The same command continues where an earlier one stopped.
"""

import dataclasses
import hashlib
import os

from absl import flags

from vmae_jax import cli
from vmae_jax.errors import UserError, lookup

_DAVIS = flags.DEFINE_string('davis', None, "DAVIS 2017's folder.")
_SPLIT = flags.DEFINE_string('split', 'val', 'A list in ImageSets/2017.')
_FRAMES = flags.DEFINE_string('frames', None, 'A folder of frames, or a video, instead of DAVIS.')
_MASK = flags.DEFINE_string('mask', None, "Mask of the first frame, of the frame's size.")
_OUT = flags.DEFINE_string('out', None, 'The folder that results are written to.')
_PRESET = flags.DEFINE_string('preset', 'dino', 'The protocol of a paper.')
_LAYER = flags.DEFINE_integer('layer', -1, 'The block whose output is taken, -1 for the last.')
_CLIP = flags.DEFINE_integer(
  'clip',
  0,
  "Frames of a clip around each frame, whose time slot gives the frame's features; 0 takes the "
  'frame alone, repeated to fill one time slot.',
  lower_bound=0,
)
_POSITIONS = flags.DEFINE_enum(
  'positions',
  'interpolate',
  ('interpolate', 'rebuild'),
  'interpolate: those of the training grid, resized to the frame; rebuild: computed for the frame.',
)
_WEIGHTS = cli.define_weights()
# A preset sets these; a flag that is given overrides it.
_CHANGES = (
  flags.DEFINE_string('size', None, 'native, 480, 480/64 or 480x880 (rows x columns).'),
  flags.DEFINE_integer(
    'topk', None, 'Number of most similar tokens that a token takes its labels from.'
  ),
  flags.DEFINE_integer(
    'last', None, 'Previous frames that labels are taken from, besides the first frame.'
  ),
  flags.DEFINE_string('shape', None, 'Shape of the neighbourhood: square or circle.'),
  flags.DEFINE_integer('radius', None, 'Radius of the neighbourhood, in tokens.'),
  flags.DEFINE_bool('limit_first', None, 'Whether the neighbourhood also limits the first frame.'),
  flags.DEFINE_float('temperature', None, 'Temperature of the softmax over similarities.'),
  flags.DEFINE_integer(
    'pad', None, 'How many of the --last frames are copies of the first one at the start.'
  ),
)


def main(argv):
  from vmae_jax.evaluation import segmentation
  from vmae_jax.evaluation.encoder import load_encoder, resolve, weights_hash
  from vmae_jax.evaluation.propagation import PRESETS
  from vmae_jax.evaluation.results import claim
  from vmae_jax.evaluation.sequences import first_mask, open_davis, open_frames

  checkpoint = cli.one_checkpoint(argv)
  if bool(_DAVIS.value) == bool(_FRAMES.value):
    raise UserError('give --davis=FOLDER, or --frames=FOLDER_OR_VIDEO and --mask=FIRST.png.')
  if bool(_FRAMES.value) != bool(_MASK.value):
    raise UserError('--frames and --mask=FIRST.png go together; DAVIS has its own masks.')
  cli.need(_OUT)
  out = cli.here(_OUT.value)
  changes = {k: v for k, v in cli.values(*_CHANGES).items() if v is not None}
  protocol = dataclasses.replace(lookup(PRESETS, _PRESET.value, '--preset'), **changes)
  if _DAVIS.value:
    clips = open_davis(_DAVIS.value, _SPLIT.value)
    source = {'davis': os.path.abspath(_DAVIS.value), 'split': _SPLIT.value}
  else:
    clips = [open_frames(_FRAMES.value, _MASK.value)]
    source = {'frames': os.path.abspath(_FRAMES.value)}
  options = cli.values(_LAYER, _POSITIONS)
  config, params, encode = load_encoder(
    checkpoint, pool='tokens', **options, weights=_WEIGHTS.value
  )
  patch = tuple(config.model.patch)
  if _CLIP.value % patch[0]:
    raise UserError(f'--clip={_CLIP.value}: give a multiple of {patch[0]}, the patch in time.')
  settings = {
    'checkpoint': resolve(checkpoint),
    'weights': config.weights,
    'preset': _PRESET.value,
    **dataclasses.asdict(protocol),
    **cli.values(_LAYER, _CLIP, _POSITIONS),
  }
  masks = hashlib.sha256()
  for clip in clips:
    masks.update(first_mask(clip.mask))
  hashes = {'hash_of_masks': masks.hexdigest()[:16], 'hash_of_weights': weights_hash(params)}
  claim(out, settings | source | hashes)
  shown = {k: v for k, v in settings.items() if k != 'checkpoint'}
  segmentation.segment_all(
    clips,
    segmentation.frame_features(encode, params),
    out,
    protocol=protocol,
    patch=patch,
    length=_CLIP.value,
    caption=', '.join(f'{k} {v}' for k, v in shown.items()),
  )
  print(f'masks in {out / "masks"}, pictures in {out / "pictures"}')
  if not any(clip.truth for clip in clips):
    print('not scored: there is no ground truth beyond the first frames.')
    return
  scores = segmentation.score_all(clips, out)
  result = segmentation.write_results(scores, out, split=_SPLIT.value, settings=settings)
  print(f'\n{result}\nwritten to {out / "results.md"}')


if __name__ == '__main__':
  cli.run(main)
