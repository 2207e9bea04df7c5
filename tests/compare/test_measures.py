"""How runs of a study are measured."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import videomae
from vmae_jax.compare.measures import Labelled, Measures, Tokens, _in_order
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError
from vmae_jax.evaluation.encoder import build_encoder, init_encoder

SET = 'frames=8,size=16,clips=24'
LABELS = {
  label: (f'synthetic:train,{SET},label={label}', f'synthetic:val,{SET},label={label}')
  for label in ('motion', 'look')
}


@pytest.fixture(scope='module')
def config():
  config = videomae.get_config('smoke')
  config.data.size, config.data.stride = 16, 1
  return config


def test_tokens_are_those_of_the_encoder(config):
  measures = Measures(labels=LABELS, layers=(2, -1))
  source = open_source(LABELS['look'][1])
  encoder, encode = build_encoder(config, pool='tokens', layer=2)
  params = init_encoder(config, encoder)
  tokens = measures._read(config, {2: lambda video: encode(params, video)}, source, '')
  clip = source.open(7).read(range(8))
  wanted = np.asarray(encode(params, clip[None])[0]).reshape(4, -1, encoder.width)
  assert tokens.valid.all() and len(tokens.valid) == 24
  np.testing.assert_allclose(tokens.layers[2][7].astype(np.float32), wanted, atol=0.02, rtol=0.01)


def test_orders_of_frames():
  video = jnp.arange(2 * 6, dtype=jnp.uint8).reshape(2, 6, 1, 1, 1) * jnp.ones(3, jnp.uint8)
  sample = np.array([3, 5])
  assert (np.asarray(_in_order(video, sample, 'reversed')) == video[:, ::-1]).all()
  shuffled = np.asarray(_in_order(video, sample, 'shuffled'))
  assert (np.sort(shuffled, axis=1) == video).all() and (shuffled != video).any()
  again = np.asarray(_in_order(video[::-1], sample[::-1], 'shuffled'))
  assert (again[::-1] == shuffled).all()  # Depends on the clip, not on its place in a batch.


def planted(labels, kind):
  """Tokens with the class in their mean, or only in one place of each slot."""
  rng = np.random.default_rng(len(labels))
  tokens = rng.normal(size=(len(labels), 2, 9, 16)).astype(np.float32)
  signs = np.random.default_rng(0).choice([-3.0, 3.0], (3, 16))
  if kind == 'mean':
    tokens += signs[labels][:, None, None]
  return Labelled(Tokens({-1: tokens}, np.ones(len(labels), bool)), labels)


@pytest.mark.parametrize(('kind', 'least', 'most'), [('mean', 0.9, 1.0), ('nothing', 0.0, 0.6)])
def test_probes_find_planted_information(kind, least, most):
  labels, others = (np.arange(n) % 3 for n in (90, 45))
  measures = Measures(labels=LABELS, epochs=8, rates=(3e-3,), batch_size=16)
  further = {'nothing': planted(others, 'nothing'), 'again': planted(others, kind)}
  found, rest = measures._probe(planted(labels, kind), planted(others, kind), further)
  assert set(found) == {'knn', 'linear', 'attentive'}
  for layers in found.values():
    assert least <= layers['-1'] <= most
  # By the same probe, of clips of its own.
  assert set(rest) == set(further) and set(rest['again']) == {'attentive'}
  assert rest['again'] == {'attentive': found['attentive']}
  assert rest['nothing']['attentive']['-1'] <= 0.6


def test_all_that_is_measured(config):
  slow = {'motion': [('slow', f'{LABELS["motion"][1]},speed=0.5')]}
  measures = Measures(labels=LABELS, probes=('knn',), layers=(2, 4), layer=4, arrow=True,
                      order_gap=('motion',), held_out=slow, batch_size=16)  # fmt: skip
  found = measures.of_fresh(config)
  # Labels first: figures are of the first two.
  assert list(found) == ['motion', 'look', 'motion, shuffled', 'motion, slow', 'arrow of time']
  assert set(found['motion, slow']['knn']) == {'4'}
  assert set(found['motion']['knn']) == {'2', '4'}
  assert set(found['arrow of time']['knn']) == {'4'}


def test_mistakes():
  with pytest.raises(UserError, match='measures.probes'):
    Measures(labels=LABELS, probes=('kn',))
  with pytest.raises(UserError, match='order_gap'):
    Measures(labels=LABELS, order_gap=('moton',))
  with pytest.raises(UserError, match='held_out'):
    Measures(labels=LABELS, held_out={'moton': ()})
  with pytest.raises(UserError, match='not among layers'):
    Measures(labels=LABELS, layer=3)
