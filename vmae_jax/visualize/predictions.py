"""Pictures of what a model in training predicts, of the same few clips each time."""

import functools
import pathlib

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.sources import Source
from vmae_jax.masking.motion_guided import warped_maps
from vmae_jax.masking.random import tube
from vmae_jax.method.forward import Forward, Method
from vmae_jax.method.keys import clip_keys
from vmae_jax.method.losses import code_logits
from vmae_jax.targets.codes import FRAMES
from vmae_jax.targets.trajectory import trajectory
from vmae_jax.types import UInt8
from vmae_jax.visualize.codes import codes_grid
from vmae_jax.visualize.differences import difference_grid
from vmae_jax.visualize.flow import flow_of_frames, motion_grid
from vmae_jax.visualize.hog import hog_grid
from vmae_jax.visualize.reconstruction import predicted_video, reconstruction_grid
from vmae_jax.visualize.trajectories import trajectory_grid


class Pictures:
  """Draws what each head predicts, for the first clips of the data set.

  All hidden tokens are predicted, also where training decodes but some of them.

  Args:
    method: Whose predictions are drawn.
    source: The training videos.
    sampler: Cuts clips from them.
    config: The run's config.
    workdir: Pictures go to WORKDIR/pictures, if this is the main process.
    mesh: Where the parameters lie.
  """

  def __init__(
    self,
    method: Method,
    source: Source,
    sampler: ClipSampler,
    config,
    workdir: str,
    mesh: Mesh,
  ):
    self._heads = {name: (head.target, head.options) for name, head in config.heads.items()}
    self._ground_truth = config.log.ground_truth_statistics
    self._method, self._patch = method, method.patch
    self._folder = pathlib.Path(workdir) / 'pictures'
    self._name = config.method
    self._count = min(config.log.pictures, len(source))
    self._source, self._sampler, self._mesh = source, sampler, mesh
    outputs = functools.partial(_outputs, method, config)
    self._outputs = jax.jit(outputs, out_shardings=NamedSharding(mesh, P()))

  @functools.cached_property
  def _batch(self) -> dict[str, np.ndarray]:
    """The clips; some of them twice, as the devices share them evenly."""
    shares = self._mesh.shape['data'] * self._mesh.shape['fsdp']
    index = np.arange(-(-self._count // shares) * shares, dtype=np.int32) % self._count
    clips = [self._sampler(self._source, 0, sample) for sample in range(self._count)]
    images = ('video', 'window') if self._method.window else ('video',)
    return {
      **{name: np.stack([clips[i][name][0] for i in index]) for name in images},
      'epoch': np.zeros_like(index),
      'sample': index,
      'repeat': np.zeros_like(index),
    }

  def draw(self, step: int, params, frozen) -> dict[str, UInt8[np.ndarray, 'H2 W2 3']]:
    """Name -> picture; each is also written to WORKDIR/pictures as a PNG.

    Args:
      step: For the title and the file's name.
      params: Of the model.
      frozen: The method's frozen parameters, on the devices.
    """
    outputs = jax.device_get(self._outputs(params, self._batch, frozen))
    if jax.process_index() != 0:
      return {}
    pictures = {}
    for name, (target, options) in self._heads.items():
      if target not in PICTURES:
        continue
      for i in range(self._count):
        title = f'{self._name}, step {step}'
        for kind, picture in PICTURES[target](self, name, options, outputs, i, title).items():
          pictures[f'{name}_{kind}_clip{i}'] = picture
    if 'maps' in outputs:
      for i in range(self._count):
        pictures[f'mask_motion_clip{i}'] = self._motion(outputs, i)
    self._folder.mkdir(exist_ok=True)
    for label, picture in pictures.items():
      Image.fromarray(picture).save(self._folder / f'step{step:07d}_{label}.png')
    return pictures

  def _pixels(self, name, options, outputs, i, title):
    clip, hidden, predicted = outputs['clip'][i], outputs['hidden'][i], outputs[name][i]
    normalise, eps = options.get('normalise', 'patch'), options.get('eps', 1e-6)
    if normalise == 'global':
      predicted = predicted * options.get('scale', 0.225)
    kinds = ['visible' if normalise == 'patch' else 'none']
    if self._ground_truth and normalise == 'patch':
      kinds.append('ground truth')
    pictures = {}
    for kind in kinds:
      video = predicted_video(predicted, clip, hidden, patch=self._patch, statistics=kind, eps=eps)
      pictures[kind.replace(' ', '_')] = reconstruction_grid(
        clip, hidden, video, patch=self._patch, statistics=kind, title=title
      )
    return pictures

  def _difference(self, name, options, outputs, i, title):
    picture = difference_grid(
      outputs['clip'][i],
      outputs['hidden'][i],
      outputs[name][i],
      patch=self._patch,
      options=dict(options),
      title=title,
    )
    return {'difference': picture}

  def _codes(self, name, options, outputs, i, title):
    frames, decoded, predicted, accuracy = (x[i] for x in outputs[name])
    place = range(self._patch[0])[FRAMES[options.get('frames', 'first')]][0]
    frames = frames[:, place]
    picture = codes_grid(
      frames,
      outputs['hidden'][i].reshape(self._method.grid),
      decoded,
      predicted,
      accuracy=float(accuracy),
      columns=[f'frame {slot * self._patch[0] + place + 1}' for slot in range(len(frames))],
      tokenizer=pathlib.Path(self._method.tokenizer.path).name,
      title=title,
    )
    return {'codes': picture}

  def _hog(self, name, options, outputs, i, title):
    true, predicted = (x[i] for x in outputs[name])
    picture = hog_grid(
      outputs['clip'][i],
      outputs['hidden'][i],
      true,
      predicted,
      patch=self._patch,
      options=dict(options),
      title=title,
    )
    return {'hog': picture}

  def _trajectory(self, name, options, outputs, i, title):
    true, valid, predicted = (x[i] for x in outputs[name])
    picture = trajectory_grid(
      outputs['clip'][i],
      outputs['hidden'][i],
      true,
      predicted,
      valid=valid[:, 0] > 0,
      patch=self._patch,
      options=dict(options),
      title=title,
    )
    return {'trajectory': picture}

  def _motion(self, outputs, i):
    clip, flow = outputs['clip'][i], outputs['flow']
    return motion_grid(
      clip,
      flow_of_frames(flow.values[i], flow.pairs, len(clip)),
      outputs['maps'][i],
      {'visible': outputs['hidden'][i], 'tube masking\nin its place': outputs['tube'][i]},
      patch=self._patch,
      title=f'{self._name}: what is visible follows the motion',
      caption='Flow: hue is direction, colour is speed. Map: red is visible in the middle frame, '
      'carried to the others along the flow; in each slot the tokens with most of it are visible.',
    )


# Target -> (pictures, head, its options, outputs, clip, title) -> kind -> picture. Heads of other
# targets are trained without pictures.
PICTURES = {
  'pixels': Pictures._pixels,
  'frame_difference': Pictures._difference,
  'codes': Pictures._codes,
  'hog': Pictures._hog,
  'aligned_hog': Pictures._hog,
  'trajectory': Pictures._trajectory,
}


def _outputs(method: Method, config, params, batch, frozen):
  """Name -> what the picture of this head needs, beside the clips and what is hidden of them."""
  out = method.forward(params, batch, frozen, decode_all=True)
  b, n = out.clip.shape[0], int(np.prod(method.grid))

  def hidden_map(mask):
    return jnp.ones((b, n), bool).at[jnp.arange(b)[:, None], mask.visible].set(False)

  # The picture wants predictions in the order of token indices.
  order = jnp.argsort(out.mask.masked, axis=1)[..., None]
  outputs = {'clip': out.clip, 'hidden': hidden_map(out.mask)}
  masking = config.masking
  if masking.name == 'motion_guided':
    keys = clip_keys(method.seed, batch, 'mask')
    where = dict(grid=method.grid, ratio=masking.ratio)
    maps = functools.partial(warped_maps, **where, **masking.options)
    # The same key as the mask's own map has.
    maps = jax.vmap(lambda key, *args: maps(jax.random.split(key)[0], *args))
    other = jax.vmap(lambda key: tube(key, None, None, **where))(keys)
    outputs |= {'flow': out.flow, 'maps': maps(keys, out.clip, out.flow), 'tube': hidden_map(other)}
  for name, prediction in out.predictions.items():
    outputs[name] = jnp.take_along_axis(prediction, order, axis=1)
    match config.heads[name].target:
      case 'codes':
        outputs[name] = _decoded(method, name, out, frozen)
      case 'hog' | 'aligned_hog':
        outputs[name] = out.targets[name].values, outputs[name]
      case 'trajectory':
        options = config.heads[name].options
        plain = {'scale': options.scale} if 'scale' in options else {}
        true = trajectory(out.clip, out.followed, patch=method.patch, normalise='none', **plain)
        outputs[name] = true.values, true.weights, outputs[name]
  return outputs


def _decoded(method: Method, name: str, out: Forward, frozen):
  """Frames, what their codes decode to, the same of predicted codes, and the accuracy."""
  true, masked = out.targets[name].values, out.mask.masked
  f = true.shape[-1]
  rows = jnp.arange(len(true))[:, None]
  guess = code_logits(out.predictions[name], f).argmax(axis=-1)
  accuracy = (guess == true[rows, masked]).mean(axis=(1, 2))
  predicted = true.at[rows, masked].set(guess)
  t, h, w = method.grid
  model, (_, _, H, W, C) = method.tokenizer.model, out.clip.shape

  def decode(codes):  # Where each frame of a slot has codes, the first one's are shown.
    codes = einops.rearrange(codes[..., 0], 'b (t h w) -> (b t) h w', t=t, h=h, w=w)
    images = model.apply({'params': frozen['tokenizer']}, codes, method='decode')
    images = jax.image.resize(images, (len(images), H, W, C), 'linear')
    return images.reshape(-1, t, H, W, C)

  frames = einops.rearrange(out.clip, 'b (t p) H W C -> b t p H W C', t=t)
  return frames, decode(true), decode(predicted), accuracy
