"""Draws what a pre-trained model predicts for the hidden parts of your videos.

  python -m vmae_jax.reconstruct CHECKPOINT VIDEO... --out=DIR --ratio=0.75

CHECKPOINT is a run of pretrain or one of its checkpoints, a folder of transformers, a .pth or
.safetensors file of the official code, or hf:OWNER/NAME. VIDEO is a file, a list, or a folder of
videos.

Writes for each video, and each kind of target that the model predicts (pixels, differences of
frames, codes, trajectories, gradients, flow),
  OUT/VIDEO_KIND.png    rows of frames: input, masked, predicted, predicted and visible patches
  OUT/VIDEO_KIND.mp4    the same side by side, at the video's own speed
Captions say what was taken from the clip, which is never a hidden patch. For pixels one row shows
the visible patches interpolated without a model, and a printed line gives the errors of both.
"""

import sys
from pathlib import Path

from absl import flags

from vmae_jax import cli
from vmae_jax.errors import UserError, VideoError

_OUT = flags.DEFINE_string('out', None, 'The folder that pictures and films are written to.')
_RATIO = flags.DEFINE_float('ratio', None, 'Share of hidden tokens; by default as in training.')
_MASKING = flags.DEFINE_string(
  'masking',
  '',
  'tube, per_slot, random, frame, blocks, motion_guided, motion_bins or moving_block; by default '
  'as in training.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the mask.')
_WEIGHTS = cli.define_weights()
_CLIP = cli.define_clip()


def main(argv):
  if len(argv) < 3:
    raise UserError('give a checkpoint and at least one video: CHECKPOINT VIDEO... --out=DIR.')
  cli.need(_OUT)
  out = cli.here(_OUT.value)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise UserError(f'--out={out}: {e.strerror}; give a folder that can be written to.') from e
  from vmae_jax.data.sources import FileSource, open_source
  from vmae_jax.evaluation.encoder import recut
  from vmae_jax.trained import load
  from vmae_jax.visualize.files import mp4, png

  sources = {spec: open_source(spec) for spec in argv[2:]}
  for spec, source in sources.items():
    if not isinstance(source, FileSource):
      raise UserError(f'{spec} is neither a video nor a list or folder of videos.')
  model = load(argv[1], weights=_WEIGHTS.value)
  recut(model.config, cli.values(*_CLIP))
  taken, failed = set(), []
  videos = [(source, i) for source in sources.values() for i in range(len(source))]
  for source, i in videos:
    name = source.name(i)
    try:
      one = FileSource((source.entries[i],))
      found = model.reconstruct(one, **cli.values(_RATIO, _MASKING, _SEED))
      with source.open(i) as video:
        seconds = _seconds(video, model.config.data)
    except (UserError, VideoError) as e:
      if len(videos) == 1 or name not in str(e):
        raise
      failed.append(name)
      print(e, file=sys.stderr)
      continue
    stem = _unused(Path(name).stem, taken)
    for kind, picture in found.pictures().items():
      (out / f'{stem}_{kind}.png').write_bytes(png(picture))
    for kind, film in found.films().items():
      (out / f'{stem}_{kind}.mp4').write_bytes(mp4(film, rate=len(film) / seconds))
    print(f'{name}: {found.describe()}', flush=True)
  if failed:
    raise UserError(
      f'{len(failed)} of {len(videos)} videos could not be read, such as {failed[0]}.'
    )
  print(f'pictures and films in {out}')


def _seconds(video, data) -> float:
  """How long the frames of a clip last in the video, between half a second and a minute."""
  whole = data.sampling == 'segment'
  frames = video.num_frames if whole else min(video.num_frames, data.frames * data.stride)
  return min(60.0, max(0.5, frames / (video.rate or 25)))


def _unused(stem: str, taken: set[str]) -> str:
  """The name of a file, with a number where another video has the same name."""
  name, number = stem, 2
  while name in taken:
    name, number = f'{stem}_{number}', number + 1
  taken.add(name)
  return name


if __name__ == '__main__':
  cli.run(main)
