"""Official checkpoints: their key sets in all sizes, and every mistake by name."""

import math

import numpy as np
import pytest

from tests.interchange import synthetic
from vmae_jax.errors import UserError
from vmae_jax.interchange.layout import from_tensors, tensor_shapes, to_tensors
from vmae_jax.interchange.official import (
  clip_sizes,
  drop_positions,
  official_info,
  official_kind,
  official_names,
  split_biases,
  with_prefix,
)
from vmae_jax.models.positions import sincos_positions

SMALL, SMALL_DECODER, PATCH = (32, 2, 64), (16, 1, 32), (2, 8, 8)
# width, depth and mlp of encoder and decoder, heads, and the published numbers of parameters.
PUBLISHED = {
  's': ((384, 12, 1536), (192, 4, 768), (6, 3), 24_029_376, 22_033_936),
  'b': ((768, 12, 3072), (384, 4, 1536), (12, 6), 94_210_944, 86_534_800),
  'l': ((1024, 24, 4096), (512, 12, 2048), (16, 8), 342_996_992, 304_270_736),
  'h': ((1280, 32, 5120), (640, 12, 2560), (16, 8), 692_487_296, 632_119_440),
  'mgmae h': ((1280, 32, 5120), (512, 12, 2048), (16, 8), None, None),
  'v2 giant': ((1408, 40, 6144), (512, 4, 2234), (16, 8), None, None),
}


def small(**changes):
  tensors = synthetic.values(synthetic.pretraining(SMALL, SMALL_DECODER, PATCH))
  return tensors | changes


def read(tensors):
  info = official_info(tensors, {}, heads=2, decoder_heads=2)
  tensors = with_prefix(tensors) if info['kind'] == 'encoder' else tensors
  return info, from_tensors(tensors, info, official_names(info), where='x.pth')


@pytest.mark.parametrize('size', PUBLISHED)
def test_every_size(size):
  encoder, decoder, heads, pretrained, finetuned = PUBLISHED[size]
  patch = (2, 14, 14) if 'giant' in size else (2, 16, 16)
  for shapes, count in (
    (synthetic.pretraining(encoder, decoder, patch), pretrained),
    (synthetic.finetuned(encoder, 400, patch), finetuned),
  ):
    tensors = synthetic.nothing(shapes)
    assert official_kind(tensors)
    info = official_info(tensors, {})
    assert tensor_shapes(info, official_names(info)) == shapes
    assert info['encoder']['heads'] == heads[0] and info['patch'] == patch
    assert count in (None, sum(map(math.prod, shapes.values())))
    if info['kind'] == 'pretraining':
      assert info['decoder'] == dict(
        width=decoder[0], depth=decoder[1], heads=heads[1], mlp=decoder[2]
      )
    else:
      assert info['classes'] == 400 and info['decoder'] is None


def test_values_are_where_they_belong():
  tensors = small()
  _, (params, left) = read(tensors)
  assert not left
  encoder = params['encoder']
  embed = tensors['encoder.patch_embed.proj.weight']  # Patches are (frame, row, column, colour).
  kernel = encoder['embed']['kernel'].reshape(2, 8, 8, 3, 32)
  np.testing.assert_array_equal(kernel[1, 2, 3, 0], embed[:, 0, 1, 2, 3])
  block = encoder['blocks']['block']
  qkv = tensors['encoder.blocks.1.attn.qkv.weight']
  np.testing.assert_array_equal(block['attention']['qkv']['kernel'][1], qkv.T)
  np.testing.assert_array_equal(
    block['attention']['v_bias'][1], tensors['encoder.blocks.1.attn.v_bias']
  )
  np.testing.assert_array_equal(
    params['decoder']['from_encoder']['kernel'], tensors['encoder_to_decoder.weight'].T
  )
  np.testing.assert_array_equal(params['decoder']['mask_token'], tensors['mask_token'][0, 0])


@pytest.mark.parametrize(
  'kind, told',
  [
    ('pretraining', 'pretraining'),
    ('finetuned', 'classification'),
    ('encoder', 'encoder'),
    ('distilled', 'encoder'),
  ],
)
def test_there_and_back_to_the_last_bit(kind, told):
  if kind in ('pretraining', 'encoder'):
    tensors = small()
    if kind == 'encoder':
      tensors = {k: v for k, v in tensors.items() if k.startswith('encoder.')}
  else:
    tensors = synthetic.values(synthetic.finetuned(SMALL, 5, PATCH))
    if kind == 'distilled':  # An encoder whose classifier was taken off.
      tensors = {k: v for k, v in tensors.items() if not k.startswith('head.')}
  info, (params, left) = read(tensors)
  assert info['kind'] == told
  back, rest = to_tensors(params, info, official_names(info))
  assert not rest
  if kind == 'distilled':
    assert set(left) == {'fc_norm.weight', 'fc_norm.bias'}
    back = {k.removeprefix('encoder.'): v for k, v in back.items()} | left
  assert back.keys() == tensors.keys()
  for name, value in tensors.items():
    assert back[name].dtype == np.float32
    np.testing.assert_array_equal(back[name], value)


