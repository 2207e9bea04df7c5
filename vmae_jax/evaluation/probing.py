"""Probes of frozen features: how well they tell classes that the encoder was not trained on.

The same model with random weights is probed beside it: the difference between the two is what
pre-training adds.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from vmae_jax.data.sources import Source, check_paths, open_source
from vmae_jax.errors import UserError, check_name
from vmae_jax.evaluation.attentive import attentive_probe
from vmae_jax.evaluation.encoder import build_encoder, init_encoder, load_encoder, recut
from vmae_jax.evaluation.features import TokenSet, extract, middle_clips
from vmae_jax.evaluation.knn import knn
from vmae_jax.evaluation.linear import linear_probe
from vmae_jax.evaluation.results import a_tenth, count_classes, markdown

# Titles of the probes in the table.
TITLES = {
  'knn': 'k-NN',
  'linear': 'linear',
  'linear_plain': 'linear without BatchNorm',
  'attentive': 'attentive',
}
# Probes of pooled features: (features, labels, held-out features, their labels) -> top1 and more.
FROZEN: dict[str, Callable[..., dict[str, float]]] = {
  'knn': lambda x, y, *val: knn(x, y, *val, k=min(20, len(y))),
  'linear': linear_probe,
  'linear_plain': partial(linear_probe, batch_norm=False),
}


def probe(
  checkpoint: str,
  *,
  train: str,
  val: str,
  pool: str = 'slots',
  probes: Sequence[str] = ('knn', 'linear'),
  epochs: int = 20,
  cache_gb: float = 4.0,
  batch_size: int = 64,
  untrained: bool = True,
  weights: str = '',
  clip: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Probes the encoder of a checkpoint, and the same one untrained.

  Args:
    checkpoint: See `load_encoder`.
    train: Labelled videos to learn from, see `open_source`.
    val: Labelled held-out videos.
    pool: A key of `evaluation.encoder.POOLS`.
    probes: Keys of TITLES.
    epochs: Passes of the attentive probe.
    cache_gb: Tokens for the attentive probe are kept in memory up to this size.
    untrained: Whether to probe random weights, too.
    weights: See `choose_weights`.
    clip: `frames`, `stride` or `sampling` of clips if they differ from those of training.

  Returns:
    `accuracy`: model -> probe -> top1 and more; `clips`: the sizes of both sets; `largest_class`:
    the accuracy of always predicting the most frequent class; `checkpoint`, `pool`, `weights` (the
    kind that was used) and `clip` (frames, size, stride and sampling).

  Raises:
    UserError: there is no such checkpoint, probe or video, or videos have no labels.
  """
  for name in probes:
    check_name(name, TITLES, '--probes')
  config, trained, apply = load_encoder(checkpoint, pool=pool, weights=weights)
  data = config.data
  recut(config, clip or {})
  train_source, val_source = (open_labelled(spec, config.data) for spec in (train, val))
  names = ({one.name(i) for i in range(len(one))} for one in (train_source, val_source))
  if shared := set.intersection(*names):
    such = f'{len(shared):,} held-out videos are among the training ones, such as {min(shared)}'
    logging.warning('%s: the probe is tested on these after it has learnt from them.', such)
  chooses = a_tenth(len(train_source)) if 'attentive' in probes else None
  models = {'pre-trained': trained}
  if untrained:
    encoder, _ = build_encoder(config, pool=pool)
    models['untrained'] = jax.jit(lambda: init_encoder(config, encoder))()

  def pooled(source, title):
    if set(FROZEN).isdisjoint(probes):  # The attentive probe needs no pooled features.
      labels = np.array([source.label(i) for i in range(len(source))])
      return dict.fromkeys(models), labels
    return _features(config, models, apply, source, title, batch_size)

  train_features, train_labels = pooled(train_source, train)
  val_features, val_labels = pooled(val_source, val)
  rows = {}
  _, encode = build_encoder(config, pool='tokens')
  sizes = dict(batch_size=batch_size, cache_bytes=int(cache_gb * 2**30))
  for name, params in models.items():
    arguments = train_features[name], train_labels, val_features[name], val_labels
    rows[name] = {kind: FROZEN[kind](*arguments) for kind in FROZEN if kind in probes}
    if 'attentive' in probes:
      train_set, val_set = (
        TokenSet(partial(encode, params), source, data, **sizes)
        for source in (train_source, val_source)
      )
      tested = attentive_probe(
        partial(train_set.batches, counted=~chooses),
        partial(train_set.batches, counted=chooses),
        {val: val_set.batches},
        classes=count_classes(train_labels, val_labels),
        width=train_set.width,
        steps=train_set.steps,
        epochs=epochs,
      )
      rows[name]['attentive'] = tested[val]
  largest = np.bincount(val_labels).max() / len(val_labels)
  return {
    'checkpoint': checkpoint,
    'pool': pool,
    'weights': config.weights,
    'clip': {name: data[name] for name in ('frames', 'size', 'stride', 'sampling')},
    'clips': {'train': len(train_labels), 'val': len(val_labels)},
    'largest_class': float(largest),
    'accuracy': rows,
  }


