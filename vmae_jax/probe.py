"""Measures frozen features of a checkpoint by k-NN, linear and attentive probes.

  python -m vmae_jax.probe --checkpoint=runs/b_k400 --train=lists/train.txt --val=lists/val.txt

Prints a table and writes it to --out, by default WORKDIR/probe.json for a run. The same model with
fresh weights is probed, too: the difference shows what pre-training has added.
"""

import json
import os

from absl import flags

from vmae_jax import cli, storage

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A run, or one of its checkpoints.')
_TRAIN = flags.DEFINE_string('train', None, 'Labelled training videos: a list, folder, tfds:...')
_VAL = flags.DEFINE_string('val', None, 'Labelled held-out videos.')
_POOL = flags.DEFINE_string(
  'pool', 'slots', 'slots: mean over each time slot, concatenated; mean: over all tokens.'
)
_PROBES = flags.DEFINE_list(
  'probes',
  ['knn', 'linear'],
  'knn; linear: on standardised features, as after a BatchNorm without parameters; linear_plain: '
  'on features as they are; attentive: a learnt query over all tokens, the slowest.',
)
_EPOCHS = flags.DEFINE_integer('epochs', 20, 'Epochs of the attentive probe.', lower_bound=1)
_CACHE = flags.DEFINE_float(
  'cache_gb',
  4.0,
  'Tokens for the attentive probe are kept in memory up to this size; more are encoded again in '
  'each of its epochs.',
)
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Clips encoded at a time.', lower_bound=1)
_UNTRAINED = flags.DEFINE_bool('untrained', True, 'Also probe fresh weights, for comparison.')
_WEIGHTS = cli.define_weights()
_CLIP = cli.define_clip()
_OUT = flags.DEFINE_string(
  'out', None, 'The JSON file; of a run by default probe.json in its folder, of others none.'
)


def main(argv):
  from vmae_jax.evaluation.encoder import resolve
  from vmae_jax.evaluation.probing import probe, table
  from vmae_jax.hub import local_path

  cli.refuse_arguments(argv)
  cli.need(_CHECKPOINT, _TRAIN, _VAL)
  checkpoint = local_path(_CHECKPOINT.value)
  resolve(checkpoint)
  folder = checkpoint.rstrip('/')
  if storage.is_folder(f'{folder}/state'):
    folder = os.path.dirname(os.path.dirname(folder))
  out = _OUT.value
  if not out and storage.is_folder(f'{folder}/checkpoints'):  # Only a run's folder gets the file.
    out = storage.join(folder, 'probe.json')
  if out:
    cli.check_file(out)
  options = cli.values(_TRAIN, _VAL, _POOL, _PROBES, _EPOCHS, _CACHE, _BATCH, _UNTRAINED, _WEIGHTS)
  result = probe(checkpoint, **options, clip=cli.values(*_CLIP))
  print(table(result))
  if out:
    storage.write_text(out, json.dumps(result, indent=2) + '\n')
    print(f'written to {out}')


if __name__ == '__main__':
  cli.run(main)
