"""Our own checkpoints, read for export and written from the weights of others."""

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import started
from tests.interchange import synthetic
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.interchange.layout import from_tensors
from vmae_jax.interchange.official import official_info, official_names
from vmae_jax.interchange.runs import is_run, load_run, run_config, save_run
from vmae_jax.method.wiring import model_arguments
from vmae_jax.runs.checkpoint import check_params

SCRIPT = {'num_frames': 8, 'input_size': 32}


def config(file, **model):
  found = load_config(f'{started.ROOT}/configs/{file}.py:smoke').to_dict()
  found['model'] |= model
  return found


def official(shapes):
  tensors = synthetic.values(shapes)
  info = official_info(tensors, SCRIPT) | {'config': None}
  return from_tensors(tensors, info, official_names(info), where='x')[0], info


@pytest.fixture(scope='module')
def pretraining():
  return official(synthetic.pretraining((128, 4, 512), (128, 2, 512), (2, 8, 8)))


@pytest.fixture(scope='module')
def classification():
  return official(synthetic.finetuned((128, 4, 512), 3, (2, 8, 8)))


def test_what_is_written_is_a_checkpoint_to_start_from(pretraining, tmp_path):
  params, info = pretraining
  assert not is_run(tmp_path)
  save_run(tmp_path / 'ours', params, run_config(info))
  assert is_run(tmp_path / 'ours')
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
  check_params(str(tmp_path / 'ours'), like)  # As --config.init_from does.
  again, info_again = load_run(tmp_path / 'ours')
  jax.tree.map(np.testing.assert_array_equal, params, again)
  for key in ('kind', 'method', 'encoder', 'decoder', 'pixels', 'patch', 'eps', 'frames', 'size'):
    assert info_again[key] == info[key], key
  assert info_again['normalised_targets'] is True


def test_the_config_says_what_the_source_says(pretraining):
  _, info = pretraining
  mean = (0.5, 0.5, 0.5)
  made = run_config(info | dict(eps=1e-12, mean=mean, normalised_targets=False, method='mgmae'))
  assert made['model']['eps'] == 1e-12 and made['data']['mean'] == mean
  assert made['heads']['pixels']['options']['normalise'] == 'none' and made['method'] == 'mgmae'
  assert made['data']['frames'] == 8 and made['model']['patch'] == (2, 8, 8)
  assert run_config(info | {'config': {'x': 1}}) == {'x': 1}
  for part, match in (
    (dict(encoder=info['encoder'] | {'heads': 2}), 'width 128, depth 4, 2 heads .*add a line'),
    (dict(encoder=info['encoder'] | {'width': 64}), 'no size has an encoder of width 64'),
  ):
    with pytest.raises(UserError, match=match):
      run_config(info | part)


def test_the_moving_average_is_what_was_tested(pretraining, tmp_path):
  params, info = pretraining
  average = jax.tree.map(lambda x: x + 1, params)
  items = ocp.args.Composite(
    state=ocp.args.StandardSave({'params': params, 'ema': average}),
    config=ocp.args.JsonSave(run_config(info)),
  )
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
    writer.save(tmp_path / 'x', args=items)
  for weights, want in (('', average), ('ema', average), ('params', params)):
    found, about = load_run(tmp_path / 'x', weights=weights)
    jax.tree.map(np.testing.assert_array_equal, found, want)
    assert ('averaged' in about['notes'][0]) == (weights != 'params')
  save_run(tmp_path / 'y', params, run_config(info))
  assert load_run(tmp_path / 'y')[1]['notes'] == []
  with pytest.raises(UserError, match='holds no moving average'):
    load_run(tmp_path / 'y', weights='ema')
  with pytest.raises(UserError, match="--weights: there is no 'best'"):
    load_run(tmp_path / 'y', weights='best')


def test_a_fine_tuned_run(classification, tmp_path):
  params, info = classification
  folder = tmp_path / 'run' / 'checkpoints' / '12'
  folder.parent.mkdir(parents=True)
  save_run(folder, params, config('finetune', positions='interpolate', position_grid=(8, 14, 14)))
  (tmp_path / 'run' / 'classes.txt').write_text('left\nright\nup, high\n')
  _, found = load_run(tmp_path / 'run')
  assert (found['kind'], found['classes'], found['step']) == ('classification', 3, 12)
  assert found['id2label'] == {0: 'left', 1: 'right', 2: 'up, high'}
  assert found['position_grid'] == (8, 14, 14) and found['encoder'] == info['encoder']
  assert 'position_grid' not in load_run_of(config('finetune'), params, tmp_path)
  grid = dict(positions='interpolate', position_grid=(4, 4, 4))  # That of its own clips.
  assert 'position_grid' not in load_run_of(config('finetune', **grid), params, tmp_path)


def test_names_of_classes_stay_with_a_checkpoint_that_stands_alone(classification, tmp_path):
  params, _ = classification
  (tmp_path / 'classes.txt').write_text('of\nanother\nset\n')
  save_run(tmp_path / 'weights' / 'ours', params, config('finetune'))
  (tmp_path / 'weights' / 'classes.txt').write_text('of\nanother\nset\n')
  assert load_run(tmp_path / 'weights' / 'ours')[1]['id2label'] is None
  save_run(tmp_path / 'theirs', params, config('finetune'), ['a', 'b', 'c'])
  assert load_run(tmp_path / 'theirs')[1]['id2label'] == {0: 'a', 1: 'b', 2: 'c'}


def test_the_giant_of_videomae_v2():
  """Its decoder has the encoder's ratio, 48 / 11, too: 512 * 48 / 11 = 2234.18."""
  shapes = synthetic.pretraining((1408, 40, 6144), (512, 4, 2234), (2, 14, 14))
  info = official_info(synthetic.nothing(shapes), {}) | {'config': None}
  made = ml_collections.ConfigDict(run_config(info))
  assert made.model.size == 'giant' and model_arguments(made.model)[1] == info['decoder']
  made.model.decoder_mlp = None  # As a config says that knows the size alone.
  made.model.decoder_width = None
  assert model_arguments(made.model)[1]['mlp'] == 2234
  made.model.decoder_width = 256
  assert model_arguments(made.model)[1]['mlp'] == 1024


def load_run_of(config, params, folder):
  path = folder / f'run{len(list(folder.iterdir()))}'
  save_run(path, params, config)
  return load_run(path)[1]


def test_runs_whose_decoders_others_do_not_have(pretraining, tmp_path):
  params, _ = pretraining
  regressed = {'encoder': params['encoder'], 'regressor': {'mask_token': np.zeros(3, np.float32)}}
  for name in ('appearance_decoder', 'motion_decoder'):
    regressed[name] = {'blocks': params['decoder']['blocks']}
  info = load_run_of(config('mam2'), regressed, tmp_path)
  assert info['kind'] == 'encoder' and info['pixels'] is None and info['decoder'] is None
  assert info['method'] == 'mam2' and 'final_norm' not in info['encoder']


def test_no_checkpoint(tmp_path):
  with pytest.raises(UserError, match='holds no checkpoint'):
    load_run(tmp_path)
