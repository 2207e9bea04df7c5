"""Every random number of a step is used for one purpose only."""

import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.config_file import load_config
from vmae_jax.masking import DECODER_MASKINGS, MASKINGS
from vmae_jax.method import forward, supervised
from vmae_jax.method.augmentation import augment
from vmae_jax.method.build import build_method
from vmae_jax.method.keys import PURPOSES, clip_keys
from vmae_jax.method.mixing import erase, own_share, pair
from vmae_jax.motion.flow import Flow

GRID = (4, 4, 4)
BATCH = {name: jnp.array([3]) for name in ('epoch', 'sample', 'repeat')}
LOOK = dict(jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
LOOK |= dict(grey=1.0, blur=1.0, sigma=(0.1, 2.0), solarise=1.0)
CLIP = jnp.full((1, 8, 32, 32, 3), 0.5)


def key_of(purpose):
  return clip_keys(0, BATCH, purpose)[0]


def hide(name):
  pairs = getattr(MASKINGS[name], 'flow_pairs', lambda frames: ())(8)
  flow = Flow(jnp.zeros((len(pairs), 32, 32, 2)), pairs) if pairs else None
  return MASKINGS[name](key_of('mask'), CLIP[0], flow, grid=GRID, ratio=0.5)


class Counters:
  """Notes which counters of which key are used up: drawing n numbers uses n of them, splitting
  into n keys n, folding with i the one of number i. With threefry, equal counters of one key give
  equal bits, whatever they are used for."""

  def __init__(self, monkeypatch):
    self.used, self.purpose = {}, None
    for name in ('uniform', 'normal', 'randint', 'permutation', 'bernoulli', 'choice'):
      monkeypatch.setattr(jax.random, name, self._watch(name))
    for name in ('split', 'fold_in', 'beta'):
      monkeypatch.setattr(jax.random, name, self._watch(name))

  def _watch(self, name):
    original = getattr(jax.random, name)

    def watched(key, *args, **kwargs):
      out = original(key, *args, **kwargs)
      if name == 'fold_in':
        counters = [int(args[0])]
      elif name == 'split':
        counters = range(args[0] if args else 2)
      else:
        counters = range(int(np.size(out)))
      for row in np.asarray(jax.random.key_data(key)).reshape(-1, 2):
        for counter in counters:
          self.used.setdefault((*row.tolist(), counter), []).append((self.purpose, name))
      return out

    return watched

  def shared(self):
    return {key: uses for key, uses in self.used.items() if len(uses) > 1}


@pytest.mark.parametrize('masking, decoding', [*itertools.product(MASKINGS, DECODER_MASKINGS)])
def test_no_two_draws_of_a_step_share_a_number(monkeypatch, masking, decoding):
  monkeypatch.setattr(jax, 'vmap', lambda function, *a, **k: one_by_one(function))
  watched = Counters(monkeypatch)
  keys = {purpose: key_of(purpose) for purpose in PURPOSES}
  watched.used.clear()  # The clip's own key is folded with its purposes: noted by hand.
  clip_key = np.asarray(jax.random.key_data(keys['mask'])).tolist()
  for purpose in ('look', 'decoded share'):
    watched.used[(*clip_key, PURPOSES[purpose])] = [(purpose, 'fold_in')]
  watched.purpose = 'mask'
  mask = hide(masking)
  watched.purpose = 'decoded share'
  DECODER_MASKINGS[decoding](keys['decoded share'], mask, grid=GRID, ratio=0.5)
  watched.purpose = 'look'
  augment(keys['look'][None], {'video': CLIP}, **LOOK)
  assert len(watched.used) > 10 and not watched.shared()


def test_no_two_draws_of_a_fine_tuning_step_share_a_number(monkeypatch):
  monkeypatch.setattr(jax, 'vmap', lambda function, *a, **k: one_by_one(function))
  watched = Counters(monkeypatch)
  keys = {purpose: key_of(purpose)[None] for purpose in PURPOSES}
  watched.used.clear()
  erase(keys['erased box'], CLIP, chance=1.0)
  own_share(keys['mixing'], (32, 32), chance=1.0, mixup=0.8, cutmix=1.0, switch=0.5)
  for layer in range(24):  # As the classifier folds it.
    jax.random.uniform(jax.random.fold_in(keys['dropped branches'][0], layer), (2,))
  augment(keys['look'], {'video': CLIP}, **LOOK)
  assert len(watched.used) > 10 and not watched.shared()


def one_by_one(function):
  """`jax.vmap` without tracing, so that keys have values."""

  def mapped(*rows):
    each = [function(*jax.tree.map(operator.itemgetter(i), rows)) for i in range(len(rows[0]))]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)

  return mapped


