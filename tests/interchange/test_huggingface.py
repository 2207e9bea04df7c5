"""Folders of transformers: names of both releases, config.json, and every mistake by name."""

import json

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from tests.interchange import peer, synthetic
from vmae_jax.errors import UserError
from vmae_jax.interchange.huggingface import huggingface_info, huggingface_names
from vmae_jax.interchange.layout import to_tensors
from vmae_jax.interchange.pretrained import from_checkpoint, load_pretrained
from vmae_jax.interchange.tensors import read_checkpoint

pytestmark = pytest.mark.optimised


def folder(path, tensors, processor=None, **config):
  path.mkdir(exist_ok=True)
  save_file(tensors, path / 'model.safetensors', {'format': 'pt'})
  config = {'model_type': 'videomae', **peer.SMALL, **config}
  (path / 'config.json').write_text(json.dumps(config))
  if processor:
    (path / 'preprocessor_config.json').write_text(json.dumps(processor))
  return path


def hub(tensors):
  """The names of transformers 4 and of files on the Hub."""
  return {
    name.replace('query.bias', 'q_bias').replace('value.bias', 'v_bias'): value
    for name, value in tensors.items()
  }


def same(one, other):
  one, other = flatten_dict(one), flatten_dict(other)
  assert one.keys() == other.keys()
  for path in one:
    np.testing.assert_array_equal(one[path], other[path], err_msg=str(path))


@pytest.mark.parametrize('kind', ['pretraining', 'classification'])
def test_names_of_both_releases_and_back_to_the_last_bit(tmp_path, kind):
  new = peer.weights(kind)
  old = hub(new)
  params, info = load_pretrained(folder(tmp_path / 'new', new))
  again, _ = load_pretrained(folder(tmp_path / 'old', old))
  same(params, again)
  assert (info['kind'], info['format'], info['method']) == (kind, 'huggingface', 'videomae')
  assert info['encoder'] == dict(width=32, depth=2, heads=2, mlp=128)
  assert info['patch'] == (2, 8, 8) and (info['frames'], info['size']) == (4, 32)
  tensors, rest = to_tensors(params, info, huggingface_names(info))
  assert not rest and tensors.keys() == old.keys()
  for name, value in old.items():
    np.testing.assert_array_equal(tensors[name], value)
  # Queries come first, then keys, then values.
  block = params['encoder']['blocks']['block']['attention']
  prefix = 'videomae.encoder.layer.1.attention.attention'
  parts = [new[f'{prefix}.{part}.weight'] for part in ('query', 'key', 'value')]
  np.testing.assert_array_equal(block['qkv']['kernel'][1], np.concatenate(parts).T)
  np.testing.assert_array_equal(block['q_bias'][1], new[f'{prefix}.query.bias'])


@pytest.mark.parametrize('prefix', ['', 'videomae.'])
def test_the_encoder_alone(tmp_path, prefix):
  whole = peer.weights('pretraining')
  tensors = {k: v for k, v in whole.items() if k.startswith('videomae.')}
  tensors = {prefix + k.removeprefix('videomae.'): v for k, v in tensors.items()}
  params, info = load_pretrained(folder(tmp_path, tensors))
  assert info['kind'] == 'encoder' and info['decoder'] is info['pixels'] is None
  same(params['encoder'], peer.ours(whole)['encoder'])
  pooled = {k: v for k, v in tensors.items() if 'layernorm.' not in k}
  params, info = load_pretrained(folder(tmp_path, pooled, use_mean_pooling=True))
  assert info['encoder']['final_norm'] is False and 'norm' not in params['encoder']


