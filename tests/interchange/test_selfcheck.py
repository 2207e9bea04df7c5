"""The self-check itself: it must see what is wrong."""

import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from vmae_jax.errors import UserError
from vmae_jax.interchange import selfcheck

INFO = dict(
  frames=4, size=16, channels=3, patch=(2, 8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)
)


class Parameter:
  """As one of a torch module."""

  def __init__(self, value):
    self.value = value

  def detach(self):
    return self

  def numpy(self):
    return self.value


class Model:
  def __init__(self, **parameters):
    self.parameters = {name.replace('__', '.'): Parameter(x) for name, x in parameters.items()}

  def named_parameters(self):
    return self.parameters.items()


def test_clip_and_mask_are_always_the_same():
  clip = selfcheck.fixed_clip(INFO)
  assert clip.shape == (1, 4, 16, 16, 3) and clip.dtype == np.float32
  np.testing.assert_array_equal(clip, selfcheck.fixed_clip(INFO))
  shown = clip * np.float32(INFO['std']) + np.float32(INFO['mean'])
  assert 0 <= shown.min() < 0.2 and 0.8 < shown.max() <= 1
  assert np.abs(np.diff(shown, axis=1)).mean() > 0.01  # It moves.
  mask = selfcheck.fixed_mask(INFO | {'size': 80})
  assert mask.shape == (200,) and mask.sum() == 180
  assert mask[:20].any() and not mask.all()
  assert (~selfcheck.fixed_mask(INFO)).sum() == 1


def test_the_largest_difference():
  one = {'a': np.array([1.0, 2.0], np.float32), 'b': np.array([0.001, 0.002], np.float32)}
  assert selfcheck.largest_difference(one, one) == 0
  other = {'a': one['a'], 'b': one['b'] + np.float32(2e-6)}  # Small values count as large ones.
  assert selfcheck.largest_difference(other, one) == pytest.approx(1e-3, rel=1e-2)
  assert selfcheck.largest_difference({'a': one['a'][:1]}, one) == math.inf
  assert selfcheck.largest_difference({'a': one['a'] * np.float32('nan')}, one) == math.inf
  with pytest.raises(ValueError, match='no output in common'):
    selfcheck.largest_difference({'c': one['a']}, one)


def test_a_fingerprint():
  rng = np.random.RandomState(0)
  outputs = {'a': rng.standard_normal((2, 50)).astype(np.float32)}
  stored = selfcheck.fingerprint(outputs)
  assert len(stored['a']) == 9 and selfcheck.against_fingerprint(outputs, stored) == 0
  one = outputs['a'].copy()
  one[1, 20] += 10  # Between the values that are stored.
  assert selfcheck.against_fingerprint({'a': one}, stored) > selfcheck.TOLERANCE
  assert selfcheck.against_fingerprint({'a': outputs['a'] * np.float32(1.001)}, stored) > 5e-4


@pytest.mark.parametrize('new', [False, True])
def test_lost_biases_are_named(tmp_path, new):
  q, v = np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32)
  prefix = 'layer.0.attention.attention'
  path = tmp_path / 'model.safetensors'
  save_file({f'{prefix}.q_bias': q, f'{prefix}.v_bias': v, 'other.bias': q}, path)

  def model(q, v):
    names = ('query.bias', 'value.bias') if new else ('q_bias', 'v_bias')
    pairs = zip(names, (q, v), strict=True)
    return Model(**{f'{prefix}.{name}'.replace('.', '__'): x for name, x in pairs})

  selfcheck.check_biases(model(q, v), tmp_path, 'transformers 5.0.0')
  for wrong in (model(q * 0, v), model(q, v * 0), Model()):
    with pytest.raises(UserError, match='transformers 5.0.0 loses the biases of queries and val'):
      selfcheck.check_biases(wrong, tmp_path, 'transformers 5.0.0')


@pytest.mark.full
@pytest.mark.parametrize('part', ['q_bias', 'v_bias', 'heads', 'eps', 'qkv'])
def test_plain_torch_sees_a_wrong_conversion(part):
  from tests.interchange import synthetic
  from vmae_jax.interchange.layout import from_tensors
  from vmae_jax.interchange.official import official_info, official_names

  tensors = synthetic.values(synthetic.pretraining((32, 2, 64), (16, 1, 32), (2, 8, 8)))
  info = official_info(tensors, {'num_frames': 4, 'input_size': 32}, heads=2, decoder_heads=2)
  params, _ = from_tensors(tensors, info, official_names(info), where='x')
  theirs = selfcheck.plain_torch_outputs(tensors, info)
  assert selfcheck.largest_difference(selfcheck.our_outputs(params, info), theirs) < 1e-5
  attention = params['encoder']['blocks']['block']['attention']
  if part in ('q_bias', 'v_bias'):
    attention[part] = attention[part] * 0
  elif part == 'heads':
    info = info | {'encoder': info['encoder'] | {'heads': 4}}
  elif part == 'eps':
    info = info | {'eps': 1e-3}
  else:
    kernel = attention['qkv']['kernel']
    attention['qkv']['kernel'] = np.concatenate([kernel[..., 32:], kernel[..., :32]], axis=-1)
  wrong = selfcheck.our_outputs(params, info)
  assert selfcheck.largest_difference(wrong, theirs) > selfcheck.TOLERANCE
