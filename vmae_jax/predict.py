"""Classifies videos with a fine-tuned model.

  python -m vmae_jax.predict CHECKPOINT VIDEOS --out=DIR

CHECKPOINT is a run of finetune or one of its checkpoints, a fine-tuned model of transformers or of
the official code, or hf:OWNER/NAME. VIDEOS is a video, a list or a folder, shards, or
tfds:... .

Writes
  OUT/predictions.csv     for each video the five most probable classes and their probabilities
  OUT/predictions.json    the same
  OUT/contact_sheet.png   frames of twelve videos with the class that was predicted
Probabilities are averaged over several clips and crops of each video, as in the run's test. The
same command continues where an earlier one stopped.
"""

import functools
import json
import re

from absl import flags

from vmae_jax import cli
from vmae_jax.errors import UserError

_OUT = flags.DEFINE_string('out', None, 'The folder that results are written to.')
_ROOT = flags.DEFINE_string('root', '', "Where relative paths start; by default the list's folder.")
_VIEWS = flags.DEFINE_string(
  'views', '', 'Clips over time x crops of each, such as 5x3; by default as the run was tested.'
)
_BATCH = flags.DEFINE_integer('batch_size', 60, 'Clips at a time.', lower_bound=1)
_THREADS = flags.DEFINE_integer('threads', 0, 'Videos decoded at a time; 0: one for each core.')
_WEIGHTS = cli.define_weights()
_CLIP = cli.define_clip()


def main(argv):
  if len(argv) != 3:
    raise UserError('give a checkpoint and videos: CHECKPOINT VIDEOS --out=DIR.')
  cli.need(_OUT)
  out = cli.here(_OUT.value)
  views = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', _VIEWS.value) if _VIEWS.value else None
  if _VIEWS.value and not views:
    raise UserError(f'--views={_VIEWS.value}: give clips x crops, such as --views=5x3.')
  import jax

  from vmae_jax.data.sources import open_source
  from vmae_jax.evaluation.encoder import recut, resolve, weights_hash
  from vmae_jax.evaluation.multiview import classify
  from vmae_jax.evaluation.results import claim, write_csv
  from vmae_jax.prepare.datasheet import contact_sheet
  from vmae_jax.sharding import make_mesh, replicated
  from vmae_jax.trained import load
  from vmae_jax.visualize.files import png

  checkpoint, videos = argv[1:]
  source = open_source(videos, root=_ROOT.value)
  model = load(checkpoint, weights=_WEIGHTS.value)
  recut(model.config, cli.values(*_CLIP))
  logits = model.logits  # Raises an error if it is not a classifier.
  sampler = model.views((int(views[1]), int(views[2])) if views else None)
  about = {
    'checkpoint': resolve(model.path),
    'weights': model.config.weights,
    'hash_of_weights': weights_hash(model.params),
    'videos': videos,
    **{name: getattr(sampler, name) for name in ('frames', 'stride', 'sampling', 'resampling')},
    **{name: getattr(sampler, name) for name in ('segments', 'crops')},
  }
  claim(out, about)
  mesh = make_mesh()
  params = jax.device_put(model.params, replicated(mesh))
  with jax.set_mesh(mesh):
    records = classify(
      jax.jit(lambda video: jax.nn.softmax(logits(params, video))),
      source,
      sampler,
      str(out / '.records.jsonl'),
      about=about,
      batch_size=_BATCH.value,
      mesh=mesh,
      threads=_THREADS.value,
    )
  found = [_named(source.name(i), record, model.classes) for i, record in enumerate(records)]
  (out / 'predictions.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
  places = range(1, 1 + max(len(entry['best']) for entry in found))
  columns = ['video', *(f'{what}{i}' for i in places for what in ('class', 'probability'))]
  rows = [
    [entry['video'], *(x for best in entry['best'] for x in best.values())] for entry in found
  ]
  failed = [entry for entry in found if 'failed' in entry]
  for row, entry in zip(rows, found, strict=True):
    row += [''] * (len(columns) - len(row)) + [entry.get('failed', '')]
  write_csv(f'{out}/predictions.csv', [[*columns, 'failed'], *rows])
  read = [i for i, entry in enumerate(found) if entry['best']]
  if not read:
    raise UserError(f'none of {len(found)} videos can be read, such as {failed[0]["video"]}.')
  title = f'{len(read)} videos, predicted by {model.path}'
  picture = contact_sheet(source, read, title=title, text=functools.partial(_best, found))
  (out / 'contact_sheet.png').write_bytes(png(picture))
  for entry in found[:20]:
    best = ', '.join(f'{b["class"]} {b["probability"]:.1%}' for b in entry['best'][:3])
    print(f'{entry["video"]}: {best or entry["failed"]}')
  more = f'{len(found) - 20} more, ' if len(found) > 20 else ''
  broken = f', {len(failed)} could not be read' if failed else ''
  print(f'{more}all in {out}/predictions.csv, .json and contact_sheet.png{broken}')


def _named(video: str, record, classes: tuple[str, ...]) -> dict:
  """A record of `classify` with the names of classes."""
  best = zip(record.get('best', ()), record.get('probability', ()), strict=True)
  entry = {
    'video': video,
    'best': [{'class': classes[i], 'probability': probability} for i, probability in best],
  }
  return entry | ({'failed': record['failed']} if 'failed' in record else {})


def _best(found: list[dict], i: int) -> str:
  best = found[i]['best'][0]
  return f'{best["class"]} {best["probability"]:.0%}'


if __name__ == '__main__':
  cli.run(main)
