"""The model card: what it says, and that its code runs and computes what it should."""

import ast
import contextlib
import json
import re

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

import vmae_jax
from tests.data.clips_on_disk import write_video
from tests.interchange import synthetic
from vmae_jax.data.video import Video
from vmae_jax.interchange.card import model_card

INFO = dict(
  kind='pretraining',
  method='mgmae',
  encoder=dict(width=128, depth=4, heads=4, mlp=512),
  decoder=dict(width=128, depth=2, heads=4, mlp=512),
  patch=(2, 8, 8),
  channels=3,
  frames=8,
  size=32,
  eps=1e-6,
  mean=(0.5, 0.5, 0.5),
  std=(0.5, 0.5, 0.5),
  classes=None,
  pool=None,
  config=dict(
    data=dict(train='lists/k400.txt', stride=4),
    batch_size=64,
    masking=dict(name='motion_guided', ratio=0.9),
  ),
  step=1200,
  results={
    'summary.json': {'loss': 0.51234, 'test_top1': 0.8125},
    'probe.json': {'accuracy': {'pre-trained': {'knn': {'top1': 0.25}}}},
  },
)
ENCODER, DECODER, PATCH = (128, 4, 512), (128, 2, 512), (2, 8, 8)


def blocks(card):
  return re.findall(r'```python\n(.*?)```', card, re.S)


@pytest.mark.parametrize('kind', ['pretraining', 'classification', 'encoder'])
@pytest.mark.parametrize('file', ['model.safetensors', 'x.safetensors', 'x.pth'])
def test_every_snippet_is_python_and_every_header_yaml(kind, file):
  pool = 'mean' if kind == 'classification' else None
  info = INFO | {'kind': kind, 'classes': 5, 'pool': pool, 'method': 'mine: #1 [x]'}
  card = model_card(info, file=file, rest=[])
  (code,) = blocks(card)
  ast.parse(code)
  assert (file in code) == (file != 'model.safetensors') and '{' not in card.split('```')[0]
  header = yaml.safe_load(card.split('---\n')[1])
  assert header['tags'] == ['video', 'masked-autoencoder', 'mine: #1 [x]']
  assert header['license'] == 'unknown' and header['datasets'] == ['k400']


def test_the_card_says_what_is_known():
  card = model_card(INFO, file='model.safetensors', rest=['regressor/a', 'regressor/b'])
  for text in (
    '| method | [mgmae](https://arxiv.org/abs/2308.10794) |',
    '| training data | k400.txt |',
    '| steps | 1200 |',
    '| clips in a step | 64 |',
    '| masking | motion_guided, ratio 0.9 |',
    '| loss at the end | 0.5123 |',
    '| top1 of the last test | 0.812 |',
    '| knn accuracy, pre-trained | 0.250 |',
    '2 parameters of regressor',
    'Every LayerNorm has eps 1e-06.',
    'model.decoder.norm.eps = 1e-06',
    'minus [0.5, 0.5, 0.5]',
  ):
    assert text in card, text
  bare = model_card(INFO | dict(config=None, results={}, step=''), file='x.pth', rest=[])
  assert 'training data' not in bare and '| steps' not in bare


def test_several_sets_and_segments_are_named():
  data = dict(train='0.7*/home/me/k400.txt + 0.3*lists/ssv2.txt', stride=4, sampling='segment')
  info = INFO | dict(kind='classification', classes=5, pool='mean', config=dict(data=data))
  card = model_card(info, file='model.safetensors', rest=[])
  assert '| training data | k400.txt + ssv2.txt |' in card and '/home' not in card
  assert 'one frame of each equal segment |' in card and 'frame_sampling_rate' not in card


def agrees_on_a_file(folder):
  """What the card's line says of a file, whose frames need no resizing, is what we say."""
  from transformers import pipeline

  (line,) = re.findall(r'`(pipeline\(.*?)`', (folder / 'README.md').read_text())
  write_video(folder / 'cat.mp4', frames=40, height=32, width=32, noise=40)
  with contextlib.chdir(folder):
    found = eval(line, {'pipeline': pipeline, 'folder': '.'})
  with Video(folder / 'cat.mp4') as video:
    clip = video.read(np.linspace(0, 31, 8).astype(int))
  model = vmae_jax.load(folder)
  expected = dict(zip(model.classes, model.classify(clip), strict=True))
  assert len(found) == 5 and np.std([entry['score'] for entry in found]) > 0.01
  for entry in found:
    np.testing.assert_allclose(entry['score'], expected[entry['label']], atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('kind', ['pretraining', 'first', 'mean', 'encoder'])
def test_the_snippets_run(tmp_path, kind):
  import torch

  from vmae_jax.interchange import selfcheck
  from vmae_jax.interchange.convert import convert
  from vmae_jax.interchange.pretrained import load_pretrained

  shapes = synthetic.finetuned(ENCODER, 5, PATCH)
  if kind == 'first':
    shapes = {name.replace('fc_norm.', 'norm.'): shape for name, shape in shapes.items()}
  elif kind != 'mean':
    shapes = synthetic.pretraining(ENCODER, DECODER, PATCH)
  tensors = synthetic.values(shapes)
  about = json.dumps({'info': {'frames': 8, 'size': 32}})
  save_file(tensors, tmp_path / 'in.safetensors', {'vmae_jax': about})
  part = 'encoder' if kind == 'encoder' else 'all'
  for to, name in (('huggingface', 'hf'), ('videomae', 'a.pth'), ('videomae', 'b.safetensors')):
    convert(tmp_path / 'in.safetensors', tmp_path / name, to=to, part=part)

  def run(card):
    scope = {}
    with contextlib.chdir(card.parent):
      exec(blocks(card.read_text())[0], scope)
    return scope

  for name in 'ab':
    state = run(tmp_path / f'{name}.md')['state']
    for key, value in state.items():
      np.testing.assert_array_equal(value, tensors[key])
  found = run(tmp_path / 'hf' / 'README.md')
  if kind in ('mean', 'first'):
    agrees_on_a_file(tmp_path / 'hf')
  # The model as the snippet has made it, eps and all.
  params, info = load_pretrained(tmp_path / 'hf')
  ours = selfcheck.our_outputs(params, info)
  video = torch.from_numpy(selfcheck.fixed_clip(info).transpose(0, 1, 4, 2, 3).copy())
  hidden = torch.from_numpy(selfcheck.fixed_mask(info))[None]
  assert found['video'].shape == video.shape
  with torch.no_grad():
    if info['kind'] == 'classification':
      name, theirs = 'logits', found['model'](video).logits
    elif kind == 'pretraining':
      name, theirs = 'pixels', found['model'](video, bool_masked_pos=hidden).logits
    else:
      theirs = found['model'](video, bool_masked_pos=hidden).last_hidden_state
      name = 'features'
  assert np.abs(ours[name] - theirs.numpy()).max() < 1e-5 * np.abs(ours[name]).max()
