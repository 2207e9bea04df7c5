"""The probe as a function; what it measures is tested with its entry point."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from tests.data.clips_on_disk import write_video
from tests.evaluation import test_features
from tests.evaluation.checkpoints import write_checkpoint
from vmae_jax.errors import UserError
from vmae_jax.evaluation import probing
from vmae_jax.evaluation.probing import probe, probe_table, table


def test_names_of_probes():
  with pytest.raises(UserError, match="no 'kn'. Did you mean 'knn'"):  # Before anything is read.
    probe('no/such/run', train='', val='', probes=['linear', 'kn'])


def test_too_few_training_clips(tmp_path, caplog):
  write_checkpoint(tmp_path / 'run')
  write_video(tmp_path / '0.mp4', frames=12, height=32, width=32)
  (tmp_path / 'list.txt').write_text(''.join(f'0.mp4 {i % 2}\n' for i in range(9)))
  sets = dict.fromkeys(('train', 'val'), str(tmp_path / 'list.txt'))
  with pytest.raises(UserError, match='has 9 clips: a trained probe needs at least 10'):
    probe(str(tmp_path / 'run'), **sets, probes=['attentive'])
  assert '1 held-out videos are among the training ones, such as' in caplog.text


@pytest.mark.parametrize('batch_size', [3, 8])
def test_each_model_has_its_own_features(batch_size):
  """Two time slots, and models that multiply by 1 and by 2; the sixth of seven is broken."""

  def apply(params, video):
    return params * video.mean((2, 3, 4))[:, :2, None]

  config = types.SimpleNamespace(data=test_features.Data)
  source, models = test_features.Source(), {'one': jnp.float32(1), 'two': jnp.float32(2)}
  features, labels = probing._features(config, models, apply, source, 'seven', batch_size)
  kept = np.array([0, 1, 2, 3, 4, 6])
  np.testing.assert_array_equal(labels, kept % 3)
  for name, factor in (('one', 1), ('two', 2)):
    np.testing.assert_allclose(features[name], np.stack([10 * kept] * 2, 1) * factor)


def test_table():
  row = {'knn': {'top1': 0.5}, 'linear_plain': {'top1': 0.25}}
  result = {
    'clips': {'train': 8, 'val': 4},
    'largest_class': 0.5,
    'accuracy': {'pre-trained': row, 'untrained': row},
    'clip': {'frames': 8, 'size': 32, 'stride': 3, 'sampling': 'dense'},
    'weights': 'ema',
  }
  assert table(result).splitlines() == [
    '                k-NN top-1  linear without BatchNorm top-1',
    'pre-trained          0.500                           0.250',
    'untrained            0.500                           0.250',
    '(8 training and 4 held-out clips; always naming the largest class gives 0.500)',
    '(clips of 8 frames of 32 x 32, stride 3; weights: ema)',
  ]
  result['clip']['sampling'] = 'segment'
  assert '32 x 32, one of each segment;' in table(result)


def probed(knn, linear, train=40):
  row = {'knn': {'top1': knn}, 'linear': {'top1': linear}}
  accuracy = {'pre-trained': row, 'untrained': {k: {'top1': 0.1} for k in row}}
  return {'clips': {'train': train, 'val': 20}, 'largest_class': 0.25, 'accuracy': accuracy}


def test_table_of_several_runs():
  table = probe_table({'mme': probed(0.5, 0.75), 'mgmae': probed(0.25, 0.3)})
  lines = table.splitlines()
  assert lines[0] == '| run | weights | k-NN top-1 | linear top-1 |'
  assert lines[2] == '| mme | pre-trained | 0.500 | 0.750 |'
  assert lines[5] == '| mgmae | untrained | 0.100 | 0.100 |'
  assert lines[-1].startswith('40 training and 20 held-out clips') and '0.250' in lines[-1]


def test_runs_on_different_clips_are_not_compared():
  with pytest.raises(UserError, match='different clips'):
    probe_table({'a': probed(0.5, 0.5), 'b': probed(0.5, 0.5, train=41)})
  with pytest.raises(UserError, match='no probe'):
    probe_table({})
