"""Trained models in a few lines of Python: features, reconstructions, classes.

    import vmae_jax

    model = vmae_jax.load('runs/b_k400')  # Or a folder of transformers, a .pth, hf:OWNER/NAME.
    model.features('cat.mp4')  # Float32 'd'.
    model.reconstruct('cat.mp4', ratio=0.75).pictures()['pixels_visible']  # UInt8 'H W 3'.

    model = vmae_jax.load('runs/b_k400_ft')
    model.classes[model.classify('cat.mp4').argmax()]

A video is a file's path or an array 'T H W 3', several are a list of paths or an array
'b T H W 3': uint8, or floats in [0, 1]. Of a file, features and reconstructions take the middle
clip, cut as in the model's training. Each function compiles once for each size of clips.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from vmae_jax import config as config_lib
from vmae_jax import storage
from vmae_jax.data.clips import ClipSampler, ViewSampler
from vmae_jax.data.lists import Entry
from vmae_jax.data.sources import FileSource
from vmae_jax.errors import UserError
from vmae_jax.evaluation.encoder import (
  Encode,
  build_classifier,
  build_encoder,
  check_video,
  model_config,
  read_model,
)
from vmae_jax.evaluation.windows import Windows, read_windows
from vmae_jax.hub import local_path
from vmae_jax.interchange.export import class_names
from vmae_jax.interchange.layout import build_model
from vmae_jax.interchange.runs import describe
from vmae_jax.method.build import build_method, codec_cells, window
from vmae_jax.method.forward import Method
from vmae_jax.motion.codec import known
from vmae_jax.types import Array, Bool, Float, Num, UInt8
from vmae_jax.visualize.films import film_of_rows
from vmae_jax.visualize.images import labelled_rows
from vmae_jax.visualize.predictions import Drawn, draw_clip, predicted_pixels, shown_outputs
from vmae_jax.visualize.reconstruction import hidden_error, interpolated_video

Path = str | os.PathLike
# A FileSource holds one file, and says which of its frames count, as the line of a list does.
Videos = Path | Sequence[Path] | FileSource | Num[Array, '...'] | Num[np.ndarray, '...']


def load(path: Path, *, weights: str = '') -> 'TrainedModel':
  """Reads a trained model.

  Args:
    path: A run of pretrain or finetune, one of its checkpoints, a file or folder of another
      implementation, see `vmae_jax.interchange.pretrained.load_pretrained`, or hf:OWNER/NAME.
    weights: `params` or `ema`; '' for the moving average of a run where there is one, and for the
      last weights of others.

  Raises:
    UserError: there is no such model, it cannot be read, or has no such weights.
  """
  return TrainedModel(local_path(os.fspath(path)), weights)


class TrainedModel:
  """A model from `load`.

  Attributes:
    path: Where it was read from.
    params: Its parameters.
    info: Facts about it, see `load_pretrained`: `kind` is pretraining, encoder or classification.
    config: How clips are cut (`data`), and the encoder's options (`model`), see `load_encoder`.
  """

  def __init__(self, path: str, weights: str = ''):
    self.path = path
    params, self.info = read_model(path, weights=weights)
    self.config = model_config(params, self.info, path)
    self.params = jax.tree.map(jnp.asarray, params)
    # Cached here, not on the class, which would keep every model in memory.
    self.encoder = functools.cache(self._encoder)
    self._forward = functools.cache(self._build_forward)

  def _encoder(self, pool: str = 'mean', layer: int = -1, positions: str = 'rebuild') -> Encode:
    """(`params['encoder']`, uint8 clips) -> features, jitted, see `build_encoder`."""
    return build_encoder(self.config, pool=pool, layer=layer, positions=positions)[1]

  def features(
    self, video: Videos, *, pool: str = 'mean', layer: int = -1, positions: str = 'rebuild'
  ) -> Float[Array, '*b']:
    """Features of one video, or of several along a first axis.

    Args:
      video: See the module; the sides of arrays may be any multiples of the patch.
      pool: `mean` gives 'd', `slots` a mean for each time slot, 't d', `tokens` 't h w d'.
      layer: The block whose output is taken, 1 for the first, -1 for the last.
      positions: For clips of another size than in training: `rebuild` or `interpolate`.

    Raises:
      UserError: a video cannot be read, its sides do not fit, or there is no such pool or layer.
    """
    clips, single = self._clips(video)
    found = self.encoder(pool, layer, positions)(self.params['encoder'], clips)
    return found[0] if single else found

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of a classifier's classes; LABEL_0, ... if it has none."""
    return tuple(class_names(self.info)) if self.info['classes'] else ()

  @functools.cached_property
  def logits(self) -> Callable[..., Float[Array, 'b c']]:
    """(`params`, uint8 clips) -> logits of a classifier, jitted.

    Raises:
      UserError: it is not a classifier.
    """
    return build_classifier(self.config, self.info, self.path)

  def views(self, views: tuple[int, int] | None = None) -> ViewSampler:
    """A sampler that cuts the clips of a video for a test.

    Args:
      views: Clips over the time of a video, and crops of each. None: those of the run's test; for
        models without a run those of VideoMAE, 5 x 3, or 2 x 3 for clips over whole videos.
    """
    data, test = self.config.data, self.config.get('test')
    if views is None:
      usual = (2 if data.sampling == 'segment' else 5), 3
      views = (test.segments, test.crops) if test else usual
    return ViewSampler(
      **{name: data[name] for name in ('frames', 'size', 'stride', 'sampling')},
      resampling=data.get('resampling', 'bilinear'),  # As the papers' classifiers were trained.
      segments=views[0],
      crops=views[1],
      repeats=views[0] * views[1],
    )

  def classify(
    self, videos: Videos, *, views: tuple[int, int] | None = None
  ) -> Float[np.ndarray, '*b']:
    """Probabilities of `classes` for one video, 'c', or for several, 'b c'.

    Args:
      videos: See the module.
      views: For files, see `views`: the result is the mean over their probabilities.

    Raises:
      UserError: the model is not a classifier, or a video cannot be read.
    """
    source = _files(videos)
    if source is None:
      clips, single = self._clips(videos)
      found = np.asarray(jax.nn.softmax(self.logits(self.params, clips)))
      return found[0] if single else found
    sampler, rows = self.views(views), []
    for i in range(len(source)):
      drawn = sampler(source, 0, i)
      for name, reason in drawn['failures']:
        raise UserError(f'{name}: {reason}; give videos that can be read.')
      rows.append(np.asarray(jax.nn.softmax(self.logits(self.params, drawn['video']))).mean(0))
    return rows[0] if _single(videos) else np.stack(rows)

  def reconstruct(
    self, video: Videos, *, ratio: float | None = None, masking: str = '', seed: int = 0
  ) -> 'Reconstruction':
    """What a pre-trained model predicts of the hidden tokens of one clip.

    Args:
      video: One video; in an array T may be any multiple of the patch, and H = W.
      ratio: Share of hidden tokens; None: as in training.
      masking: A key of `vmae_jax.masking.MASKINGS`; '': as in training.
      seed: Seed of the mask.

    Raises:
      UserError: the model has no decoder, the video cannot be read, or does not fit.
    """
    if not _single(video):
      raise UserError('reconstruct takes one video: a path, or an array of frames.')
    if ratio is not None and not 0 < ratio < 1:
      raise UserError(f'the ratio of hidden tokens is {ratio:g}: it must lie between 0 and 1.')
    clips, source = self._clips(video)[0], _files(video)
    frames, height, width = clips.shape[1:4]
    if height != width:
      raise UserError(f'frames of {height} x {width}: reconstruct takes squares.')
    method, config, forward = self._forward(
      (frames, height), ratio, masking, of_file=source is not None
    )
    batch = {'epoch': np.int32([0]), 'sample': np.int32([seed]), 'repeat': np.int32([0])}
    batch['video'] = clips
    if len(method.inputs) > 1:
      batch |= self._with_more(source, method)
    outputs = jax.device_get(forward(self.params, batch, method.frozen))
    hidden = outputs['hidden'][0].reshape(method.grid)
    title = f'{config.method}, {config.masking.name}, {hidden.mean():.0%} hidden'
    return Reconstruction(
      clip=outputs['clip'][0],
      hidden=hidden,
      predicted=predicted_pixels(method, config, outputs, 0),
      draw=functools.partial(draw_clip, method, config, outputs, 0, title=title),
    )

  def _build_forward(
    self, clip: tuple[int, int], ratio: float | None, masking: str, *, of_file: bool
  ) -> tuple[Method, ml_collections.ConfigDict, Callable[..., dict[str, Any]]]:
    """The method for these clips and this mask, its config, and the jitted `shown_outputs`."""
    info, ours = self.info, self.info['config']
    config = config_lib.implied()
    if not info['classes']:
      config.update(ml_collections.ConfigDict(ours or describe(info, 'b')))
    # Exports of a run may lack parts.
    whole = config.regressor.name == 'none' or 'regressor' in self.params
    config.heads = {
      name: head
      for name, head in config.heads.items()
      # Teachers, and so their features, are not loaded.
      if whole and head.target != 'features' and f'head_{name}' in self.params.get(head.decoder, {})
    }
    if not config.heads:
      raise UserError(
        f'{self.path} holds no decoder that can be drawn ({info["kind"]}): only models that were '
        'pre-trained on pixels, differences, codes, trajectories, HOG or flow reconstruct.'
      )
    (config.data.frames, config.data.size), config.decoder_masking.name = clip, 'none'
    config.augment = config_lib.default().augment  # No augmentation.
    if masking and masking != config.masking.name:
      config.masking.name, config.masking.options = masking, {}
    config.masking.ratio = config.masking.ratio if ratio is None else ratio
    if not of_file and (window(config) or codec_cells(config)):
      config.tracking.rate = config.tracking.rate.replace('video', 'clip')
      config.motion.name = config.motion.name.replace('codec', 'inverse_search')
      logging.warning(
        f'an array has no codec and no frames between its own: {config.motion.name} finds motion '
        'from frame to frame. Give the file for motion as in training.'
      )
    method = build_method(config)
    if not ours:  # Its encoder may have other sizes; given the clip itself, it normalises.
      model = build_model(info)
      scale = {name: tuple(info[name]) for name in ('mean', 'std')}
      method = method._replace(model=model.clone(encoder={**model.encoder, **scale}))
    return method, config, jax.jit(functools.partial(shown_outputs, method, config))

  def _clips(self, video: Videos) -> tuple[Any, bool]:
    """Clips 'b T H W 3', and whether a single video was given."""
    source = _files(video)
    if source is None:
      check_video(video)
      return (video[None], True) if video.ndim == 4 else (video, False)
    data, clips = self.config.data, []
    cut = {name: data[name] for name in ('frames', 'stride', 'sampling')}
    windows = Windows(**cut, hop=0, size=str(data.size))
    for found in read_windows(source, range(len(source)), windows, threads=1):
      if why := found.reason:
        raise UserError(f'{source.name(found.video)}: {why}; give videos that can be read.')
      if found.clip is not None:
        clips.append(found.clip)
    return np.stack(clips), _single(video)

  def _with_more(self, source: FileSource, method: Method) -> dict[str, Any]:
    """The method's inputs from a file: its middle clip, further frames and motion vectors."""
    data = self.config.data
    sampler = ClipSampler(
      **{name: data[name] for name in ('frames', 'size', 'stride', 'sampling')},
      window=method.window,
      vectors=method.vectors,
      slot=method.patch[0],
      train=False,
    )
    drawn = sampler(source, 0, 0)
    if method.vectors and not known(drawn['vectors']).any():
      logging.warning('%s: its codec gives no motion: all is taken to stand still.', source.name(0))
    return {name: drawn[name] for name in method.inputs}


