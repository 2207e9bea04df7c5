"""Checkpoints of frozen networks, from PyTorch's files to ours."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.interchange import peer_raft, peer_vqgan
from vmae_jax.errors import UserError
from vmae_jax.frozen.raft import load_raft
from vmae_jax.frozen.tokenizer import load_tokenizer
from vmae_jax.interchange.convert import convert
from vmae_jax.interchange.vqgan import vqgan_from_taming


def test_raft_is_recognised_and_written(tmp_path):
  source, out = tmp_path / 'raft.safetensors', tmp_path / 'ours.safetensors'
  save_file(peer_raft.weights('small'), source)
  assert 'raft, ' in convert(source, out)
  assert load_raft(str(out))[0] == 'small'


def test_a_vqgan_is_recognised_and_written(tmp_path):
  source, out = tmp_path / 'last.safetensors', tmp_path / 'ours.safetensors'
  state = peer_vqgan.weights('gumbel')
  save_file({f'module.{name}': value for name, value in state.items()}, source)
  line = convert(source, out)
  assert 'vqgan, 301 tensors, ' in line and '\n' not in line
  config, params = vqgan_from_taming(state)
  tokenizer = load_tokenizer(out)
  assert tokenizer.model.config() == config
  jax.tree.map(np.testing.assert_array_equal, tokenizer.params, params)
  with pytest.raises(UserError, match='only becomes a file of vmae_jax: drop --to'):
    convert(source, out, to='orbax')


def test_mistakes_with_frozen_networks(tmp_path):
  source, out = tmp_path / 'a.safetensors', tmp_path / 'ours.safetensors'
  with pytest.raises(UserError, match='there is no file .*a.safetensors'):
    convert(source, out)
  save_file({'x': np.zeros(2)}, source)
  with pytest.raises(UserError, match=r'tensors \(x, ...\) are those of no network'):
    convert(source, out)
  with pytest.raises(UserError, match="--kind: there is no 'vqgam'. Did you mean 'vqgan'"):
    convert(source, out, kind='vqgam')
  with pytest.raises(UserError, match='a.safetensors is not a VQGAN of taming'):
    convert(source, out, kind='vqgan')
  with pytest.raises(UserError, match='would be overwritten: give another --out'):
    convert(source, source, kind='vqgan')
  assert not out.exists()
