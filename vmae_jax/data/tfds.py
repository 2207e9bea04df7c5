"""Videos from TensorFlow Datasets: `tfds:ucf101:train` and the like.

A set that was prepared in the ArrayRecord format is read without TensorFlow, which only preparing
needs. The files of a split in a bucket are copied to this machine, once. TFDS stores a video as
single images, which takes much more room and time than the video files themselves: for large data
sets use those.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from vmae_jax import storage
from vmae_jax.data.frames import ArrayVideo
from vmae_jax.errors import Unavailable, UserError, check_name, may_pass


def _find_video(features: dict[str, Any]) -> tuple[tuple[str, ...], Any]:
  """The keys that lead to an example's frames, and the feature that reads them; None if none does.

  TFDS's own video features need TensorFlow; what they store is a sequence of images.
  """
  import tensorflow_datasets as tfds

  for name, feature in features.items():
    if 'video' in feature:  # As in ucf101 and moving_mnist.
      return (name,), tfds.features.Sequence(_image(feature['video']))
  for name, feature in features.items():  # As in davis, which has masks beside the frames.
    inner = feature.get('sequence', {}).get('feature', {}).get('featuresDict', {})
    if frames := inner.get('features', {}).get('frames'):
      return (name, 'frames'), tfds.features.Sequence({'frames': _image(frames.get('image', {}))})
  return (), None


def _image(about: dict[str, Any]) -> Any:
  """The feature of a picture with as many channels as features.json says."""
  import tensorflow_datasets as tfds

  channels = int(about.get('shape', {}).get('dimensions', ['3'])[-1])
  return tfds.features.Image(shape=(None, None, channels))


def _prepared(name: str, data_dir: str) -> str:
  """The folder of the latest version of a set, '' if none is in the ArrayRecord format."""
  folder = f'{data_dir}/{name}'
  names = storage.names(folder) if storage.is_folder(folder) else ()
  versions = [v for v in names if re.fullmatch(r'\d+(\.\d+)*', v)]  # Others are unfinished.
  for version in sorted(versions, key=lambda v: [*map(int, v.split('.'))], reverse=True):
    info = f'{folder}/{version}/dataset_info.json'
    if storage.is_file(info) and '"array_record"' in storage.read_text(info):
      return f'{folder}/{version}'
  return ''


def _prepare(spec: str, name: str, data_dir: str) -> str:
  """Prepares a set; returns its folder."""
  try:
    import tensorflow  # noqa: F401  What writes a data set needs it.
    import tensorflow_datasets as tfds
  except ImportError as e:
    raise UserError(
      f'tfds:{spec} is not prepared in {data_dir}. Preparing it needs TensorFlow (training does '
      f'not): pip install tensorflow, or copy a prepared set there ({e}).'
    ) from e
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format='array_record')
    builder.download_and_prepare()
  except (tfds.core.DatasetNotFoundError, ValueError, NotImplementedError) as e:
    raise UserError(f'tfds:{spec}: {" ".join(str(e).split())[:300]}') from e
  return str(builder.data_path)


def _copy(folder: str, names: Sequence[str]) -> str:
  """Copies the files of a remote folder that are not here yet; returns the local folder."""
  import tensorflow_datasets as tfds

  here = os.path.join(tfds.core.constants.DATA_DIR, 'copied', folder.partition('://')[2])
  here, sizes = os.path.expanduser(here), storage.sizes(folder)
  os.makedirs(here, exist_ok=True)
  there = storage.sizes(here)
  missing = [name for name in names if name not in there or there[name] != sizes.get(name)]
  if missing:
    size = sum(sizes.get(name, 0) for name in missing)
    logging.warning('%s: copying %.2f GB to %s.', folder, size / 1e9, here)
  for name in missing:
    part = f'{here}/.{name}.{os.getpid()}'
    storage.fetch(f'{folder}/{name}', part)
    os.replace(part, f'{here}/{name}')
  return here


class TfdsSource:
  """A split of a data set with one video in each example and, if it is labelled, `label`.

  A set that does not exist in the ArrayRecord format is prepared first.

  Raises:
    UserError: there is no such data set, split or feature, or TensorFlow is missing to prepare it.
  """

  def __init__(self, spec: str, *, data_dir: str | None = None):
    """Opens `name[/config]:split`, kept in `data_dir` or TFDS's usual folder."""
    name, _, split = spec.partition(':')
    if not name or not split:
      raise UserError(f'tfds:{spec} must be of the form tfds:NAME[/CONFIG]:SPLIT.')
    import grain
    import tensorflow_datasets as tfds

    data_dir = data_dir or os.path.expanduser(tfds.core.constants.DATA_DIR)
    data_dir = data_dir.rstrip('/')
    try:
      folder = _prepared(name, data_dir) or _prepare(spec, name, data_dir)
      self._spec, self._about = spec, f'{folder.removeprefix(data_dir).strip("/")}:{split}'
      info = json.loads(storage.read_text(f'{folder}/dataset_info.json'))
      features = json.loads(storage.read_text(f'{folder}/features.json'))
      features = features['featuresDict']['features']
      splits = {x['name']: len(x['shardLengths']) for x in info['splits']}
      check_name(split, splits, f'tfds:{name}')
      files = [
        f'{info["name"]}-{split}.array_record-{i:05d}-of-{splits[split]:05d}'
        for i in range(splits[split])
      ]
      here = _copy(folder, files) if storage.is_remote(folder) else folder
      self._examples = grain.sources.ArrayRecordDataSource([f'{here}/{file}' for file in files])
    except (OSError, ValueError, KeyError, RuntimeError) as e:
      kind = Unavailable if may_pass(e) else UserError
      raise kind(f'tfds:{spec}: what is prepared in {data_dir} cannot be read ({e}).') from e
    self._where, video = _find_video(features)
    if video is None:
      raise UserError(f'tfds:{spec} has no video among its features {", ".join(features)}.')
    self._video = tfds.features.FeaturesDict({self._where[0]: video})
    self._label = None
    self.class_names = ()
    if 'label' in features:
      self._label = tfds.features.FeaturesDict({'label': tfds.features.Scalar(np.int64)})
      names = f'{folder}/label.labels.txt'
      if storage.is_file(names):
        count = int(features['label']['classLabel']['numClasses'])
        self.class_names = tuple(storage.read_text(names).split('\n')[:count])
    self._labels: dict[int, int] = {}  # Of the examples that were read.

  def __len__(self) -> int:
    return len(self._examples)

  def name(self, i: int) -> str:
    return f'tfds:{self._spec}#{i}'

  def about(self) -> str:
    return self._about

  def label(self, i: int) -> int:
    if self._label is None:
      return -1
    if i not in self._labels:
      self._read(i)
    return self._labels[i]

  def _read(self, i: int) -> bytes:
    example = self._examples[i]
    if self._label is not None:
      self._labels[i] = int(self._label.deserialize_example_np(example)['label'])
    return example

  def open(self, i: int, *, vectors: bool = False) -> ArrayVideo:  # Frames alone are kept.
    frames: Any = self._video.deserialize_example_np(self._read(i))
    for name in self._where:
      frames = frames[name]
    frames = np.stack(frames)
    if frames.shape[-1] == 1:  # Grey.
      frames = np.repeat(frames, 3, axis=-1)
    return ArrayVideo(frames)
