"""Pictures of what a model in training predicts, of the same few clips each time."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.sources import Source
from vmae_jax.training.objective import Objective
from vmae_jax.types import UInt8
from vmae_jax.visualize.reconstruction import predicted_video, reconstruction_grid


class Pictures:
  """Draws the heads that predict pixels, for the first clips of the data set.

  Args:
    objective: The method.
    source: The training videos.
    sampler: Cuts clips from them.
    config: The run's config.
    workdir: Pictures go to WORKDIR/pictures, if this is the main process.
    mesh: Where the parameters lie.
  """

  def __init__(
    self,
    objective: Objective,
    source: Source,
    sampler: ClipSampler,
    config,
    workdir: str,
    mesh: Mesh,
  ):
    self._heads = {
      name: head.options for name, head in config.heads.items() if head.target == 'pixels'
    }
    self._ground_truth = config.log.ground_truth_statistics
    self._patch = objective.patch
    self._folder = pathlib.Path(workdir) / 'pictures'
    self._method = config.method
    self._count = min(config.log.pictures, len(source))
    # As many as the devices can share, by repetition.
    shares = mesh.shape['data'] * mesh.shape['fsdp']
    index = np.arange(-(-self._count // shares) * shares, dtype=np.int32) % self._count
    clips = [sampler(source, 0, sample) for sample in range(self._count)]
    self._batch = {
      'video': np.stack([clips[i]['video'][0] for i in index]),
      'epoch': np.zeros_like(index),
      'sample': index,
      'repeat': np.zeros_like(index),
    }
    whole = NamedSharding(mesh, P())
    self._outputs = jax.jit(functools.partial(_outputs, objective), out_shardings=whole)

  def draw(self, step: int, params) -> dict[str, UInt8[np.ndarray, 'H2 W2 3']]:
    """Name -> picture; each is also written to WORKDIR/pictures as a PNG."""
    if not self._heads:
      return {}
    clip, masked, predictions = jax.device_get(self._outputs(params, self._batch))
    if jax.process_index() != 0:
      return {}
    pictures = {}
    for name, options in self._heads.items():
      normalised = options.get('normalise', 'patch') != 'none'
      kinds = ['visible' if normalised else 'none']
      if self._ground_truth and normalised:
        kinds.append('ground truth')
      for kind in kinds:
        for i in range(self._count):
          label = f'{name}_{kind.replace(" ", "_")}_clip{i}'
          pictures[label] = self._picture(
            clip[i], masked[i], predictions[name][i], kind, options.get('eps', 1e-6), step
          )
    self._folder.mkdir(exist_ok=True)
    for label, picture in pictures.items():
      Image.fromarray(picture).save(self._folder / f'step{step:07d}_{label}.png')
    return pictures

  def _picture(self, clip, masked, predicted, statistics, eps, step):
    hidden = np.zeros(np.prod(clip.shape[:3]) // np.prod(self._patch), bool)
    hidden[masked] = True
    video = predicted_video(
      predicted, clip, hidden, patch=self._patch, statistics=statistics, eps=eps
    )
    return reconstruction_grid(
      clip,
      hidden,
      video,
      patch=self._patch,
      statistics=statistics,
      title=f'{self._method}, step {step}',
    )


def _outputs(objective: Objective, params, batch):
  clip, mask, predictions, _ = objective.outputs(params, batch)
  # The picture wants predictions in the order of token indices.
  order = jnp.argsort(mask.masked, axis=1)
  sort = functools.partial(jnp.take_along_axis, indices=order[..., None], axis=1)
  return clip, mask.masked, jax.tree.map(sort, predictions)
