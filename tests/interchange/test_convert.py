"""Conversions from end to end, as a user starts them."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests import started
from tests.interchange import synthetic
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.frozen.files import load_params, save_params
from vmae_jax.interchange import selfcheck
from vmae_jax.interchange.convert import convert
from vmae_jax.interchange.pretrained import load_pretrained
from vmae_jax.interchange.runs import load_run, save_run

# The size `demo`, which our configs can describe.
ENCODER, DECODER, PATCH = (128, 4, 512), (128, 2, 512), (2, 8, 8)
# Clips that are smaller than the official ones: tests run the models.
SMALL = {'vmae_jax': json.dumps({'info': {'frames': 8, 'size': 32}})}


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
  """As if PyTorch were not installed; test_convert_torch.py has the tests with it."""
  monkeypatch.setattr(selfcheck, 'has_torch', lambda: False)


@pytest.fixture
def unchecked(monkeypatch):
  """Without running the models, for tests of other things."""
  monkeypatch.setattr(selfcheck, 'our_outputs', lambda *_: {'features': np.zeros(3, np.float32)})


@pytest.fixture(scope='module')
def official(tmp_path_factory):
  """A checkpoint of the official pre-training."""
  path = tmp_path_factory.mktemp('official') / 'checkpoint.safetensors'
  save_file(synthetic.values(synthetic.pretraining(ENCODER, DECODER, PATCH)), path, SMALL)
  return path


@pytest.fixture(scope='module')
def run(tmp_path_factory, official):
  """A checkpoint of ours: MotionMAE with a second decoder, which other formats cannot hold."""
  params, _ = load_pretrained(official)
  config = load_config(str(started.ROOT / 'configs/motionmae.py') + ':smoke').to_dict()
  config['heads']['motion']['decoder'] = 'motion_decoder'
  params['motion_decoder'] = jax.tree.map(lambda x: x + 1, params['decoder'])
  folder = tmp_path_factory.mktemp('run') / 'checkpoints' / '7'
  folder.parent.mkdir()
  save_run(folder, params, config)
  (folder.parent.parent / 'summary.json').write_text(json.dumps({'loss': 0.1234567}))
  return folder.parent.parent


@pytest.fixture(scope='module', autouse=True)
def fast_compiler():
  """Nearly all time of these tests goes into compiling."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def exported(run, folder_of_exported, tmp_path):
  """The run as a folder for transformers, a copy of one's own."""
  return shutil.copytree(folder_of_exported, tmp_path / 'hf')


@pytest.fixture(scope='module')
def folder_of_exported(run, tmp_path_factory):
  out = tmp_path_factory.mktemp('exported') / 'hf'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(selfcheck, 'has_torch', lambda: False)
    convert(run, out, to='huggingface')
  return out


def same(one, other):
  one, other = flatten_dict(one), flatten_dict(other)
  assert one.keys() == other.keys()
  for path in one:
    np.testing.assert_array_equal(one[path], other[path], err_msg=str(path))