def test_what_config_json_says(tmp_path):
  tensors = peer.weights('classification')
  names = {str(i): name for i, name in enumerate('abcde')}
  processor = dict(image_mean=[0.5] * 3, image_std=[0.25] * 3)
  _, info = load_pretrained(
    folder(tmp_path, tensors, processor, id2label=names, layer_norm_eps=1e-5)
  )
  assert info['id2label'] == dict(enumerate('abcde')) and info['classes'] == 5
  assert (info['mean'], info['std'], info['eps']) == ((0.5,) * 3, (0.25,) * 3, 1e-5)
  assert ['the eps is 1e-05, as' in note for note in info['notes']] == [True]
  _, info = load_pretrained(folder(tmp_path, tensors, processor, layer_norm_eps=1e-6))
  assert len(info['notes']) == 1 and 'fc_norm eps 1e-05' in info['notes'][0]
  # Transformers' own default, which files leave out.
  config = json.loads((tmp_path / 'config.json').read_text())
  del config['layer_norm_eps']
  (tmp_path / 'config.json').write_text(json.dumps(config))
  assert load_pretrained(tmp_path)[1]['eps'] == 1e-12


def test_a_model_without_biases_of_queries_and_values(tmp_path):
  tensors = {
    k: v for k, v in peer.weights('pretraining').items() if '.bias' not in k or 'query' not in k
  }
  tensors = {k: v for k, v in tensors.items() if 'value.bias' not in k}
  with pytest.raises(UserError, match=r'8 tensors are missing: .*attention.attention.q_bias'):
    load_pretrained(folder(tmp_path, tensors))
  params, info = load_pretrained(folder(tmp_path, tensors, qkv_bias=False))
  assert not params['encoder']['blocks']['block']['attention']['q_bias'].any()
  assert any('zeros' in note for note in info['notes'])


def test_heads_that_a_converter_got_wrong():
  """The Hub's ViT-S says 16; modeling_pretrain.py and modeling_finetune.py have num_heads=6."""
  config = peer.SMALL | dict(hidden_size=384, num_hidden_layers=12, intermediate_size=1536)
  config |= dict(num_attention_heads=16)
  embed, last = 'embeddings.patch_embeddings.projection.weight', 'encoder.layer.11.x'
  tensors = synthetic.nothing({embed: (384, 3, 2, 8, 8), last: (1,)})
  info, notes = huggingface_info(tensors, config)
  assert info['encoder']['heads'] == 6 and 'HEADS: config.json says 16' in notes[0]
  info, notes = huggingface_info(tensors, config, heads=16)
  assert info['encoder']['heads'] == 16 and not any('HEADS' in note for note in notes)
  # Only this one is known to be wrong.
  info, notes = huggingface_info(tensors, config | {'num_attention_heads': 12})
  assert info['encoder']['heads'] == 12 and not any('HEADS' in note for note in notes)


@pytest.mark.parametrize('kind', ['pretraining', 'classification'])
def test_both_kinds_of_pooling(tmp_path, kind):
  for mean in (True, False):
    tensors = peer.weights(kind, mean)
    params, info = load_pretrained(folder(tmp_path, tensors, use_mean_pooling=mean))
    assert info['pool'] == ({True: 'mean', False: 'first'}[mean] if kind[0] == 'c' else None)
    assert ('norm' in params['encoder']) is not mean
    names, rest = to_tensors(params, info, huggingface_names(info))
    assert names.keys() == hub(tensors).keys() and not rest
    # Which of the two a file is, its tensors tell, too.
    same(params, load_pretrained(folder(tmp_path, tensors))[0])
    said = str(not mean).lower()
    with pytest.raises(UserError, match=f'says use_mean_pooling {said}, but its tensors have'):
      load_pretrained(folder(tmp_path, tensors, use_mean_pooling=not mean))


