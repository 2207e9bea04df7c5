"""MME's pre-training checkpoints."""

import math
import pathlib

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.interchange import synthetic
from vmae_jax.errors import UserError
from vmae_jax.interchange.layout import param_shapes
from vmae_jax.interchange.mme import mme_kind, read_mme
from vmae_jax.interchange.official import official_kind
from vmae_jax.interchange.tensors import Checkpoint

ENCODER, DECODER, PATCH = (32, 2, 64), (16, 2, 32), (2, 8, 8)


def read(tensors):
  return read_mme(Checkpoint(pathlib.Path('mme.pth'), tensors, {}, {}, []), 2, 2)[:3]


def small(**options):
  return synthetic.values(synthetic.mme(ENCODER, DECODER, PATCH, **options))


def test_the_released_model_has_the_published_size():
  shapes = synthetic.mme(
    (768, 12, 3072), (192, 1, 768), (2, 16, 16), decoders=1, length=4, hidden=512
  )
  assert len(shapes) == 185 and sum(map(math.prod, shapes.values())) == 87_089_356


@pytest.mark.parametrize('length', [4, 6])
@pytest.mark.parametrize('decoders', [1, 2])
def test_all_tensors_find_their_places(decoders, length):
  tensors = small(decoders=decoders, length=length)
  assert mme_kind(tensors) and not official_kind(tensors)
  params, info, left = read(tensors)
  assert not left and info['trajectory_length'] == length and info['method'] == 'mme'
  owners = ('decoder',) * 2 if decoders == 1 else ('shape_decoder', 'motion_decoder')
  assert info['outputs'] == {
    'shape': (owners[0], 108, 32, 'sigmoid'),
    'motion': (owners[1], 8 * length, 32, 'tanh'),
  }
  assert set(params) == {'encoder', *owners}
  # As many values as there are, the mask token once for each decoder.
  count = sum(x.size for x in tensors.values()) + (decoders - 1) * 16
  assert sum(x.size for x in flatten_dict(params).values()) == count
  for i, (owner, head) in enumerate(zip(owners, ('shape', 'motion'), strict=True)):
    j, index = (0, i) if decoders == 1 else (i, 0)
    theirs = f'decoder.{j}.head.{index}'
    for name, layer in ((f'hidden_{head}', 0), (f'head_{head}', 2)):
      np.testing.assert_array_equal(
        params[owner][name]['kernel'], tensors[f'{theirs}.{layer}.weight'].T
      )
      np.testing.assert_array_equal(params[owner][name]['bias'], tensors[f'{theirs}.{layer}.bias'])
    np.testing.assert_array_equal(
      params[owner]['from_encoder']['kernel'], tensors[f'encoder_to_decoder.{j}.weight'].T
    )
    np.testing.assert_array_equal(params[owner]['mask_token'], tensors['mask_token'][0, 0])
    np.testing.assert_array_equal(
      params[owner]['blocks']['block']['mlp']['fc1']['bias'][1],
      tensors[f'decoder.{j}.blocks.1.mlp.fc1.bias'],
    )


def test_encoder_and_trunk_are_laid_out_as_videomae():
  params, info, _ = read(small())
  info = info | {'pixels': ('decoder', 'pixels')}
  ours, shapes = flatten_dict(params, sep='/'), flatten_dict(param_shapes(info), sep='/')
  for path in shapes:
    if '/head_' not in path:
      assert ours[path].shape == shapes[path].shape, path


def test_mistakes_are_named():
  tensors = small(decoders=2)
  del tensors['decoder.1.head.0.2.bias']
  with pytest.raises(UserError, match=r'1 tensors are missing: decoder.1.head.0.2.bias'):
    read(tensors)
  tensors = small(decoders=2)
  del tensors['decoder.1.blocks.1.norm1.bias']
  with pytest.raises(UserError, match=r'missing: decoder.1.blocks.1.norm1.bias'):
    read(tensors)
  tensors = small()
  tensors['decoder.0.head.0.2.weight'] = np.zeros((100, 32), np.float32)
  tensors['decoder.0.head.0.2.bias'] = np.zeros(100, np.float32)
  with pytest.raises(UserError, match=r'decoder.0.head.0.2.weight is \[100, 32\], not \[108 x ste'):
    read(tensors)
  tensors = small()
  tensors['decoder.0.head.1.2.weight'] = np.zeros((48, 31), np.float32)
  with pytest.raises(UserError, match=r'decoder.0.head.1.2.weight is \[48, 31\] behind'):
    read(tensors)
  tensors = small(decoders=2)
  tensors = {k: v for k, v in tensors.items() if not k.startswith('decoder.1.blocks.1')}
  with pytest.raises(UserError, match='decoders differ in size'):
    read(tensors)
  tensors = small() | {'encoder.extra': np.zeros(2, np.float32), 'other': np.zeros(2, np.float32)}
  assert set(read(tensors)[2]) == {'encoder.extra', 'other'}
