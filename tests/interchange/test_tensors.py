"""Reading checkpoints: every form that people have, and nothing that could run code."""

import argparse
import collections
import json
import os
import pathlib
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.interchange import synthetic
from vmae_jax.errors import UserError
from vmae_jax.interchange.tensors import read_checkpoint
from vmae_jax.interchange.torch_file import read_torch_file

A = np.arange(3, dtype=np.float32)


class Callback:
  """Stands for a class that a training framework has pickled."""


class Options(dict):
  """A mapping of a class of its own."""


def test_prefixes_of_wrappers_are_removed(tmp_path):
  for prefix in ('', 'module.', '_orig_mod.', 'model.', 'module._orig_mod.', '_orig_mod.module.'):
    save_file({f'{prefix}a.b': A, f'{prefix}model.c': A}, tmp_path / 'x.safetensors')
    assert set(read_checkpoint(tmp_path / 'x.safetensors').tensors) == {'a.b', 'model.c'}


def test_fractions_become_float32_and_that_is_noted(tmp_path):
  save_file({'a': A.astype(np.float16), 'n': np.array(7)}, tmp_path / 'x.safetensors')
  _, tensors, about, arguments, notes = read_checkpoint(tmp_path / 'x.safetensors')
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


def test_prefixes_that_most_names_have_are_removed(tmp_path):
  state = {'backbone.blocks.0.a': A, 'backbone.blocks.1.a': A, 'backbone.b': A, 'head.weight': A}
  save_file(state | {'roi_head.a': A}, tmp_path / 'x.safetensors')
  _, tensors, _, _, notes = read_checkpoint(tmp_path / 'x.safetensors')
  assert set(tensors) == {'blocks.0.a', 'blocks.1.a', 'b', 'head.weight'}
  assert notes == ['beside the backbone, left out: roi_head.a (1)']
  save_file({'net.a': A, 'net.b': A, 'criterion': A}, tmp_path / 'x.safetensors')
  assert set(read_checkpoint(tmp_path / 'x.safetensors').tensors) == {'a', 'b', 'criterion'}
  # Names that would fall together stay as they are.
  save_file({'net.a': A, 'net.b': A, 'a': A}, tmp_path / 'x.safetensors')
  assert set(read_checkpoint(tmp_path / 'x.safetensors').tensors) == {'net.a', 'net.b', 'a'}


def test_the_names_of_mmaction2(tmp_path):
  """As its VisionTransformer (vit_mae.py) and mmcv's FFN and PatchEmbed call their layers."""
  official = synthetic.values(synthetic.finetuned((32, 2, 64), 5, (2, 8, 8)))
  state = {}
  for name, value in official.items():
    for old, new in (
      ('patch_embed.proj.', 'patch_embed.projection.'),
      ('.mlp.fc1.', '.mlp.layers.0.0.'),
      ('.mlp.fc2.', '.mlp.layers.1.'),
    ):
      name = name.replace(old, new)
    head = name.startswith('head.')
    state[name.replace('head.', 'cls_head.fc_cls.') if head else f'backbone.{name}'] = value
  save_file(state, tmp_path / 'x.safetensors')
  tensors = read_checkpoint(tmp_path / 'x.safetensors').tensors
  assert tensors.keys() == official.keys()
  for name, value in official.items():
    np.testing.assert_array_equal(tensors[name], value)


def test_averaged_weights_of_torch_are_noted(tmp_path):
  save_file({'n_averaged': np.array(9), 'module.a': A}, tmp_path / 'x.safetensors')
  _, tensors, _, _, notes = read_checkpoint(tmp_path / 'x.safetensors')
  assert set(tensors) == {'a'} and 'averaged weights' in notes[0]


@pytest.mark.parametrize(
  'name, model',
  [
    ('module.pos_embed_spatial', 'MAE-ST'),
    ('blocks.0.attn.q.weight', 'MAE-ST'),
    ('clip_projector.norm.weight', 'InternVideo2'),
    ('layers.0.blocks.0.attn.relative_position_bias_table', 'Swin'),
    ('model.blocks.0.temporal_attn.qkv.weight', 'TimeSformer'),
    ('blocks.0.attn.rel_pos_h', 'MViT'),
    ('encoder.cls_token', 'a vision transformer with a class token'),
  ],
)
def test_other_architectures_are_refused_by_name(tmp_path, name, model):
  save_file({name: A, 'patch_embed.proj.weight': A}, tmp_path / 'x.safetensors')
  with pytest.raises(UserError, match=f'x.safetensors holds .*{model}.*, as its {name} shows'):
    read_checkpoint(tmp_path / 'x.safetensors')