@pytest.mark.parametrize('masking', ['per_slot', 'tube', 'random'])
def test_decoded_tokens_do_not_depend_on_visible_ones(masking):
  """The share of decoded tokens is the same whether or not a place is visible."""
  number = jnp.arange(4000)
  batch = {name: number for name in ('epoch', 'sample', 'repeat')}

  def one(key, decode_key):
    mask = MASKINGS[masking](key, None, None, grid=GRID, ratio=0.5)
    decoded = DECODER_MASKINGS['random'](decode_key, mask, grid=GRID, ratio=0.5)
    visible = jnp.zeros(64).at[mask.visible].set(1)
    return visible, (mask.masked[:, None] == decoded.masked).any(axis=1)

  keys = [clip_keys(0, batch, purpose) for purpose in ('mask', 'decoded share')]
  visible, decoded = jax.jit(jax.vmap(one))(*keys)
  visible, decoded = np.asarray(visible), np.asarray(decoded, float)
  # Pearson's correlation of each place with the j-th hidden token; its deviation by chance is
  # 1 / sqrt(4000) = 0.016.
  together = np.corrcoef(visible.T, decoded.T)[:64, 64:]
  assert np.abs(together[np.isfinite(together)]).max() < 0.09


def test_purposes_differ():
  data = {p: tuple(np.asarray(jax.random.key_data(key_of(p))).tolist()) for p in PURPOSES}
  assert len(set(data.values())) == len(PURPOSES)


def asked(monkeypatch, module):
  """The purposes for which a module asks for keys, from now on."""
  purposes = []

  def watched(seed, batch, purpose):
    purposes.append(purpose)
    return clip_keys(seed, batch, purpose)

  monkeypatch.setattr(module, 'clip_keys', watched)
  return purposes


def test_each_part_of_a_step_has_keys_of_its_own(monkeypatch):
  config = load_config('configs/videomae.py:smoke')
  config.data.shuffled, config.decoder_masking.name = True, 'running_cell'
  config.decoder_masking.ratio = 0.5
  method = build_method(config)
  purposes = asked(monkeypatch, forward)
  params = jax.eval_shape(method.init, jax.random.key(0))
  jax.eval_shape(method.forward, params, method.example(), {})
  assert sorted(purposes) == ['decoded share', 'look', 'mask', 'order of frames']


def test_each_part_of_a_fine_tuning_step_has_keys_of_its_own(monkeypatch):
  model = supervised.build_supervised(load_config('configs/finetune.py:smoke'), classes=5)
  purposes = asked(monkeypatch, supervised)
  batch = {'video': jnp.zeros((2, *model.clip), jnp.uint8)}
  batch |= dict.fromkeys(('label', 'epoch', 'sample', 'repeat'), jnp.zeros(2, jnp.int32))
  jax.eval_shape(model.loss, jax.eval_shape(model.init, jax.random.key(0)), pair(batch), {})
  # Of a clip and of the one that it is mixed with.
  once = ['dropped branches', 'mixing']
  assert sorted(purposes) == sorted([*once, *['erased box', 'look'] * 2])