def test_what_is_missing_or_misshapen_is_named():
  tensors = small()
  del tensors['encoder.blocks.1.attn.v_bias'], tensors['decoder.norm.weight']
  with pytest.raises(
    UserError, match=r'x.pth: 2 tensors are missing: decoder.norm.weight; encoder.blocks.1.attn.v_b'
  ):
    read(tensors)
  tensors = small(**{'encoder.blocks.0.mlp.fc2.bias': np.zeros(31, np.float32)})
  with pytest.raises(UserError, match=r'encoder.blocks.0.mlp.fc2.bias is \[31\], not \[32\]'):
    read(tensors)
  tensors = small(**{'decoder.head.weight': np.zeros((100, 16), np.float32)})
  with pytest.raises(UserError, match=r'decoder.head.weight is \[100, 16\], not \[384, 16\]'):
    read(tensors)
  tensors = small(**{'encoder.blocks.1.gamma_1': np.zeros(32, np.float32)})
  assert list(read(tensors)[1][1]) == ['encoder.blocks.1.gamma_1']


def test_other_models_are_refused():
  with pytest.raises(UserError, match='blocks.0.mlp.fc1.weight is missing'):
    read({'patch_embed.proj.weight': np.zeros((32, 3, 2, 8, 8), np.float32)})
  with pytest.raises(UserError, match=r'is \[32, 3, 8, 8\].*model of images'):
    read({'patch_embed.proj.weight': np.zeros((32, 3, 8, 8), np.float32)})


def test_an_unknown_size_needs_heads():
  with pytest.raises(UserError, match='width 32, depth 2 and 64 hidden units .*--heads=N'):
    official_info(small(), {})
  with pytest.raises(UserError, match='heads of the decoder: convert it with --decoder_heads=N'):
    official_info(small(), {}, heads=2)
  with pytest.raises(UserError, match='width 32 is no multiple of 3 heads'):
    official_info(small(), {}, heads=3, decoder_heads=2)


def test_a_classifier_of_the_first_token():
  """The official use_mean_pooling=False: `norm` in place of `fc_norm`."""
  tensors = {
    name.replace('fc_norm.', 'norm.'): value
    for name, value in synthetic.values(synthetic.finetuned(SMALL, 5, PATCH)).items()
  }
  info, (params, left) = read(tensors)
  assert (info['kind'], info['pool']) == ('classification', 'first') and not left
  assert 'fc_norm' not in params
  np.testing.assert_array_equal(params['encoder']['norm']['scale'], tensors['norm.weight'])
  back, _ = to_tensors(params, info, official_names(info))
  assert back.keys() == tensors.keys()


def test_a_whole_bias_of_queries_keys_and_values():
  tensors = small()
  whole = {}
  for name in [name for name in tensors if name.endswith('attn.q_bias')]:
    prefix, q = name.removesuffix('q_bias'), tensors.pop(name)
    whole[f'{prefix}qkv.bias'] = np.concatenate([q, 0 * q, tensors.pop(f'{prefix}v_bias')])
  split, notes = split_biases(tensors | whole)
  assert split.keys() == small().keys() and not notes
  for name, value in small().items():
    np.testing.assert_array_equal(split[name], value)
  for bias in whole.values():
    bias[32:64] = 3
  assert 'softmax ignores it' in split_biases(tensors | whole)[1][0]


def test_options_of_the_script_are_used():
  info = official_info(small(), {'num_frames': 8, 'input_size': 64}, heads=2, decoder_heads=2)
  assert (info['frames'], info['size']) == (8, 64)
  info = official_info(small(), {'num_frames': None}, heads=2, decoder_heads=2)
  assert (info['frames'], info['size']) == (16, 224)


def test_stored_positions():
  left = {'pos_embed': sincos_positions(1568, 32)[None], 'x': np.zeros(1)}
  notes = drop_positions(left, ('pos_embed', 'encoder.pos_embed'), where='x.pth')
  assert list(left) == ['x'] and 'left out' in notes[0]
  learnt = {'pos_embed': sincos_positions(1568, 32)[None] + np.float32(1e-3)}
  with pytest.raises(UserError, match=r'pos_embed \[1568, 32\] is not the sine-cosine table'):
    drop_positions(learnt, ('pos_embed',), where='x.pth')


@pytest.mark.parametrize(
  'arguments, stride, sampling',
  [
    ({}, None, None),
    # As scripts store them: pre-training on SSv2, fine-tuning on it, on others, V2's option.
    ({'sampling_rate': 2, 'num_frames': 16}, 2, 'dense'),
    ({'sampling_rate': 4, 'data_set': 'SSV2'}, 4, 'segment'),
    ({'sampling_rate': 4, 'data_set': 'UCF101'}, 4, 'dense'),
    ({'sampling_rate': 4, 'data_set': 'MIT', 'sparse_sample': True}, 4, 'segment'),
    ({'sampling_rate': None}, None, None),
  ],
)
def test_options_say_how_clips_were_cut(arguments, stride, sampling):
  found = clip_sizes(arguments)
  assert (found['stride'], found['sampling']) == (stride, sampling)
  assert (found['frames'], found['size']) == (16, 224)