def test_where_the_normalisation_is_read(tmp_path):
  tensors = peer.weights('pretraining')

  def found(**files):
    path = tmp_path / str(len(list(tmp_path.iterdir())))
    folder(path, tensors)
    for name, value in files.items():
      (path / f'{name}.json').write_text(json.dumps(value))
    info = load_pretrained(path)[1]
    notes = [note for note in info['notes'] if 'normalisation' in note]
    return info['mean'][0], info['std'][0], len(notes)

  one, two, three = (dict(image_mean=[x] * 3, image_std=[2 * x] * 3) for x in (0.1, 0.2, 0.3))
  assert found() == (0.485, 0.229, 1)
  assert found(preprocessor_config=one) == (0.1, 0.2, 0)
  assert found(video_preprocessor_config=two, preprocessor_config=one) == (0.2, 0.4, 0)
  nested = {'video_processor': three}
  assert found(processor_config=nested, video_preprocessor_config=two) == (0.3, 0.6, 0)
  assert found(processor_config={}, preprocessor_config=one) == (0.1, 0.2, 0)
  assert found(preprocessor_config={}) == (0.5, 0.5, 0)  # IMAGENET_STANDARD_MEAN and _STD there.
  assert found(preprocessor_config=dict(image_mean=None)) == (0.5, 0.5, 0)
  assert found(video_preprocessor_config=one | dict(do_normalize=False)) == (0, 1, 0)
  assert found(preprocessor_config=dict(image_mean=0, image_std=0.25)) == (0, 0.25, 0)
  for wrong in (dict(image_mean=[0.5]), dict(image_std=[0.5, 0, 0.5])):
    with pytest.raises(UserError, match='give 3 numbers each, no std of 0'):
      found(preprocessor_config=one | wrong)
  with pytest.raises(UserError, match='does not scale pixels'):
    found(preprocessor_config=one | dict(rescale_factor=1 / 127.5))


@pytest.mark.full
def test_transformers_own_normalisation():
  from transformers.models.videomae import image_processing_pil_videomae as theirs

  processor = theirs.VideoMAEImageProcessorPil()
  assert list(processor.image_mean) == list(processor.image_std) == [0.5] * 3


def test_mistakes(tmp_path):
  tensors = peer.weights('pretraining')
  foreign = tensors | {'decoder.extra': np.zeros(3, np.float32)}
  with pytest.raises(UserError, match=r'1 tensors have no place in a huggingface model: decoder.e'):
    load_pretrained(folder(tmp_path, foreign))
  missing = {k: v for k, v in tensors.items() if k != 'decoder.decoder_layers.1.output.dense.bias'}
  with pytest.raises(UserError, match='missing: decoder.decoder_layers.1.output.dense.bias'):
    load_pretrained(folder(tmp_path, missing))
  other = tensors | {'videomae.layernorm.bias': np.zeros(31, np.float32)}
  with pytest.raises(UserError, match=r'videomae.layernorm.bias is \[31\], not \[32\]'):
    load_pretrained(folder(tmp_path, other))
  # Said before anything of that size is made.
  huge = dict(hidden_size=2 * 10**12, num_hidden_layers=10**9, decoder_hidden_size=10**12)
  said = 'hidden_size 2000000000000, not 32, num_hidden_layers 1000000000, not 2, decoder_hidden'
  with pytest.raises(UserError, match=f'config.json says otherwise than the tensors: {said}'):
    load_pretrained(folder(tmp_path, tensors, **huge))
  for wrong, match in (
    (dict(model_type='vit'), "of a 'vit', not of a videomae"),
    (dict(hidden_act='gelu_new'), "hidden_act 'gelu_new'; only gelu"),
    (dict(patch_size=[8, 16]), r'patch_size is \[8, 16\]; only squares'),
    (dict(image_size=10**6), 'says that clips have 4 frames of 1000000 x 1000000 pixels'),
    (dict(num_frames=5), 'contradicts itself: frames 5 is no multiple of the patch, 2'),
    (dict(num_attention_heads=5), 'width 32 is no multiple of 5 heads'),
  ):
    with pytest.raises(UserError, match=match):
      load_pretrained(folder(tmp_path, tensors, **wrong))
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(UserError, match='config.json is damaged'):
    load_pretrained(tmp_path)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(UserError, match='there is no .*config.json, which says what'):
    load_pretrained(tmp_path)
  with pytest.raises(UserError, match="--kind: there is no 'huggingfaces'. Did you mean"):
    from_checkpoint(read_checkpoint(tmp_path), kind='huggingfaces')