class Call:
  """Pickled, it makes the reader call a function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


class Update(Call):
  """Pickled, it also makes the reader set attributes of what it has called."""

  def __reduce__(self):
    return (*self.call, {'attribute': Call(os.system, self.call[1][0])})


@pytest.mark.parametrize('old', [False, True])
def test_nothing_in_a_pickle_is_run(tmp_path, old):
  mark, path = tmp_path / 'it-ran', tmp_path / 'x.pth'
  touch = f'touch {mark}'
  opened = f'open({str(mark)!r}, "w")'
  for evil, name in (
    (Call(os.system, touch), 'posix.system'),
    (Call(eval, opened), '__builtin__.eval'),
    (Call(exec, opened), '__builtin__.exec'),
    (Call(subprocess.Popen, ['touch', str(mark)]), 'commands.Popen'),
    (Call(getattr, Call(__import__, 'os'), 'system'), '__builtin__.__import__'),
    (Update(argparse.Namespace, touch), 'posix.system'),
    ({Call(os.system, touch): 1}, 'posix.system'),
  ):
    data = pickle.dumps({'state_dict': {}, 'x': evil}, protocol=2)
    if old:
      first = [pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1001, {})]
      path.write_bytes(b''.join([*first, data, pickle.dumps([], protocol=2)]))
    else:
      with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', data)
    found, classes = read_torch_file(path)
    assert found['state_dict'] == {} and name in classes
    with pytest.raises(UserError, match='holds no tensors by name'):
      read_checkpoint(path)
    assert not mark.exists()
  pickle.loads(pickle.dumps(Call(os.system, touch)))  # What Python itself makes of it.
  assert mark.exists()


@pytest.mark.full
@pytest.mark.parametrize('new', [True, False])
def test_what_torch_saves(tmp_path, new):
  import torch

  kinds = 'float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool'.split()
  state = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in kinds}
  state |= {'turned': state['float32'].T, 'part': state['bfloat16'][1, 1:], 'one': torch.tensor(7)}
  state |= {'none': torch.empty(0, 3), 'parameter': torch.nn.Parameter(torch.ones(2))}
  path = tmp_path / 'a.ckpt'
  arguments = argparse.Namespace(num_frames=8, model=None)
  for saved in (
    state,
    *({key: state, 'epoch': 1} for key in ('state_dict', 'model', 'module', 'params')),
    {'model': state, 'optimizer': {'state': {}}, 'args': arguments},
  ):
    torch.save(saved, path, _use_new_zipfile_serialization=new)
    tensors = read_checkpoint(path).tensors
    assert tensors.keys() == state.keys()
    for name, value in state.items():
      np.testing.assert_array_equal(tensors[name], value.detach().to(torch.float64).numpy())
      floating = value.is_floating_point()
      assert tensors[name].dtype == (np.float32 if floating else value.numpy().dtype)
  found = read_checkpoint(path)
  assert found.arguments['num_frames'] == 8 and 'stored as bfloat16, bool' in found.notes[0]


@pytest.mark.full
def test_averaged_weights_are_taken_if_asked_for(tmp_path):
  import torch

  path = tmp_path / 'a.pth'
  torch.save({'model': {'a': torch.ones(3)}, 'model_ema': {'a': torch.zeros(3)}}, path)
  for weights, value in (('', 1), ('params', 1), ('ema', 0)):
    _, tensors, _, _, notes = read_checkpoint(path, weights=weights)
    assert (tensors['a'] == value).all() and 'model_ema' in notes[0]
  torch.save({'model': {'a': torch.ones(3)}}, path)
  with pytest.raises(UserError, match='holds no averaged weights .*: drop --weights=ema'):
    read_checkpoint(path, weights='ema')


@pytest.mark.full
@pytest.mark.parametrize('new', [True, False])
def test_objects_of_other_classes_are_not_loaded(tmp_path, new):
  """As Lightning and mmengine keep their callbacks, options and logs beside the tensors."""
  import torch

  path = tmp_path / 'a.pth'
  saved = {'state_dict': {'a': torch.ones(3)}, 'callbacks': {Callback: Callback()}}
  saved |= {'log': collections.defaultdict(list, x=[np.float64(3)]), 'at': pathlib.Path('/x')}
  saved |= {'options': Options(lr=1), 'size': torch.Size([3]), 'names': {'a', 'b'}}
  torch.save(saved, path, _use_new_zipfile_serialization=new)
  _, tensors, _, _, notes = read_checkpoint(path)
  assert tensors['a'].tolist() == [1, 1, 1]
  assert any('test_tensors.Callback' in note and 'not loaded' in note for note in notes)
  torch.save(Options(state_dict=Options(a=torch.ones(3))), path)
  assert read_checkpoint(path).tensors['a'].tolist() == [1, 1, 1]


@pytest.mark.full
def test_what_is_refused_of_torch(tmp_path):
  import torch

  state, path = {'a': torch.ones(3)}, tmp_path / 'a.pth'
  torch.save(state | {'epoch': 1}, path)
  with pytest.raises(UserError, match='other things than tensors: epoch'):
    read_checkpoint(path)
  torch.save({'encoder': state, 'predictor': state, 'target_encoder': state, 'epoch': 3}, path)
  with pytest.raises(UserError, match='holds a V-JEPA'):
    read_checkpoint(path)
  torch.save(torch.nn.Linear(2, 2), path)
  with pytest.raises(UserError, match='an object of the class torch.nn.modules.linear.Linear, not'):
    read_checkpoint(path)
  torch.save([state], path)
  with pytest.raises(UserError, match='holds no tensors by name'):
    read_checkpoint(path)
  torch.save({'a': torch.ones(1).expand(10**9)}, path)  # 4 GB from 4 bytes.
  with pytest.raises(UserError, match='claims more values than are stored'):
    read_checkpoint(path)
  for new in (True, False):
    torch.save({'a': torch.ones(1000)}, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b'nonsense', b''):
      path.write_bytes(damaged)
      with pytest.raises(
        UserError, match='no PyTorch checkpoint or a damaged one|claims more values'
      ):
        read_checkpoint(path)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as packed:
    packed.writestr('archive/data.pkl', b'0' * 10**6)
  with pytest.raises(UserError, match='a compressed archive'):
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
