"""Conversions from end to end where PyTorch and transformers are installed."""

import argparse
import json
import shutil

import pytest
from safetensors.numpy import save_file

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
@pytest.mark.parametrize('kind', ['pretraining', 'classification'])
def test_official_and_transformers_agree_on_the_peer(tmp_path, kind):
  """The same weights under both kinds of names, of a size that is in no table."""
  folder = tmp_path / 'hf'
  folder.mkdir()
  save_file(peer.weights(kind), folder / 'model.safetensors', {'format': 'pt'})
  config = peer.SMALL | dict(
    model_type='videomae', layer_norm_eps=1e-6, use_mean_pooling=kind == 'classification'
  )
  (folder / 'config.json').write_text(json.dumps(config))
  report = convert(folder, tmp_path / 'x.safetensors', to='videomae')
  assert 'hf in transformers: largest' in report and 'result in PyTorch: largest' in report
  shutil.rmtree(folder)
  # Heads come from what we wrote beside the tensors.
  report = convert(tmp_path / 'x.safetensors', folder, to='huggingface')
  assert 'source in PyTorch: largest' in report and 'hf in transformers: largest' in report