def table(result: dict[str, Any]) -> str:
  """The result of `probe` as text."""
  names = next(iter(result['accuracy'].values()))
  titles = {name: f'{TITLES[name]} top-1' for name in names}
  lines = [f'{"":14}' + ''.join(f'{title:>{len(title) + 2}}' for title in titles.values())]
  for model, row in result['accuracy'].items():
    cells = (f'{row[name]["top1"]:{len(title) + 2}.3f}' for name, title in titles.items())
    lines.append(f'{model:14}' + ''.join(cells))
  clip = result['clip']
  pace = f'stride {clip["stride"]}' if clip['sampling'] == 'dense' else 'one of each segment'
  lines += [
    f'({_sizes(result)})',
    f'(clips of {clip["frames"]} frames of {clip["size"]} x {clip["size"]}, {pace}; '
    f'weights: {result["weights"]})',
  ]
  return '\n'.join(lines)


def _sizes(result: Mapping[str, Any]) -> str:
  clips, largest = result['clips'], result['largest_class']
  return (
    f'{clips["train"]:,} training and {clips["val"]:,} held-out clips; always naming the largest '
    f'class gives {largest:.3f}'
  )


def probe_table(results: Mapping[str, Mapping[str, Any]]) -> str:
  """A Markdown table of several runs (name -> the result of `probe`) and their untrained models.

  Raises:
    UserError: there is no run, or the runs were not probed on the same clips.
  """
  if not results:
    raise UserError('there is no probe to show.')
  first = next(iter(results.values()))
  if any(result['clips'] != first['clips'] for result in results.values()):
    raise UserError('the runs were probed on different clips: one table cannot compare them.')
  probes = list(next(iter(first['accuracy'].values())))
  rows = [['run', 'weights', *(f'{TITLES[probe]} top-1' for probe in probes)]]
  for name, result in results.items():
    for model, row in result['accuracy'].items():
      rows.append([name, model, *(f'{row[probe]["top1"]:.3f}' for probe in probes)])
  return '\n'.join([*markdown(rows), '', f'{_sizes(first)}.'])


class PeriodicProbe:
  """k-NN and linear probes of an encoder during its training, as the config's block `probe` says.

  Raises:
    UserError: there are no such videos, or they have no labels.
  """

  def __init__(self, config, mesh: Mesh, *, steps: int, videos: int):
    self._config, self._mesh, self._steps = config, mesh, steps
    self._every = max(1, round(config.probe.every_epochs * videos / config.batch_size))
    specs = config.probe.train, config.probe.val
    self._sources = [(spec, open_labelled(spec, config.data)) for spec in specs]
    a_tenth(len(self._sources[0][1]))  # Raises now if there are too few.
    self._apply = build_encoder(config, pool=config.probe.pool)[1]

  def __call__(self, step: int, state, log, stopping) -> dict[str, float] | None:
    """Accuracies if a probe is due after this step, else {}; None if the run is to stop."""
    if not step or (step % self._every and step != self._steps):
      return {}
    log.fetch()
    ways = self._mesh.shape['data'] * self._mesh.shape['fsdp']
    size = -(-self._config.probe.batch_size // ways) * ways
    params = state.params if state.ema is None else state.ema  # As `probe` does by default.
    models, found = {'': params['encoder']}, []
    for spec, source in self._sources:
      features, labels = _features(
        self._config, models, self._apply, source, spec, size, mesh=self._mesh, stopping=stopping
      )
      if stopping():
        return None
      found += [features[''], labels]
    scalars = {f'probe_{kind}': FROZEN[kind](*found)['top1'] for kind in ('knn', 'linear')}
    log.writer.write_scalars(step, scalars)
    text = ', '.join(f'{TITLES[name[6:]]} {value:.3f}' for name, value in scalars.items())
    log.progress.print(f'step {step}: probe, top-1: {text}')
    return scalars


def open_labelled(spec: str, data) -> Source:
  """The source of labelled videos that `spec` names."""
  seconds = data.get('seconds', 60.0)
  source = open_source(spec, root=data.root, seconds=seconds)
  check_paths(source, data.max_bad_share, seconds=seconds)
  if source.label(0) < 0:
    raise UserError(f'{spec} has no labels: a probe needs lines `path label`, or class folders.')
  return source


def _features(
  config,
  models,
  apply,
  source: Source,
  title: str,
  batch_size: int,
  *,
  mesh: Mesh | None = None,
  stopping: Callable[[], bool] = lambda: False,
):
  """Model -> its features, and labels, from one pass over the videos or its part before a stop."""
  loader = middle_clips(source, config.data, batch_size=batch_size, mesh=mesh)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *models.values())
  several = jax.jit(jax.vmap(apply, in_axes=(0, None), out_axes=1))

  def features(video):
    x = several(stacked, video)
    return x.reshape(len(x), -1)

  def until_stopped(batches):
    for batch in batches:
      yield batch
      if stopping():
        return

  total = -(-len(source) // batch_size)
  bar = tqdm(loader, total=total, desc=f'features of {title}', unit='batch', leave=False)
  with closing(loader), bar as batches:
    both, labels = extract(features, until_stopped(batches))
  return dict(zip(models, np.split(both, len(models), axis=1), strict=True)), labels
