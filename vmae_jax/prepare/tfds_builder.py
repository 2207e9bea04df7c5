"""A folder of prepared shards as a data set of TensorFlow Datasets, for other programs.

Importing this module registers it with TFDS; nothing is copied or converted:

    import vmae_jax.prepare.tfds_builder
    clips = tfds.load('vmae_shards', data_dir='data/ssv2', split='train[:10%]')
    source = tfds.data_source('vmae_shards', data_dir='data/ssv2', split='val')

`data_dir` is the --out of `python -m vmae_jax.prepare`. An example is a whole video, decoded when
it is asked for: id (text), video (uint8, T H W 3), label (-1 if unknown) and rate (frames a
second). Unlike the rest of vmae_jax, this imports TensorFlow.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vmae_jax import storage
from vmae_jax.data.shards import ShardSource, holds_shards
from vmae_jax.errors import UserError


class VideoExamples(Sequence):
  """Decoded videos by random access, given the source and the number of each record."""

  def __init__(self, records: Sequence[tuple[ShardSource, int]]):
    self._records = records

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
    source, record = self._records[i]
    header = source.headers[record]
    with source.open(record) as video:
      frames = video.read(range(video.num_frames))
    return {
      'id': header.id.encode(),
      'video': frames,
      'label': np.int64(header.label),
      'rate': np.float32(header.rate),
    }


class VmaeShards(tfds.core.DatasetBuilder):
  """Videos that `python -m vmae_jax.prepare --shards` wrote."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, data_dir: str | os.PathLike | None = None, **more: Any):
    """Opens the folder.

    Raises:
      UserError: it holds no shards, or they are not complete or damaged.
    """
    if not data_dir:
      raise UserError("give the folder that prepare wrote: data_dir='data/ssv2'.")
    folder = os.fspath(data_dir).rstrip('/')
    if not storage.is_folder(folder):
      raise UserError(f'there is no folder {folder} (looked in {os.getcwd()}).')
    names = [name for name in storage.names(folder) if holds_shards(f'{folder}/{name}')]
    if not names:
      raise UserError(f'{folder} holds no shards: run prepare with --shards.')
    self.sources = {name: ShardSource(f'{folder}/{name}') for name in names}
    super().__init__(data_dir=folder, **more)
    self.info.set_splits(
      tfds.core.SplitDict(
        tfds.core.SplitInfo(
          name=name,
          shard_lengths=[shard['records'] for shard in source.manifest['shards']],
          num_bytes=source.manifest['bytes'],
        )
        for name, source in self.sources.items()
      )
    )

  def _build_data_dir(self, given_data_dir: str) -> tuple[str, str]:
    return given_data_dir, given_data_dir  # Without folders for name and version.

  def _info(self) -> tfds.core.DatasetInfo:
    names = next(iter(self.sources.values())).class_names
    label = tfds.features.ClassLabel(names=names or None)
    return tfds.core.DatasetInfo(
      builder=self,
      description='Videos, encoded for fast random reading.',
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'video': tfds.features.Video(shape=(None, None, None, 3)),
          'label': label,
          'rate': tfds.features.Scalar(np.float32),
        }
      ),
      supervised_keys=('video', 'label'),
    )

  def download_and_prepare(self, **_: Any) -> None:
    """Does nothing: the folder is complete, or could not be opened."""

  def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
    raise NotImplementedError

  def _examples(self, split: Any) -> VideoExamples:
    """The examples of a split such as `train`, `train[:10%]` or `train+val`."""
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(self.info.splits)
    records = []
    for part in parts:
      source = self.sources[part.splitname]
      records += [(source, i) for i in range(len(source))[part.from_ : part.to]]
    return VideoExamples(records)

  def as_data_source(self, split: Any = None, **_: Any) -> Any:
    """The examples of a split by random access; None gives a dict of all splits."""
    split = {name: name for name in self.sources} if split is None else split
    return tf.nest.map_structure(self._examples, split)

  def _as_dataset(
    self,
    split: Any,
    decoders: Any = None,
    read_config: tfds.ReadConfig | None = None,
    shuffle_files: bool = False,
  ) -> tf.data.Dataset:
    examples = self._examples(split)
    specs = self.info.features.get_tensor_spec()
    names = sorted(specs)

    def read(i: tf.Tensor) -> dict[str, tf.Tensor]:
      def values(i: np.ndarray) -> list[Any]:
        example = examples[int(i)]
        return [example[name] for name in names]

      got = tf.numpy_function(values, [i], [specs[name].dtype for name in names])
      return {
        name: tf.ensure_shape(x, specs[name].shape) for name, x in zip(names, got, strict=True)
      }

    order = tf.data.Dataset.range(len(examples))
    if shuffle_files:  # Random access costs no more, so this shuffles examples, not only files.
      seed = read_config.shuffle_seed if read_config else None
      order = order.shuffle(max(1, len(examples)), seed=seed)
    return order.map(read, num_parallel_calls=tf.data.AUTOTUNE)

  def _should_cache_ds(self, *_: Any, **__: Any) -> bool:
    return False  # Decoded videos are a hundred times larger than their files.
