"""Checkpoints of frozen networks, from PyTorch's files to ours."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.interchange import peer_vqgan
from vmae_jax.errors import UserError
from vmae_jax.interchange.convert import convert, read_tensors
from vmae_jax.interchange.vqgan import vqgan_from_taming
from vmae_jax.tokenizers.tokenizer import load_tokenizer


class Callback:
  """Stands for a class that a training framework has pickled."""


def test_a_vqgan_is_recognised_and_written(tmp_path):
  source, out = tmp_path / 'last.safetensors', tmp_path / 'ours.safetensors'
  state = peer_vqgan.weights('gumbel')
  save_file({f'module.{name}': value for name, value in state.items()}, source)
  line = convert(source, out)
  assert 'vqgan, 301 tensors, ' in line and '\n' not in line
  model, params = vqgan_from_taming(state)
  tokenizer = load_tokenizer(out)
  assert tokenizer.model == model
  jax.tree.map(np.testing.assert_array_equal, tokenizer.params, params)


def test_mistakes(tmp_path):
  source, out = tmp_path / 'a.safetensors', tmp_path / 'ours.safetensors'
  with pytest.raises(UserError, match='there is no file .*a.safetensors'):
    convert(source, out)
  save_file({'x': np.zeros(2)}, source)
  with pytest.raises(UserError, match=r'tensors \(x, ...\) are those of no network'):
    convert(source, out)
  with pytest.raises(UserError, match="--kind: there is no 'vqgam'. Did you mean 'vqgan'"):
    convert(source, out, kind='vqgam')
  with pytest.raises(UserError, match='no VQGAN of taming'):
    convert(source, out, kind='vqgan')
  with pytest.raises(UserError, match='is the source itself'):
    convert(source, source)
  source.write_bytes(b'nonsense')
  with pytest.raises(UserError, match='no safetensors file or a damaged one'):
    convert(source, out)
  assert not out.exists()


@pytest.mark.full
def test_what_torch_saves(tmp_path):
  import torch

  state = {'a': torch.arange(3, dtype=torch.bfloat16), 'n': torch.tensor(7)}
  path = tmp_path / 'a.ckpt'
  for saved in (state, {'state_dict': state, 'epoch': 1}, {'model': state}, {'params': state}):
    torch.save(saved, path)
    tensors = read_tensors(path)
    assert tensors['a'].dtype == np.float32 and tensors['a'].tolist() == [0, 1, 2]
    assert tensors['n'] == 7
  torch.save(state | {'epoch': 1}, path)
  with pytest.raises(UserError, match='what is no tensor: epoch'):
    read_tensors(path)
  torch.save({'state_dict': state, 'callbacks': Callback()}, path)
  with pytest.raises(UserError, match=r'holds objects of .*Callback, which are not loaded'):
    read_tensors(path)
  path.write_bytes(b'nonsense')
  with pytest.raises(UserError, match='no PyTorch checkpoint or a damaged one'):
    read_tensors(path)
