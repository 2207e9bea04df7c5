"""How the runs of a study are measured: probes of labels on frozen tokens."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.data.sources import DataSet
from vmae_jax.errors import UserError, check_name
from vmae_jax.evaluation.attentive import attentive_probe
from vmae_jax.evaluation.encoder import build_encoder, init_encoder, load_encoder
from vmae_jax.evaluation.features import TOKENS_DTYPE, Batch, middle_clips, token_batches
from vmae_jax.evaluation.probing import FROZEN, TITLES, open_labelled
from vmae_jax.evaluation.results import a_tenth, count_classes
from vmae_jax.types import Array, Bool, Float, Int, UInt8

# Name -> (the frames' numbers, a generator) -> the same numbers in another order, for one clip.
VIEWS: dict[str, Callable[[Int[np.ndarray, ' T'], np.random.Generator], Int[np.ndarray, ' T']]] = {
  'shuffled': lambda frames, rng: rng.permutation(frames),
  'reversed': lambda frames, _: frames[::-1],
}


class Tokens(NamedTuple):
  """Tokens of a set's clips."""

  layers: dict[int, Float[np.ndarray, 's t n d']]
  valid: Bool[np.ndarray, ' s']  # Whether a clip could be read.


class Labelled(NamedTuple):
  """Tokens and labels of a set's clips."""

  tokens: Tokens
  labels: Int[np.ndarray, ' s']

  def pooled(self, layer: int) -> tuple[Float[np.ndarray, 'r td'], Int[np.ndarray, ' r']]:
    """Of clips that could be read: the mean tokens of their time slots, and the labels."""
    valid = self.tokens.valid
    pooled = self.tokens.layers[layer][valid].astype(np.float32).mean(2)
    return pooled.reshape(len(pooled), -1), self.labels[valid]


