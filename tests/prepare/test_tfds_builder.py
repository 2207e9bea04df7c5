"""Shards as a data set of TensorFlow Datasets, and its own video data sets as ours."""

import numpy as np
import pytest

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import main
from vmae_jax.data.shards import ShardSource
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """Three videos to train on, of other lengths and sizes, in two shards; one to evaluate on."""
  for i, name in enumerate(('train/a/0.mp4', 'train/b/1.mp4', 'train/a/2.mp4', 'val/b/3.mp4')):
    (tmp_path / 'source' / name).parent.mkdir(parents=True, exist_ok=True)
    write_video(tmp_path / 'source' / name, frames=3 + i, height=32, width=32 + 2 * i)
  out = tmp_path / 'out'
  main('folder', tmp_path / 'source', f'--out={out}', '--shards', '--shard-videos=2', '--workers=1')
  return str(out)


def frames(source, i):
  with source.open(i) as video:
    return video.read(range(video.num_frames))


@pytest.mark.full
def test_two_lines(folder):
  import tensorflow_datasets as tfds

  import vmae_jax.prepare.tfds_builder  # noqa: F401

  shards = ShardSource(f'{folder}/train')
  source = tfds.data_source('vmae_shards', data_dir=folder, split='train')
  assert len(source) == 3
  for i in (2, 0, 1):
    np.testing.assert_array_equal(source[i]['video'], frames(shards, i))
    assert source[i]['id'].decode() == shards.headers[i].id
    assert source[i]['label'] == shards.label(i) and source[i]['rate'] == 25
  examples = list(tfds.load('vmae_shards', data_dir=folder, split='train').as_numpy_iterator())
  for i, example in enumerate(examples):
    np.testing.assert_array_equal(example['video'], frames(shards, i))
    assert (example['id'].decode(), example['label']) == (shards.headers[i].id, shards.label(i))
  assert len(examples) == 3

  pair, info = tfds.load('vmae_shards', data_dir=folder, as_supervised=True, with_info=True)
  assert {name: len(data) for name, data in pair.items()} == {'train': 3, 'val': 1}
  assert info.splits['train'].num_examples == 3
  assert info.features['label'].names == ['a', 'b']
  video, label = next(iter(pair['val']))
  assert video.shape == (6, 32, 38, 3) and label == 1

  def ids(split, **options):
    data = tfds.load('vmae_shards', data_dir=folder, split=split, **options)
    return [example['id'].decode() for example in data.as_numpy_iterator()]

  names = [header.id for header in shards.headers]
  assert ids('train[1:]') == names[1:]
  assert ids('val+train[:2]') == ['b/3.mp4', *names[:2]]
  shuffled = [
    ids(
      'train',
      shuffle_files=True,
      read_config=tfds.ReadConfig(shuffle_seed=seed, skip_prefetch=True),
    )
    for seed in range(8)
  ]
  assert all(sorted(found) == sorted(names) for found in shuffled)
  assert len({tuple(found) for found in shuffled}) > 1
  with pytest.raises(ValueError, match='Unknown split'):
    ids('test')


@pytest.mark.full
def test_mistakes(folder, tmp_path):
  import tensorflow_datasets as tfds

  import vmae_jax.prepare.tfds_builder  # noqa: F401

  for data_dir, message in (
    (None, 'data_dir='),
    (tmp_path / 'none', 'there is no folder'),
    (tmp_path / 'source', 'holds no shards'),
  ):
    with pytest.raises(UserError, match=message):
      tfds.load('vmae_shards', data_dir=data_dir)


def declare(name, features, example):
  """A data set of TFDS with these features and one example, to be found by its name."""
  import tensorflow_datasets as tfds

  class Like(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      yield 0, example

  type(name, (Like,), {'__module__': __name__})


@pytest.mark.full
@pytest.mark.parametrize(
  'name, video, label', [('ucf101/ucf101_1', 'video', 7), ('moving_mnist', 'image_sequence', None)]
)
def test_video_sets_of_tfds(name, video, label, tmp_path):
  """As they are declared, with made-up content: each calls its video something else."""
  import tensorflow_datasets as tfds

  features = tfds.builder(name, data_dir=str(tmp_path)).info.features
  *shape, channels = (size or 8 for size in features[video].shape)
  frames = np.zeros((*shape, channels), np.uint8)
  greys = np.arange(0, 10 * len(frames), 10, np.uint8)  # One for each frame.
  frames += greys[:, None, None, None]
  example = {video: frames} | ({} if label is None else {'label': label})
  declare(f'Like{video.title().replace("_", "")}', features, example)
  source = open_source(f'tfds:like_{video}:train', root=str(tmp_path))
  assert len(source) == 1
  with source.open(0) as opened:
    found = opened.read(range(len(frames))).astype(int)
  assert np.abs(found - frames.repeat(3 // channels, -1)).max() <= 2  # JPEG, for UCF101.
  assert source.label(0) == (-1 if label is None else label)
  assert source.class_names == (() if label is None else tuple(features['label'].names))


@pytest.mark.full
def test_frames_beside_masks(tmp_path):
  """DAVIS, as TFDS declares it."""
  import tensorflow_datasets as tfds

  features = tfds.builder('davis/480p', data_dir=str(tmp_path)).info.features
  frames = np.random.default_rng(0).integers(0, 255, (5, 480, 24, 3), dtype=np.uint8)
  masks = frames[..., :1]
  video = [{'frames': f, 'segmentations': m} for f, m in zip(frames, masks, strict=True)]
  declare('LikeDavis', features, {'metadata': {'num_frames': 5, 'video_name': 'a'}, 'video': video})
  source = open_source('tfds:like_davis:train', root=str(tmp_path))
  with source.open(0) as video:
    np.testing.assert_array_equal(video.read(range(5)), frames)
  assert source.label(0) == -1
