"""A data set made on the spot with TensorFlow Datasets."""

import numpy as np
import pytest

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError


@pytest.mark.parametrize('spec', ['tfds:ucf101', 'tfds::train'])
def test_form(spec):
  with pytest.raises(UserError, match='NAME'):
    open_source(spec)


def test_without_tensorflow(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'tensorflow', None)
  with pytest.raises(UserError, match='needs TensorFlow'):
    open_source('tfds:ucf101:train')


@pytest.mark.full
def test_reads(tmp_path):
  import tensorflow_datasets as tfds

  videos = np.random.default_rng(0).integers(0, 255, (3, 5, 8, 8, 3), dtype=np.uint8)

  class TinyVideos(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = {
        'video': tfds.features.Video(shape=(None, 8, 8, 3)),
        'label': tfds.features.ClassLabel(names=['a', 'b']),
      }
      return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, video in enumerate(videos):
        yield i, {'video': list(video), 'label': i % 2}

  source = open_source('tfds:tiny_videos:train', root=str(tmp_path))
  assert len(source) == 3 and source.class_names == ('a', 'b')
  seen = set()
  for i in range(3):
    video = source.open(i).read(range(5))
    (which,) = (k for k in range(3) if np.array_equal(video, videos[k]))
    assert source.label(i) == which % 2
    seen.add(which)
  assert seen == {0, 1, 2}
  clip = ClipSampler(frames=4, size=8, stride=1, crop='centre')(source, 0, 0)
  assert clip['video'].shape == (1, 4, 8, 8, 3)

  class Counted:
    def __init__(self, examples):
      self.examples, self.read = examples, []

    def __getitem__(self, i):
      self.read.append(i)
      return self.examples[i]

  source._examples = Counted(source._examples)
  source._labels.clear()
  labels = [source.label(0), source.label(0)]
  source.open(1)
  assert source._examples.read == [0, 1] and source.label(1) >= 0 and labels[0] == labels[1]
  assert source._examples.read == [0, 1]  # A label comes out of what was read with the video.
  with pytest.raises(UserError, match='nosplit'):
    open_source('tfds:tiny_videos:nosplit', root=str(tmp_path))
  with pytest.raises(UserError, match='tfds:nothing_like_it:train'):
    open_source('tfds:nothing_like_it:train')
