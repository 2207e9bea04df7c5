"""Reading checkpoints: every form that people have, and nothing that could run code."""

import argparse
import json
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from vmae_jax.errors import UserError
from vmae_jax.interchange.tensors import read_checkpoint

A = np.arange(3, dtype=np.float32)


class Callback:
  """Stands for a class that a training framework has pickled."""


def test_prefixes_of_wrappers_are_taken_off(tmp_path):
  for prefix in ('', 'module.', '_orig_mod.', 'model.', 'module._orig_mod.', '_orig_mod.module.'):
    save_file({f'{prefix}a.b': A, f'{prefix}model.c': A}, tmp_path / 'x.safetensors')
    assert set(read_checkpoint(tmp_path / 'x.safetensors').tensors) == {'a.b', 'model.c'}


def test_fractions_become_float32_and_that_is_noted(tmp_path):
  save_file({'a': A.astype(np.float16), 'n': np.array(7)}, tmp_path / 'x.safetensors')
  tensors, about, arguments, notes = read_checkpoint(tmp_path / 'x.safetensors')
  assert tensors['a'].dtype == np.float32 and tensors['n'].dtype == np.int64
  assert about == arguments == {} and notes == ['stored as float16, int64']


def test_shards_of_a_folder(tmp_path):
  names = 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'
  for name, key in zip(names, 'ab', strict=True):
    save_file({key: A}, tmp_path / name)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': dict(zip('ab', names, strict=True))}))
  assert set(read_checkpoint(tmp_path).tensors) == {'a', 'b'}
  (tmp_path / names[1]).unlink()
  with pytest.raises(UserError, match='lacks model-00002-of-00002.safetensors, which'):
    read_checkpoint(tmp_path)
  # An index cannot lead out of its folder.
  folder = tmp_path / 'inner'
  folder.mkdir()
  (folder / index.name).write_text(json.dumps({'weight_map': {'a': f'../{names[0]}'}}))
  with pytest.raises(UserError, match=f'lacks {names[0]}'):
    read_checkpoint(folder)
  (folder / index.name).write_text('{"weight_map": 3}')
  with pytest.raises(UserError, match='no index of shards or a damaged one'):
    read_checkpoint(folder)


def test_what_is_not_there(tmp_path):
  with pytest.raises(UserError, match='there is no file .*nothing'):
    read_checkpoint(tmp_path / 'nothing')
  with pytest.raises(UserError, match='no weights that are known here: there is no model.safet'):
    read_checkpoint(tmp_path)
  for name in ('zero_pp_rank_0_mp_rank_00_model_states.pt', 'mp_rank_00_model_states.pt'):
    (tmp_path / name).touch()
  with pytest.raises(UserError, match='in 2 parts .*zero_to_fp32.py'):
    read_checkpoint(tmp_path)


def test_damaged_files(tmp_path):
  path = tmp_path / 'x.safetensors'
  save_file({'a': A}, path)
  whole = path.read_bytes()
  # A header that promises more than the file has: nothing is allocated for it.
  lying = json.dumps({'a': {'dtype': 'F32', 'shape': [10**12], 'data_offsets': [0, 4 * 10**12]}})
  huge = len(lying).to_bytes(8, 'little') + lying.encode()
  for damaged in (whole[:-3], whole[:20], b'nonsense', b'', huge):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match='no safetensors file or a damaged one'):
      read_checkpoint(path)
  save_file({'a': A}, path, {'vmae_jax': '{'})
  with pytest.raises(UserError, match='what vmae_jax wrote into it is damaged'):
    read_checkpoint(path)


@pytest.mark.full
def test_what_torch_saves(tmp_path):
  import torch

  state = {'a': torch.arange(3, dtype=torch.bfloat16), 'n': torch.tensor(7)}
  path = tmp_path / 'a.ckpt'
  arguments = argparse.Namespace(num_frames=8, model=None)
  for saved in (
    state,
    *({key: state, 'epoch': 1} for key in ('state_dict', 'model', 'module', 'params')),
    {'model': state, 'optimizer': {'state': {}}, 'args': arguments},
  ):
    torch.save(saved, path)
    tensors = read_checkpoint(path).tensors
    assert tensors['a'].dtype == np.float32 and tensors['a'].tolist() == [0, 1, 2]
    assert tensors['n'] == 7
  found = read_checkpoint(path)
  assert found.arguments['num_frames'] == 8 and found.notes == ['stored as bfloat16, int64']
  torch.save({'model': state, 'model_ema': state}, path)
  assert 'model_ema' in read_checkpoint(path).notes[0]


@pytest.mark.full
def test_what_is_refused_of_torch(tmp_path):
  import torch

  state, path = {'a': torch.ones(3)}, tmp_path / 'a.pth'
  torch.save(state | {'epoch': 1}, path)
  with pytest.raises(UserError, match='what is no tensor: epoch'):
    read_checkpoint(path)
  torch.save({'state_dict': state, 'callbacks': Callback()}, path)
  with pytest.raises(UserError, match=r'holds objects of .*Callback, which are not loaded'):
    read_checkpoint(path)
  torch.save([state], path)
  with pytest.raises(UserError, match='holds no tensors by name'):
    read_checkpoint(path)
  torch.save({'a': torch.ones(1).expand(10**9)}, path)  # 4 GB from 4 bytes.
  with pytest.raises(UserError, match='a claims more values than are stored'):
    read_checkpoint(path)
  torch.save({'a': torch.ones(1000)}, path)
  whole = path.read_bytes()
  for damaged in (whole[:-100], whole[: len(whole) // 2], b'nonsense', b''):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match='no PyTorch checkpoint or a damaged one'):
      read_checkpoint(path)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as packed:
    packed.writestr('archive/data.pkl', b'0' * 10**6)
  with pytest.raises(UserError, match='a packed archive'):
    read_checkpoint(path)


@pytest.mark.full
def test_a_folder_with_an_older_kind_of_file(tmp_path):
  import torch

  torch.save({'a': torch.ones(3)}, tmp_path / 'pytorch_model.bin')
  assert read_checkpoint(tmp_path).tensors['a'].tolist() == [1, 1, 1]


@pytest.mark.full
@pytest.mark.parametrize('legacy', [False, True])
def test_a_folder_of_deepspeed(tmp_path, legacy):
  import torch

  folder = tmp_path / 'checkpoint-best'
  folder.mkdir()
  state = {'module': {'a': torch.ones(3, dtype=torch.float16)}, 'dp_world_size': 8}
  file = folder / 'mp_rank_00_model_states.pt'
  torch.save(state, file, _use_new_zipfile_serialization=not legacy)
  (tmp_path / 'latest').write_text('checkpoint-best\n')
  for path in (tmp_path, folder, file):
    tensors = read_checkpoint(path).tensors
    assert tensors['a'].dtype == np.float32 and tensors['a'].tolist() == [1, 1, 1]