def names(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('to, name', [('huggingface', 'hf'), ('videomae', 'x.safetensors')])
def test_ours_there_and_back_is_equal_to_the_last_bit(run, tmp_path, to, name):
  out, back = tmp_path / 'out' / name, tmp_path / 'back'
  report = convert(run, out, to=to)
  assert 'read back: every value is equal' in report and 'motionmae (pretraining)' in report
  assert 'the result was not run elsewhere: PyTorch is not installed' in report
  beside = out / 'rest.safetensors' if to == 'huggingface' else out.with_suffix('.rest.safetensors')
  assert f'19 parameters that {to} cannot hold are in {beside}: motion_decoder/' in report
  assert names(out.parent) == (
    ['hf'] if to == 'huggingface' else ['x.md', 'x.rest.safetensors', 'x.safetensors']
  )
  report = convert(out, back, to='orbax')
  assert '19 parameters come from' in report and 'fingerprint stored in the source' in report
  (params, info), (again, info_again) = load_run(run), load_run(back)
  same(params, again)
  assert info['config'] == info_again['config'] and info['step'] == 7
  # A file beside that is of another conversion is refused.
  rest, config = load_params(beside, kind='rest')
  rest['motion_decoder']['norm']['bias'][3] += 1
  save_params(beside, rest, kind='rest', config=config)
  with pytest.raises(UserError, match='is not the one that was written together with'):
    load_pretrained(out)
  # The file beside may be lost: what it held is named and left out.
  beside.unlink()
  params, info = load_pretrained(out)
  assert set(params) == {'encoder', 'decoder'}
  assert any('rest.safetensors is not beside it: 19 param' in note for note in info['notes'])


def test_a_folder_for_transformers(exported):
  out = exported
  assert names(out) == [
    *('README.md', 'config.json', 'model.safetensors'),
    *('preprocessor_config.json', 'rest.safetensors', 'video_preprocessor_config.json'),
  ]
  config = json.loads((out / 'config.json').read_text())
  assert (
    config['architectures'] == ['VideoMAEForPreTraining'] and config['model_type'] == 'videomae'
  )
  assert config['layer_norm_eps'] == 1e-6 and config['qkv_bias'] is True
  assert config['use_mean_pooling'] is False and config['norm_pix_loss'] is True
  sizes = 'num_frames image_size tubelet_size patch_size num_attention_heads decoder_hidden_size'
  assert [config[name] for name in sizes.split()] == [8, 32, 2, 8, 4, 128]
  with safe_open(out / 'model.safetensors', framework='numpy') as f:
    assert f.metadata()['format'] == 'pt'  # Else transformers refuses it.
    assert len(f.keys()) == 2 + 4 * 15 + 2 + 2 + 2 * 15 + 4
    assert 'videomae.encoder.layer.3.attention.attention.q_bias' in f.keys()
  processor = json.loads((out / 'preprocessor_config.json').read_text())
  assert processor['image_mean'] == [0.485, 0.456, 0.406]
  assert processor['size'] == {'shortest_edge': 32}
  video = json.loads((out / 'video_preprocessor_config.json').read_text())
  assert video.pop('video_processor_type') == 'VideoMAEVideoProcessor'
  assert processor.pop('image_processor_type') == 'VideoMAEImageProcessor' and video == processor
  card = (out / 'README.md').read_text()
  for text in (
    '| steps | 7 |',
    '| loss at the end | 0.1235 |',
    'synthetic:train',
    'motion_decoder',
  ):
    assert text in card


def test_the_encoder_alone(run, tmp_path, unchecked):
  out = tmp_path / 'hf'
  report = convert(run, out, to='huggingface', part='encoder')
  assert 'left out, as --part=encoder says: decoder, motion_decoder' in report
  assert names(out) == names(out) and 'rest.safetensors' not in names(out)
  params, info = load_pretrained(out)
  assert info['kind'] == 'encoder' and set(params) == {'encoder'}
  same(params['encoder'], load_run(run)[0]['encoder'])
  with pytest.raises(UserError, match="--part: there is no 'decoder'"):
    convert(run, tmp_path / 'x', to='huggingface', part='decoder')


def test_official_to_orbax_and_back(official, tmp_path):
  report = convert(official, tmp_path / 'ours', to='orbax')
  assert 'the source was not run: PyTorch is not installed' in report
  assert 'positions: computed' in report
  _, info = load_run(tmp_path / 'ours')
  assert info['config']['model']['size'] == 'demo' and info['config']['method'] == 'videomae'
  assert info['config']['model']['decoder_depth'] == 2
  convert(tmp_path / 'ours', tmp_path / 'back.safetensors', to='videomae')
  same(load_file(official), load_file(tmp_path / 'back.safetensors'))


def test_a_classifier(tmp_path, unchecked):
  source = tmp_path / 'x.safetensors'
  save_file(synthetic.values(synthetic.finetuned(ENCODER, 3, PATCH)), source, SMALL)
  convert(source, tmp_path / 'ours', to='orbax')
  assert load_run(tmp_path / 'ours')[1]['config']['data']['classes'] == 3
  report = convert(tmp_path / 'ours', tmp_path / 'hf', to='huggingface')
  assert '(classification)' in report
  config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
  assert config['architectures'] == ['VideoMAEForVideoClassification']
  assert config['use_mean_pooling'] is True
  assert config['id2label'] == {'0': 'LABEL_0', '1': 'LABEL_1', '2': 'LABEL_2'}
  convert(tmp_path / 'hf', tmp_path / 'back.safetensors', to='videomae')
  same(load_file(source), load_file(tmp_path / 'back.safetensors'))


@pytest.mark.parametrize('decoders', [1, 2])
def test_mme(tmp_path, decoders, unchecked):
  source = tmp_path / 'x.safetensors'
  tensors = synthetic.values(synthetic.mme(ENCODER, DECODER, PATCH, decoders=decoders, length=4))
  save_file(tensors, source, SMALL)
  assert 'mme (pretraining)' in convert(source, tmp_path / 'ours', to='orbax')
  params, info = load_run(tmp_path / 'ours')
  same(params, load_pretrained(source)[0])
  assert set(info['config']['heads']) == {'shape', 'motion'}
  assert info['config']['tracking']['steps'] == 4
  assert 'mme (encoder)' in convert(source, tmp_path / 'hf', to='huggingface')
  convert(tmp_path / 'hf', tmp_path / 'back', to='orbax')
  same(load_run(tmp_path / 'back')[0], params)
  assert load_run(tmp_path / 'back')[1]['config'] == info['config']


def test_other_outputs_are_an_error(exported, tmp_path):
  out = exported
  tensors = load_file(out / 'model.safetensors')
  with safe_open(out / 'model.safetensors', framework='numpy') as f:
    metadata = f.metadata()
  tensors['videomae.encoder.layer.2.output.dense.weight'][0] *= 1.01
  save_file(tensors, out / 'model.safetensors', metadata)
  with pytest.raises(UserError, match='fingerprint stored .* differ by .* more than 0.0001'):
    convert(out, tmp_path / 'ours', to='orbax')
  assert names(tmp_path) == ['hf']


def test_what_fails_leaves_nothing(official, tmp_path, monkeypatch, unchecked):
  def differ(*_):
    raise UserError('x: outputs differ')

  monkeypatch.setattr('vmae_jax.interchange.convert._check_target', differ)
  for to, name in (('huggingface', 'a'), ('videomae', 'a.safetensors'), ('orbax', 'b')):
    with pytest.raises(UserError, match='outputs differ'):
      convert(official, tmp_path / name, to=to)
  assert names(tmp_path) == []


@pytest.mark.parametrize('there', ['x.safetensors', 'x.md', 'x.rest.safetensors'])
def test_nothing_is_overwritten(run, tmp_path, unchecked, there):
  (tmp_path / there).write_text('mine')
  with pytest.raises(UserError, match=f'{there} would be overwritten: give another --out'):
    convert(run, tmp_path / 'x.safetensors', to='videomae')
  assert names(tmp_path) == [there] and (tmp_path / there).read_text() == 'mine'


def test_exports_hold_no_private_path(official, tmp_path, unchecked):
  params, info = load_pretrained(official)
  config = load_config(str(started.ROOT / 'configs/mgmae.py') + ':smoke').to_dict()
  config['data'] |= dict(train='/home/me/patients/clinic_7/list.txt', root='gs://secret/k400/')
  config['init_from'] = 'C:\\Users\\me\\weights\\b_k400'
  config['probe'] |= dict(train='/home/me/train.txt', test='/home/me/test.txt')
  config['motion'] |= dict(path='/home/me/raft.safetensors')
  save_run(tmp_path / 'run', params, config)
  for to, name in (('huggingface', 'hf'), ('videomae', 'x.safetensors'), ('orbax', 'ours')):
    convert(tmp_path / 'run', tmp_path / 'out' / name, to=to)
  for path in (tmp_path / 'out').rglob('*'):
    if path.is_file():
      for word in (b'patients', b'clinic', b'secret', b'/home', b'Users', str(tmp_path).encode()):
        assert word not in path.read_bytes(), (path, word)
  assert 'list.txt' in (tmp_path / 'out' / 'hf' / 'README.md').read_text()


def test_mistakes(official, run, tmp_path):
  out = tmp_path / 'out'
  for arguments, match in (
    ((official, out, dict()), 'is a video model: give --to=huggingface|videomae|orbax'),
    ((official, out, dict(to='torch')), "--to: there is no 'torch'"),
    ((official, out, dict(to='orbax', kind='mae')), "--kind: there is no 'mae'"),
    ((official, out, dict(to='videomae')), 'writes a file, FILE.pth or FILE.safetensors'),
    ((official, official, dict(to='videomae')), 'would be overwritten'),
    ((official, official.parent, dict(to='orbax')), 'would be overwritten'),
    ((official, out, dict(to='orbax', kind='mme')), 'missing'),
    ((official, out, dict(to='orbax', heads=2)), 'no size has an encoder of width 128, .* 2 heads'),
    ((tmp_path / 'nothing', out, dict(to='orbax')), 'there is no file'),
  ):
    with pytest.raises(UserError, match=match):
      convert(*arguments[:2], **arguments[2])
  params, info = load_run(run)
  model = info['config']['model'] | dict(positions='interpolate', position_grid=(8, 14, 14))
  save_run(tmp_path / 'wide', params, info['config'] | {'model': model})
  with pytest.raises(UserError, match='interpolated from a grid of 8x14x14 .*only --to=orbax'):
    convert(tmp_path / 'wide', out, to='huggingface')
  assert not out.exists()


def test_the_command(official, tmp_path):
  def command(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'vmae_jax.convert', *map(str, arguments)],
      env=started.environment(),
      cwd=started.ROOT,
      capture_output=True,
      text=True,
    )

  done = command(official, f'--out={tmp_path / "ours"}', '--to=orbx')
  assert done.returncode == 2 and done.stderr.startswith("error: --to: there is no 'orbx'. Did you")
  assert done.stderr.count('\n') == 1
