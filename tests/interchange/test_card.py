"""The model card: what it says, and that its code runs and computes what it should."""

import ast
import contextlib
import re

import numpy as np
import pytest

from tests.interchange import synthetic
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
def test_every_snippet_is_python(kind, file):
  card = model_card(INFO | {'kind': kind, 'classes': 5}, file=file, rest=[])
  snippets = blocks(card)
  assert len(snippets) == 1 + (file == 'model.safetensors')
  for code in snippets:
    ast.parse(code)
  assert file in snippets[-1] and '{' not in card.split('```')[0]


def test_what_is_known_is_said():
  card = model_card(INFO, file='model.safetensors', rest=['regressor/a', 'regressor/b'])
  for text in (
    '| method | [mgmae](https://arxiv.org/abs/2308.10794) |',
    '| training data | lists/k400.txt |',
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


def run(code, folder):
  scope = {}
  with contextlib.chdir(folder):
    # Something to look at instead of zeros.
    exec(code.replace('torch.zeros(', 'torch.linspace(-1, 1, 24576).reshape('), scope)
  return scope


@pytest.mark.full
@pytest.mark.parametrize('kind', ['pretraining', 'classification', 'encoder'])
def test_snippets_of_both_agree(tmp_path, kind):
  import argparse

  import torch

  from vmae_jax.interchange.convert import convert

  if kind == 'classification':
    tensors = synthetic.values(synthetic.finetuned(ENCODER, 5, PATCH))
  else:
    tensors = synthetic.values(synthetic.pretraining(ENCODER, DECODER, PATCH))
  state = {name: torch.from_numpy(value) for name, value in tensors.items()}
  arguments = argparse.Namespace(num_frames=8, input_size=32)
  torch.save({'model': state, 'args': arguments}, tmp_path / 'in.pth')
  part = 'encoder' if kind == 'encoder' else 'all'
  for to, name in (('huggingface', 'hf'), ('videomae', 'a.pth'), ('videomae', 'b.safetensors')):
    convert(tmp_path / 'in.pth', tmp_path / name, to=to, part=part)
  codes = blocks((tmp_path / 'hf' / 'README.md').read_text())
  found = [run(code, tmp_path / 'hf') for code in codes]
  found += [run(blocks((tmp_path / f'{name}.md').read_text())[0], tmp_path) for name in 'ab']
  theirs, *plain = found
  name = 'logits' if kind == 'classification' else 'features'
  for other in plain[1:]:
    # A classifier's file from others has no `encoder.` before its names.
    one, two = (
      {key.removeprefix('encoder.'): value for key, value in x['w'].items()}
      for x in (plain[0], other)
    )
    assert one.keys() == two.keys()
    for key, weight in one.items():
      np.testing.assert_array_equal(weight, two[key], err_msg=key)
    # Products of the same numbers depend on where in memory a file's weights lie, on some machines.
    np.testing.assert_allclose(plain[0][name], other[name], atol=1e-6)
  # Transformers wants frames before colours, so that the snippets' own clips differ.
  video, shown = plain[0]['video'], {}
  if kind == 'pretraining':
    hidden = torch.ones(1, 64, dtype=torch.bool)
    hidden[0, plain[0]['visible']] = False
    name, shown = 'pixels', {'bool_masked_pos': hidden}
  with torch.no_grad():
    again = theirs['model'](video.transpose(1, 2), **shown)
  again = again.last_hidden_state if kind == 'encoder' else again.logits
  assert theirs[name].shape[-1] == again.shape[-1]
  np.testing.assert_allclose(plain[0][name], again, atol=1e-5 * again.abs().max().item())
