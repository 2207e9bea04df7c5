"""Conversions from end to end where PyTorch and transformers are installed."""

import argparse
import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.interchange import peer, synthetic
from vmae_jax.interchange.convert import convert

pytestmark = pytest.mark.optimised

ENCODER, DECODER, PATCH = (128, 4, 512), (128, 2, 512), (2, 8, 8)
# Clips that are smaller than the official ones: tests run the models.
SMALL = {'vmae_jax': json.dumps({'info': {'frames': 8, 'size': 32}})}


@pytest.mark.full
def test_a_classifier_of_transformers_and_deepspeeds_half_precision(tmp_path):
  import torch

  tensors = synthetic.values(synthetic.finetuned(ENCODER, 5, PATCH))
  folder = tmp_path / 'checkpoint-best'
  folder.mkdir()
  state = {name: torch.from_numpy(value).half() for name, value in tensors.items()}
  arguments = argparse.Namespace(num_frames=8, input_size=32)
  torch.save({'module': state, 'args': arguments}, folder / 'mp_rank_00_model_states.pt')
  report = convert(folder, tmp_path / 'hf', to='huggingface')
  assert 'source in PyTorch: largest' in report and 'hf in transformers: largest' in report
  assert 'stored as float16' in report
  report = convert(tmp_path / 'hf', tmp_path / 'x.pth', to='videomae')
  assert 'result in PyTorch: largest difference' in report
  read = torch.load(tmp_path / 'x.pth', weights_only=True)['model']
  assert read.keys() == state.keys()
  for name, value in state.items():
    assert torch.equal(read[name], value.float())


@pytest.mark.full
@pytest.mark.parametrize('decoders', [1, 2])
def test_mme_in_torch(tmp_path, decoders):
  tensors = synthetic.values(synthetic.mme(ENCODER, DECODER, PATCH, decoders=decoders))
  save_file(tensors, tmp_path / 'x.safetensors', SMALL)
  report = convert(tmp_path / 'x.safetensors', tmp_path / 'ours', to='orbax')
  assert 'source in PyTorch: largest difference' in report


@pytest.mark.full
@pytest.mark.parametrize('mean', [False, True])
@pytest.mark.parametrize('kind', ['pretraining', 'classification'])
def test_official_and_transformers_agree_on_the_peer(tmp_path, kind, mean):
  """The same weights under both kinds of names, of a size that is in no table."""
  folder = tmp_path / 'hf'
  folder.mkdir()
  save_file(peer.weights(kind, mean), folder / 'model.safetensors', {'format': 'pt'})
  config = peer.SMALL | dict(model_type='videomae', layer_norm_eps=1e-6, use_mean_pooling=mean)
  (folder / 'config.json').write_text(json.dumps(config))
  report = convert(folder, tmp_path / 'x.safetensors', to='videomae')
  assert 'hf in transformers: largest' in report and 'result in PyTorch: largest' in report
  assert all(float(x) < 1e-5 for x in re.findall(r'difference (\S+)', report.split('(')[0]))
  shutil.rmtree(folder)
  # Heads come from what we wrote beside the tensors.
  report = convert(tmp_path / 'x.safetensors', folder, to='huggingface')
  assert 'source in PyTorch: largest' in report and 'hf in transformers: largest' in report
  assert json.loads((folder / 'config.json').read_text())['use_mean_pooling'] is mean
  again = load_file(folder / 'model.safetensors')
  for name, value in peer.weights(kind, mean).items():
    old = re.sub(r'(query|value)\.bias$', lambda m: f'{m[1][0]}_bias', name)
    np.testing.assert_array_equal(again.pop(old), value)
  assert not again


@pytest.mark.full
def test_a_whole_bias_changes_nothing(tmp_path):
  """PyTorch computes with the keys' part, which is left out here."""
  import torch

  tensors = synthetic.values(synthetic.finetuned(ENCODER, 5, PATCH))
  rng = np.random.default_rng(0)
  for name in [name for name in tensors if name.endswith('q_bias')]:
    prefix, q = name.removesuffix('q_bias'), tensors.pop(name)
    parts = q, rng.normal(size=q.shape).astype(np.float32), tensors.pop(f'{prefix}v_bias')
    tensors[f'{prefix}qkv.bias'] = np.concatenate(parts)
  state = {f'backbone.{name}': torch.from_numpy(value) for name, value in tensors.items()}
  arguments = argparse.Namespace(num_frames=8, input_size=32)
  torch.save({'model': state, 'args': arguments}, tmp_path / 'x.pth')
  report = convert(tmp_path / 'x.pth', tmp_path / 'ours', to='orbax')
  assert 'its part for the keys is left out' in report
  (difference,) = re.findall(r'source in PyTorch: largest difference (\S+)', report)
  assert float(difference) < 1e-5