@dataclass(frozen=True)
class Reconstruction:
  """What a model predicts of the hidden tokens of one clip.

  Attributes:
    clip: In [0, 1].
    hidden: True where a token was hidden.
    predicted: The clip with predicted pixels in place of hidden ones, or None if the model predicts
      no pixels. If it predicts normalised patches, their mean and contrast are interpolated from
      the visible patches.
    draw: Called by `pictures` and `films`.
  """

  clip: Float[np.ndarray, 'T H W 3']
  hidden: Bool[np.ndarray, 't h w']
  predicted: Float[np.ndarray, 'T H W 3'] | None
  draw: Callable[..., Drawn]

  def describe(self) -> str:
    """How far the predicted pixels of hidden patches are from the true ones, in one line."""
    share = f'{self.hidden.mean():.0%} hidden'
    if self.predicted is None:
      return share
    patch = tuple(n // m for n, m in zip(self.clip.shape, self.hidden.shape, strict=False))
    hidden = self.hidden.ravel()
    flat = interpolated_video(self.clip, hidden, patch=patch)
    errors = (hidden_error(self.clip, hidden, x, patch=patch) for x in (self.predicted, flat))
    what = ', off by {:.1f} of 255 on average; interpolation alone by {:.1f}'
    return share + what.format(*errors)

  def pictures(self, most: int = 4) -> dict[str, UInt8[np.ndarray, 'H W 3']]:
    """A picture for each head, such as `pixels_visible`, of at most `most` columns.

    The captions say what was taken from the clip.
    """
    return self.draw(most=most, layout=labelled_rows)

  def films(self) -> dict[str, UInt8[np.ndarray, 'T H W 3']]:
    """The same as films of all frames, rows side by side; a user's own pictures have no film."""
    drawn = self.draw(most=None, layout=film_of_rows)
    return {kind: film for kind, film in drawn.items() if film.ndim == 4}


def _files(video: Videos) -> FileSource | None:
  """A source of the files that are given, or None for an array."""
  if isinstance(video, FileSource):
    return video
  if hasattr(video, 'ndim'):
    return None
  paths = [video] if isinstance(video, Path) else list(video)
  if not paths or not all(isinstance(path, Path) for path in paths):
    raise UserError('videos are a path, a list of at least one, or an array (several: b T H W 3).')
  paths = list(map(os.fspath, paths))
  for path in paths:
    if not (storage.is_file(path) or storage.is_folder(path)):
      raise UserError(f'there is no video {path!r} (looked in {os.getcwd()}).')
  # A folder of frames ends in /.
  names = (os.path.join(path, '') if storage.is_folder(path) else path for path in paths)
  return FileSource(tuple(map(Entry, names)))


def _single(video: Videos) -> bool:
  return isinstance(video, Path | FileSource) or getattr(video, 'ndim', 0) == 4
