"""Data sets of TensorFlow Datasets: one that it has prepared, and one made on the spot."""

import pathlib
import sys
from importlib.machinery import PathFinder

import numpy as np
import pytest

from vmae_jax import storage
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError

FIXTURE = str(pathlib.Path(__file__).parent / 'tfds')


@pytest.mark.parametrize('spec', ['tfds:ucf101', 'tfds::train'])
def test_form(spec):
  with pytest.raises(UserError, match='NAME'):
    open_source(spec)


@pytest.fixture
def no_tensorflow(monkeypatch):
  find = PathFinder.find_spec

  def finding(cls, name, path=None, target=None):
    return None if name.partition('.')[0] == 'tensorflow' else find(name, path, target)

  for name in [name for name in sys.modules if name.partition('.')[0] == 'tensorflow']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setattr(PathFinder, 'find_spec', classmethod(finding))


def test_what_is_not_prepared_needs_tensorflow(no_tensorflow, tmp_path):
  (tmp_path / 'ucf101' / '2.0.0.incompleteA1B2C3').mkdir(parents=True)  # As TFDS leaves it.
  with pytest.raises(UserError, match='tfds:ucf101:train is not prepared in .* needs TensorFlow'):
    open_source('tfds:ucf101:train', root=str(tmp_path))


def test_a_prepared_set_is_read_without_tensorflow(no_tensorflow):
  """tiny/1.0.0 was written by TFDS 4.9.10: five videos of 4 to 8 frames.

  Video i is red and blue at 10 i, and green 20 a frame above that.
  """
  source = open_source('tfds:tiny:train', root=FIXTURE)
  assert len(source) == 5 and source.class_names == ('left', 'right')
  assert source.about() == 'tiny/1.0.0:train' and source.name(3) == 'tfds:tiny:train#3'
  seen = set()
  for k in range(5):
    with source.open(k) as video:
      i = video.num_frames - 4
      frames = video.read([0, 3])
    expected = np.zeros((2, 16, 24, 3)) + 10 * i
    expected[1, ..., 1] += 60
    np.testing.assert_array_equal(frames, expected)
    assert source.label(k) == i % 2
    seen.add(i)
  assert seen == {0, 1, 2, 3, 4}
  assert 'tensorflow' not in sys.modules
  with pytest.raises(UserError, match="tfds:tiny: there is no 'test'.*train"):
    open_source('tfds:tiny:test', root=FIXTURE)
  clip = ClipSampler(frames=4, size=8, stride=1)(source, 0, 0)
  assert clip['video'].shape == (1, 4, 8, 8, 3) and not clip['replaced']


@pytest.mark.parametrize('kind', ['memory', pytest.param('gs', marks=pytest.mark.full)])
def test_a_set_in_a_bucket(kind, request, monkeypatch, tmp_path):
  """The split's files are copied once, those that are not whole again; the set is the same."""
  from tensorflow_datasets.core import constants

  fs, root = request.getfixturevalue(kind), f'{kind}://bucket/sets'
  fs.put(FIXTURE, 'bucket/sets' if kind == 'gs' else '/bucket/sets', recursive=True)
  monkeypatch.setattr(constants, 'DATA_DIR', str(tmp_path))
  copied, fetch = [], storage.fetch
  monkeypatch.setattr(storage, 'fetch', lambda *a: (copied.append(a[0]), fetch(*a)))
  here = open_source('tfds:tiny:train', root=FIXTURE)
  there = open_source('tfds:tiny:train', root=root)
  assert len(copied) == 1 and there.about() == here.about()
  for source in (there, open_source('tfds:tiny:train', root=f'{root}/')):
    assert source.class_names == here.class_names and len(source) == len(here)
    for i in range(len(here)):
      with source.open(i) as video, here.open(i) as same:
        np.testing.assert_array_equal(video.read([0, 3]), same.read([0, 3]))
      assert source.label(i) == here.label(i)
  assert len(copied) == 1
  [file] = tmp_path.glob('copied/bucket/sets/tiny/1.0.0/*')
  file.write_bytes(b'x')
  assert open_source('tfds:tiny:train', root=root).open(0).num_frames >= 4 and len(copied) == 2
  with pytest.raises(UserError, match="tfds:tiny: there is no 'test'.*train"):
    open_source('tfds:tiny:test', root=root)


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
