"""Videos from TensorFlow Datasets, for those who have TensorFlow.

`tfds:ucf101:train` and the like. TFDS stores a video as single images, which takes much more
room and time than the video files themselves: for large data sets use those.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax.data.video import Clip, Put, Shrink
from vmae_jax.errors import UserError
from vmae_jax.types import Int, UInt8


class ArrayVideo:
  """Decoded frames with the face of a video file."""

  rate = 0.0  # TFDS does not keep it.

  def __init__(self, frames: UInt8[np.ndarray, 'T H W 3']):
    self._frames = frames
    self.num_frames, self.height, self.width, _ = frames.shape

  def read(
    self,
    indices: Sequence[int] | Int[np.ndarray, ' T'],
    *,
    shrink: Shrink | None = None,
    put: Put | None = None,
  ) -> UInt8[np.ndarray, 'T H W 3']:
    clip = Clip(indices, shrink, put)
    clip.fill((i, self._frames[i]) for i in {*map(int, indices)})
    return clip.frames

  def __enter__(self) -> 'ArrayVideo':
    return self

  def __exit__(self, *_) -> None:
    pass


def _find_video(features: Any) -> tuple[tuple[str, ...], Any]:
  """Where in an example the frames are, and the feature to read them with; None if nowhere."""
  import tensorflow_datasets as tfds

  for name, feature in features.items():
    if isinstance(feature, tfds.features.Video):  # As in ucf101 and moving_mnist.
      return (name,), feature
  for name, feature in features.items():  # As in davis, which has masks beside the frames.
    inner = getattr(feature, 'feature', None)
    if isinstance(inner, tfds.features.FeaturesDict) and 'frames' in inner:
      return (name, 'frames'), tfds.features.Sequence({'frames': inner['frames']})
  return (), None


class TfdsSource:
  """A split of a data set that has one video an example and, if it is labelled, `label`.

  The data are prepared at the first use, in the ArrayRecord format.

  Raises:
    UserError: TensorFlow is missing, or there is no such data set, split or feature.
  """

  def __init__(self, spec: str, *, data_dir: str | None = None):
    """Opens `name[/config]:split`, kept in `data_dir` or TFDS's usual folder."""
    name, _, split = spec.partition(':')
    if not name or not split:
      raise UserError(f'tfds:{spec} must be of the form tfds:NAME[/CONFIG]:SPLIT.')
    try:
      import tensorflow  # noqa: F401  TFDS's video feature needs it.
      import tensorflow_datasets as tfds
    except ImportError as e:
      raise UserError(
        f'tfds:{spec} needs TensorFlow, which training otherwise does not: '
        f'pip install tensorflow tensorflow-datasets ({e}).'
      ) from e
    self._spec = spec
    try:
      builder = tfds.builder(name, data_dir=data_dir, file_format='array_record')
      builder.download_and_prepare()
      self._about = f'{builder.info.full_name}:{split}'
      features = builder.info.features
      self._where, video = _find_video(features)
      if video is None:
        raise UserError(f'tfds:{spec} has no video among its features {", ".join(features)}.')
      # Bytes, parsed below, as reading a label must not decode a video.
      raw = tfds.decode.DeserializeMethod.RAW_BYTES
      self._examples = builder.as_data_source(split, deserialize_method=raw)
    except (tfds.core.DatasetNotFoundError, ValueError, NotImplementedError) as e:
      raise UserError(f'tfds:{spec}: {" ".join(str(e).split())[:300]}') from e
    self._video = tfds.features.FeaturesDict({self._where[0]: video})
    self._label = None
    self.class_names = ()
    if 'label' in features:
      self._label = tfds.features.FeaturesDict({'label': features['label']})
      self.class_names = tuple(features['label'].names)
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

  def open(self, i: int) -> ArrayVideo:
    frames: Any = self._video.deserialize_example_np(self._read(i))
    for name in self._where:
      frames = frames[name]
    frames = np.stack(frames)
    if frames.shape[-1] == 1:  # Grey.
      frames = np.repeat(frames, 3, axis=-1)
    return ArrayVideo(frames)
