"""Tells how much the frozen features of a run say about classes: k-NN, linear, attentive probes.

  python -m vmae_jax.probe --checkpoint=runs/b_k400 --train=lists/train.txt --val=lists/val.txt

Prints a table and writes it to WORKDIR/probe.json. The same model with fresh weights is probed
beside it: what pre-training has added is the difference, not the figure.
"""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from vmae_jax import cli
from vmae_jax.errors import UserError, check_name

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
  'on features as they are; attentive: a learnt query over all tokens, which takes longest.',
)
_EPOCHS = flags.DEFINE_integer('epochs', 20, 'Passes of the attentive probe.')
_CACHE = flags.DEFINE_float(
  'cache_gb',
  4.0,
  'Tokens for the attentive probe are kept in memory up to this size; more are encoded anew in '
  'each of its epochs.',
)
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Clips encoded at a time.')
_UNTRAINED = flags.DEFINE_bool('untrained', True, 'Also probe fresh weights, for comparison.')
_OUT = flags.DEFINE_string('out', None, "The JSON file; by default probe.json in the run's folder.")

# How probes are called in the table.
TITLES = {
  'knn': 'k-NN',
  'linear': 'linear',
  'linear_plain': 'linear without BatchNorm',
  'attentive': 'attentive',
}


def main(argv):
  from vmae_jax.evaluation import encoder as encoders
  from vmae_jax.evaluation.knn import knn
  from vmae_jax.evaluation.linear import linear_probe
  from vmae_jax.evaluation.scoring import count_classes

  cli.refuse_arguments(argv)
  for flag in (_CHECKPOINT, _TRAIN, _VAL):
    if not flag.value:
      raise UserError(f'give --{flag.name}: {flags.FLAGS[flag.name].help}')
  for name in _PROBES.value:
    check_name(name, TITLES, '--probes')
  config, trained, apply = encoders.load_encoder(_CHECKPOINT.value, pool=_POOL.value)
  # Before hours of encoding: what would fail after them.
  train_source, val_source = (_open(spec, config.data) for spec in (_TRAIN.value, _VAL.value))
  folder = pathlib.Path(_CHECKPOINT.value)
  folder = folder.parent.parent if (folder / 'state').is_dir() else folder
  out = pathlib.Path(_OUT.value or folder / 'probe.json')
  if out.is_dir() or not os.access(out.parent, os.W_OK):
    raise UserError(f'--out={out}: give the name of a file, in a folder that can be written to.')
  models = {'pre-trained': trained}
  if _UNTRAINED.value:
    encoder, _ = encoders.build_encoder(config, pool=_POOL.value)
    models['untrained'] = jax.jit(lambda: encoders.init_encoder(config, encoder))()

  train, train_labels = _features(config, models, apply, train_source, _TRAIN.value)
  val, val_labels = _features(config, models, apply, val_source, _VAL.value)
  rows = {}
  for name in models:
    arguments = train[name], train_labels, val[name], val_labels
    rows[name] = {}
    if 'knn' in _PROBES.value:
      rows[name]['knn'] = knn(*arguments, k=min(20, len(train_labels)))
    if 'linear' in _PROBES.value:
      rows[name]['linear'] = linear_probe(*arguments)
    if 'linear_plain' in _PROBES.value:
      rows[name]['linear_plain'] = linear_probe(*arguments, batch_norm=False)
    if 'attentive' in _PROBES.value:
      rows[name]['attentive'] = _attentive(
        config, models[name], train_source, val_source, count_classes(train_labels, val_labels)
      )
  largest = np.bincount(val_labels).max() / len(val_labels)
  result = {
    'checkpoint': _CHECKPOINT.value,
    'pool': _POOL.value,
    'clips': {'train': len(train_labels), 'val': len(val_labels)},
    'largest_class': float(largest),
    'accuracy': rows,
  }
  _print(result)
  out.write_text(json.dumps(result, indent=2) + '\n')
  print(f'written to {out}')


def _open(spec: str, data):
  """The source of labelled videos that `spec` names."""
  from vmae_jax.data.sources import check_paths, open_source

  source = open_source(spec, root=data.root)
  check_paths(source, max_bad_share=data.max_bad_share)
  if source.label(0) < 0:
    raise UserError(f'{spec} has no labels: a probe needs lines `path label`, or class folders.')
  return source


def _features(config, models, apply, source, title: str):
  """Features of each model and labels, from one pass over the videos."""
  from vmae_jax.data.clips import ClipSampler
  from vmae_jax.data.loader import Loader
  from vmae_jax.evaluation.features import extract

  data = config.data
  sampler = ClipSampler(
    frames=data.frames, size=data.size, stride=data.stride, sampling=data.sampling, train=False
  )
  loader = Loader(source, sampler, batch_size=_BATCH.value, seed=0, shuffle=False, num_steps=None)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *models.values())
  several = jax.jit(jax.vmap(apply, in_axes=(0, None), out_axes=1))

  def features(video):
    x = several(stacked, video)
    return x.reshape(len(x), -1)

  total = -(-len(source) // _BATCH.value)
  with tqdm(loader, total=total, desc=f'features of {title}', unit='batch') as batches:
    both, labels = extract(features, batches)
  loader.close()
  return dict(zip(models, np.split(both, len(models), axis=1), strict=True)), labels


def _attentive(config, params, train, val, classes: int) -> dict[str, float]:
  """The attentive probe of one model."""
  from vmae_jax.evaluation.attentive import attentive_probe
  from vmae_jax.evaluation.encoder import build_encoder
  from vmae_jax.evaluation.tokens import TokenSet

  _, encode = build_encoder(config, pool='tokens')
  size = dict(batch_size=_BATCH.value, cache_bytes=int(_CACHE.value * 2**30))
  train_set = TokenSet(lambda video: encode(params, video), train, config.data, **size)
  val_set = TokenSet(lambda video: encode(params, video), val, config.data, **size)
  chooses = np.random.default_rng(0).permutation(len(train)) < len(train) // 10
  return attentive_probe(
    lambda epoch: train_set.batches(epoch, counted=~chooses),
    lambda: train_set.batches(counted=chooses),
    val_set.batches,
    classes=classes,
    width=train_set.width,
    steps=train_set.steps,
    epochs=_EPOCHS.value,
  )


def _print(result) -> None:
  names = next(iter(result['accuracy'].values()))
  titles = {name: f'{TITLES[name]} top-1' for name in names}
  print(f'{"":14}' + ''.join(f'{title:>{len(title) + 2}}' for title in titles.values()))
  for model, row in result['accuracy'].items():
    cells = (f'{row[name]["top1"]:{len(title) + 2}.3f}' for name, title in titles.items())
    print(f'{model:14}' + ''.join(cells))
  clips = result['clips']
  print(
    f'({clips["train"]} training and {clips["val"]} held-out clips; always naming the largest '
    f'class gives {result["largest_class"]:.3f})'
  )


if __name__ == '__main__':
  cli.run(main)
