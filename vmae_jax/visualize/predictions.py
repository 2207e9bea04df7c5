"""Pictures of what a model in training predicts, always of the same few clips."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax import storage
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.sources import Source
from vmae_jax.masking import MASKINGS, Mask
from vmae_jax.masking.motion_guided import warped_maps
from vmae_jax.masking.random import tube
from vmae_jax.method.forward import Forward, Method
from vmae_jax.method.keys import clip_keys
from vmae_jax.method.losses import code_logits
from vmae_jax.targets.trajectory import trajectory
from vmae_jax.types import Array, Int, UInt8
from vmae_jax.visualize.codes import codes_grid
from vmae_jax.visualize.differences import difference_grid
from vmae_jax.visualize.features import features_grid
from vmae_jax.visualize.files import png
from vmae_jax.visualize.flow import flow_grid, flow_of_frames, motion_grid
from vmae_jax.visualize.hog import hog_grid
from vmae_jax.visualize.images import Shown, Video, evenly
from vmae_jax.visualize.reconstruction import TIME_STEP, predicted_video, reconstruction_grid
from vmae_jax.visualize.trajectories import trajectory_grid


class Pictures:
  """Draws what each head predicts, for a few clips spread over a data set.

  They are spread because lists are often sorted by class. All hidden tokens are predicted, even if
  training decodes only some of them. The main process writes the pictures to WORKDIR/pictures.
  """

  def __init__(
    self, method: Method, source: Source, sampler: ClipSampler, config, workdir: str, mesh: Mesh
  ):
    self._config, self._method, self._mesh = config, method, mesh
    self._folder = f'{workdir}/pictures'
    self._count = min(config.log.pictures, len(source))
    self._source, self._sampler = source, sampler
    self._outputs = jax.jit(
      functools.partial(shown_outputs, method, config), out_shardings=NamedSharding(mesh, P())
    )

  @functools.cached_property
  def _batch(self) -> dict[str, np.ndarray]:
    """The clips, repeated until the devices can share them evenly."""
    shares = self._mesh.shape['data'] * self._mesh.shape['fsdp']
    index = np.arange(-(-self._count // shares) * shares, dtype=np.int32) % self._count
    samples = evenly(len(self._source), most=self._count).astype(np.int32)
    clips = [self._sampler(self._source, 0, int(sample)) for sample in samples]
    return {
      **{name: np.stack([clips[i][name][0] for i in index]) for name in self._method.inputs},
      'epoch': np.zeros_like(index),
      'sample': samples[index],
      'repeat': np.zeros_like(index),
    }

  def draw(self, step: int, params, frozen) -> dict[str, UInt8[np.ndarray, 'H2 W2 3']]:
    """Name -> picture, each also written as a PNG named after the step and the picture.

    `frozen` are the method's frozen parameters, on the devices.
    """
    outputs = jax.device_get(self._outputs(params, self._batch, frozen))
    if jax.process_index() != 0:
      return {}
    method, config = self._method, self._config
    kind = 'held-out' if config.log.held_out else 'training'
    title = f'{config.method}, step {step}, {kind} clip'
    pictures = {
      f'{kind}_clip{i}': picture
      for i in range(self._count)
      for kind, picture in draw_clip(method, config, outputs, i, title=title).items()
    }
    storage.make_folder(self._folder)
    for label, picture in pictures.items():
      storage.write(f'{self._folder}/step{step:07d}_{label}.png', png(picture))
    return pictures


Drawn = dict[str, UInt8[np.ndarray, '...']]


def draw_clip(method: Method, config, outputs: dict[str, Any], i: int, **how: Any) -> Drawn:
  """Pictures of what each head predicts of one clip, and of the mask if it follows motion.

  Args:
    outputs: The result of `shown_outputs`, on the host.
    i: The clip's place in the batch.
    how: `title`, `most` and `layout` of `Shown`.

  Returns:
    `HEAD_KIND` and `mask_motion` -> picture, or film if `layout` makes films.
  """
  of_clip = functools.partial(jax.tree.map, operator.itemgetter(i))
  clip = of_clip((outputs['clip'], outputs['hidden']))
  common = functools.partial(Shown, *clip, patch=method.patch, config=config, **how)
  drawn = {}
  for name, head in config.heads.items():
    if head.target in PICTURES:
      shown = common(values=of_clip(outputs[name]), options=dict(head.options))
      drawn |= {f'{name}_{kind}': x for kind, x in PICTURES[head.target](shown).items()}
  if 'tube' in outputs:
    flow = flow_of_frames(outputs['flow'].values[i], outputs['flow'].pairs, len(clip[0]))
    masks = {'visible': outputs['hidden'][i], 'tube masking\nin its place': outputs['tube'][i]}
    maps = outputs['maps'][i] if 'maps' in outputs else None
    drawn['mask_motion'] = motion_grid(common(values=None), flow, maps, masks)
  return drawn


def predicted_pixels(method: Method, config, outputs: dict[str, Any], i: int) -> Video | None:
  """A clip with predicted pixels in place of hidden ones; None if no head predicts pixels.

  Arguments are those of `draw_clip`. Nothing is borrowed from hidden patches.
  """
  for name, head in config.heads.items():
    if head.target == 'pixels':
      values, options = _pixel_values(outputs[name][i], head.options)
      shown = outputs['clip'][i], outputs['hidden'][i]
      return predicted_video(values, *shown, patch=method.patch, **options)


def _pixel_values(predicted, options) -> tuple[Any, dict[str, Any]]:
  """Arguments of `predicted_video` for a head of pixels: predictions, and how to undo its scale."""
  normalise, eps = options.get('normalise', 'patch'), options.get('eps', 1e-6)
  if normalise == 'global':
    predicted = predicted * options.get('scale', 0.225)
  return predicted, dict(statistics='visible' if normalise == 'patch' else 'none', eps=eps)


def _pixels(shown: Shown) -> Drawn:
  predicted, how = _pixel_values(shown.values, shown.options)
  kinds = [how['statistics']]
  if shown.config.log.ground_truth_statistics and kinds == ['visible']:
    kinds.append('ground truth')
  pictures = {}
  for kind in kinds:
    how |= dict(statistics=kind, patch=shown.patch)
    video = predicted_video(predicted, shown.clip, shown.hidden, **how)
    picture = reconstruction_grid(shown._replace(values=video), statistics=kind)
    pictures[kind.replace(' ', '_')] = picture
  return pictures


def _trajectory(shown: Shown) -> Drawn:
  if shown.config.tracking.rate == 'slot':
    where = ': steps of the points that are at these places in frame 1'
    shown = shown._replace(title=shown.title + where)
  return {'trajectory': trajectory_grid(shown)}


# Target -> a function that draws a head with this target and returns kind of picture -> picture.
# There are no pictures of heads with other targets.
PICTURES: dict[str, Callable[[Shown], Drawn]] = {
  'pixels': _pixels,
  'frame_difference': lambda shown: {'difference': difference_grid(shown)},
  'optical_flow': lambda shown: {'flow': flow_grid(shown)},
  'codes': lambda shown: {'codes': codes_grid(shown)},
  'features': lambda shown: {'features': features_grid(shown)},
  'hog': lambda shown: {'hog': hog_grid(shown)},
  'aligned_hog': lambda shown: {'hog': hog_grid(shown)},
  'trajectory': _trajectory,
}


def shown_outputs(method: Method, config, params, batch, frozen) -> dict[str, Any]:
  """What pictures need: clips, hidden tokens, and for each head the values that its picture shows.

  Arguments are those of `Method.forward`, and the run's config.
  """
  out = method.forward(params, batch, frozen, decode_all=True)
  b, n = out.clip.shape[0], int(np.prod(method.grid))

  def hidden_map(mask):
    return jnp.ones((b, n), bool).at[jnp.arange(b)[:, None], mask.visible].set(False)

  # Pictures take predictions in the order of tokens.
  order = jnp.argsort(out.mask.masked, axis=1)[..., None]
  outputs = {'clip': out.clip, 'hidden': hidden_map(out.mask)}
  masking = config.masking
  if hasattr(MASKINGS[masking.name], 'flow_pairs'):
    keys = clip_keys(method.seed, batch, 'mask')
    where = dict(grid=method.grid, ratio=masking.ratio)
    other = jax.vmap(lambda key: tube(key, None, None, **where))(keys)
    outputs |= {'flow': out.flow, 'tube': hidden_map(other)}
    if masking.name == 'motion_guided':
      warped = functools.partial(warped_maps, **where, **masking.options)
      # The same key as the masking's, so the same map.
      maps = jax.vmap(lambda key, *given: warped(jax.random.split(key)[0], *given))
      outputs['maps'] = maps(keys, out.clip, out.flow)
  for name, prediction in out.predictions.items():
    outputs[name] = jnp.take_along_axis(prediction, order, axis=1)
    match config.heads[name].target:
      case 'codes':
        outputs[name] = _decoded(method, name, out, frozen)
      case 'trajectory':
        options = config.heads[name].options
        plain = {k: options[k] for k in ('scale', 'average', 'total') if k in options}
        true = trajectory(out.clip, out.followed, patch=method.patch, normalise='none', **plain)
        steps = 1 if plain.get('total') else out.followed.tracks.displacements.shape[1]
        values = true.values.reshape(b, n, 2, steps, -1)
        outputs[name] = values, true.weights, outputs[name]
      case target if target not in ('pixels', 'frame_difference'):  # The clip shows theirs.
        outputs[name] = out.targets[name].values, outputs[name]
  return outputs


def _decoded(method: Method, name: str, out: Forward, frozen):
  """What `codes_grid` shows."""
  true, masked = out.targets[name].values, out.mask.masked
  f = true.shape[-1]
  rows = jnp.arange(len(true))[:, None]
  guess = code_logits(out.predictions[name], f).argmax(axis=-1)
  copy = true[rows, nearest_visible(out.mask, method.grid)]
  right = [(codes == true[rows, masked]).mean(axis=(1, 2)) for codes in (guess, copy)]
  t, h, w = method.grid
  model, (_, _, H, W, C) = method.tokenizer.model, out.clip.shape

  def decode(codes):  # Where several frames of a slot have codes, those of the first are shown.
    codes = einops.rearrange(codes[..., 0], 'b (t h w) -> (b t) h w', t=t, h=h, w=w)
    images = model.apply({'params': frozen['tokenizer']}, codes, method='decode')
    images = jax.image.resize(images, (len(images), H, W, C), 'linear')
    return images.reshape(-1, t, H, W, C)

  frames = einops.rearrange(out.clip, 'b (t p) H W C -> b t p H W C', t=t)
  decoded = [decode(true.at[rows, masked].set(codes)) for codes in (guess, copy)]
  return frames, decode(true), decoded, right


def nearest_visible(mask: Mask, grid: tuple[int, int, int]) -> Int[Array, 'b m']:
  """The visible token nearest to each hidden one, in space and time."""
  places = jnp.stack(jnp.unravel_index(jnp.arange(np.prod(grid)), grid), -1)
  places = places * np.array([TIME_STEP, 1, 1])
  apart = places[mask.masked][:, :, None] - places[mask.visible][:, None]
  nearest = jnp.square(apart).sum(axis=-1).argmin(axis=-1)
  return jnp.take_along_axis(mask.visible, nearest, axis=1)