@dataclasses.dataclass(frozen=True)
class Measures:
  """How runs are measured."""

  # Label -> (training data, held-out data), see `open_source`.
  labels: dict[str, Sequence[str]]
  probes: tuple[str, ...] = ('knn', 'linear', 'attentive')  # Keys of `probing.TITLES`.
  # Layers of the encoder, see `build_encoder`, for k-NN and linear probes.
  layers: tuple[int, ...] = (-1,)
  layer: int = -1  # The layer for attentive probes and for all of the following.
  # Labels whose accuracy is also measured on held-out clips with shuffled frames.
  order_gap: tuple[str, ...] = ()
  # Label -> (name, data) of further held-out sets, for the last of `probes`, which is trained on
  # the label's training data.
  held_out: Mapping[str, Sequence[Sequence[str]]] = dataclasses.field(default_factory=dict)
  arrow: bool = False  # Also measures whether probes distinguish clips from reversed clips.
  epochs: int = 10  # Passes over the training data for attentive probes.
  rates: tuple[float, ...] = (1e-3, 3e-4)  # Learning rates that attentive probes choose from.
  batch_size: int = 64  # Clips in a batch.

  def __post_init__(self):
    for probe in self.probes:
      check_name(probe, TITLES, 'measures.probes')
    for key in ('order_gap', 'held_out'):
      for label in getattr(self, key):
        check_name(label, self.labels, f'measures.{key}')
    if self.layer not in self.layers:
      raise UserError(f'measures.layer is {self.layer}, which is not among layers {self.layers}.')

  def to_dict(self) -> dict[str, Any]:
    """The attributes as JSON stores them."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  def of_run(self, checkpoint: str, *, whole: bool = True) -> dict[str, Any]:
    """Measures a checkpoint; `whole=False` measures only k-NN and linear probes of `layer`."""
    layers = self.layers if whole else (self.layer,)
    encodes = {}
    for layer in layers:
      config, params, encode = load_encoder(checkpoint, pool='tokens', layer=layer)
      encodes[layer] = partial(encode, params)
    return self._measure(config, encodes, whole)

  def of_fresh(self, config) -> dict[str, Any]:
    """Measures the untrained encoder of a config."""
    encodes = {}
    for layer in self.layers:
      encoder, encode = build_encoder(config, pool='tokens', layer=layer)
      params = jax.jit(lambda encoder=encoder: init_encoder(config, encoder))()
      encodes[layer] = partial(encode, params)
    return self._measure(config, encodes, True)

  def _measure(self, config, encodes, whole: bool) -> dict[str, Any]:
    """label -> probe -> layer -> top-1.

    Further labels are 'LABEL, shuffled', 'LABEL, NAME' for held-out sets, and 'arrow of time'.
    """
    tokens: dict[tuple, Tokens] = {}

    def read(source: DataSet, view: str = '') -> Tokens:
      clips = tuple(map(source.name, range(len(source))))
      about = getattr(source, 'about', str)()  # Synthetic sets with other options share names.
      if (clips, about, view) not in tokens:
        encode = {self.layer: encodes[self.layer]} if view else encodes
        tokens[clips, about, view] = self._read(config, encode, source, view)
      return tokens[clips, about, view]

    found: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for name, specs in self.labels.items():
      train, val = (open_labelled(spec, config.data) for spec in specs)
      further = {}
      if whole and name in self.order_gap:
        further['shuffled'] = Labelled(read(val, 'shuffled'), _labels(val))
      for title, spec in self.held_out.get(name, ()) if whole else ():
        source = open_labelled(spec, config.data)
        further[title] = Labelled(read(source), _labels(source))
      learnt = Labelled(read(train), _labels(train))
      found[name], rest = self._probe(
        learnt, Labelled(read(val), _labels(val)), further, whole=whole
      )
      more |= {f'{name}, {title}': top1 for title, top1 in rest.items()}
    found |= more  # At the end, since figures show the first labels.
    if whole and self.arrow:
      both = [
        _joined(self.layer, read(source), read(source, 'reversed')) for source in (train, val)
      ]
      found['arrow of time'], _ = self._probe(*both)
    return found

  def _read(self, config, encodes, source: DataSet, view: str) -> Tokens:
    kept: dict[int, np.ndarray] = {}
    valid = np.zeros(len(source), bool)
    with closing(middle_clips(source, config.data, batch_size=self.batch_size)) as loader:
      for batch in loader:
        sample, good = np.asarray(batch['sample']), np.asarray(batch['valid'])
        video = _in_order(batch['video'], sample, view)
        real = sample >= 0  # The last batch is padded.
        valid[sample[real]] = good[real]
        for layer, encode in encodes.items():
          found = np.asarray(encode(video).astype(TOKENS_DTYPE))
          found = found.reshape(*found.shape[:2], -1, found.shape[-1])
          if layer not in kept:
            kept[layer] = np.zeros((len(source), *found.shape[1:]), TOKENS_DTYPE)
          kept[layer][sample[real]] = found[real]
    return Tokens(kept, valid)

  def _probe(self, train: Labelled, val: Labelled, further=None, *, whole=True):
    """probe -> layer -> top-1; and the same for each of `further`, of the last probe alone."""
    tests, last = {'': val} | (further or {}), self.probes[-1]
    found: dict[str, dict[str, dict[str, float]]] = {title: {} for title in tests}
    for layer in train.tokens.layers:
      x, y = train.pooled(layer)
      for probe in self.probes:
        if probe == 'attentive':
          continue
        for title, test in tests.items():
          if not title or (probe == last and layer == self.layer):
            top1 = FROZEN[probe](x, y, *test.pooled(layer))['top1']
            found[title].setdefault(probe, {})[str(layer)] = top1
    if whole and 'attentive' in self.probes:
      some = tests if last == 'attentive' else {'': val}
      for title, top1 in self._attentive(train, some).items():
        found[title]['attentive'] = {str(self.layer): top1}
    return found.pop(''), found

  def _attentive(self, train: Labelled, tests: Mapping[str, Labelled]) -> dict[str, float]:
    chooses = a_tenth(len(train.labels))
    size, layer = self.batch_size, self.layer

    def batches(data: Labelled, counts=True, epoch=None) -> Iterator[Batch]:
      tokens = data.tokens.layers[layer]
      tokens = tokens.reshape(len(tokens), -1, tokens.shape[-1])
      counted = data.tokens.valid & counts
      return token_batches(tokens, data.labels, counted, batch_size=size, epoch=epoch)

    found = attentive_probe(
      lambda epoch: batches(train, ~chooses, epoch),
      lambda: batches(train, chooses),
      {title: partial(batches, test) for title, test in tests.items()},
      classes=count_classes(train.labels, np.concatenate([x.labels for x in tests.values()])),
      width=train.tokens.layers[layer].shape[-1],
      steps=-(-len(train.labels) // size),
      epochs=self.epochs,
      rates=self.rates,
      weight_decays=(0.1,),
    )
    return {title: result['top1'] for title, result in found.items()}


def _in_order(
  video: UInt8[Array, 'b T H W 3'], sample: Int[np.ndarray, ' b'], view: str
) -> UInt8[Array, 'b T H W 3']:
  """The clips with their frames in the order of a view, the same at every call; '' is no view."""
  if not view:
    return video
  frames = np.arange(video.shape[1])
  order = [VIEWS[view](frames, np.random.default_rng(i + 1)) for i in sample]
  return jnp.take_along_axis(video, np.stack(order)[:, :, None, None, None], axis=1)


def _labels(source: DataSet) -> Int[np.ndarray, ' s']:
  return np.array([source.label(i) for i in range(len(source))])


def _joined(layer: int, one: Tokens, other: Tokens) -> Labelled:
  """The clips of two sets, labelled by their set, 0 or 1."""
  tokens = Tokens(
    {layer: np.concatenate([one.layers[layer], other.layers[layer]])},
    np.concatenate([one.valid, other.valid]),
  )
  return Labelled(tokens, np.repeat([0, 1], [len(one.valid), len(other.valid)]))
