"""Frozen models of finished runs: encoders, from clips to features, and classifiers.

    from vmae_jax.evaluation.encoder import load_encoder
    _, params, encode = load_encoder('runs/b_k400', pool='mean')
    features = encode(params, video)  # uint8 (b, T, H, W, 3) -> float32 (b, d)

T, H and W may be any multiples of the patch.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict

from vmae_jax.data.clips import SAMPLINGS
from vmae_jax.errors import UserError, check_name, lookup
from vmae_jax.interchange.layout import build_model
from vmae_jax.interchange.runs import is_run, load_run
from vmae_jax.method.supervised import build_supervised
from vmae_jax.method.wiring import encoder_arguments
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.patches import normalise, token_grid, unit_range
from vmae_jax.runs.checkpoint import find_checkpoint
from vmae_jax.types import Array, Float, Num

Encode = Callable[[Any, Num[Array, 'b T H W 3']], Float[Array, 'b ...']]
Classify = Callable[[Any, Num[Array, 'b T H W 3']], Float[Array, 'b c']]

POSITIONS = ('rebuild', 'interpolate')
# Functions of tokens Float 'b t h w d'.
POOLS = {
  'tokens': lambda x: x,
  'slots': lambda x: x.mean((2, 3)),  # Keeps the order of time.
  'mean': lambda x: x.mean((1, 2, 3)),
}


def load_encoder(
  path: str, *, pool: str, layer: int = -1, positions: str = 'rebuild', weights: str = ''
) -> tuple[ml_collections.ConfigDict, Any, Encode]:
  """Reads the encoder of a checkpoint.

  Args:
    path: The workdir of a run (pre-training or fine-tuning), one of its checkpoints, or a file or
      folder of another implementation, see `load_pretrained`.
    pool, layer, positions: See `build_encoder`.
    weights: See `choose_weights`; for a file of another implementation, `ema` takes averaged
      weights, '' the last ones.

  Returns:
    The run's config (for another implementation its blocks `model` and `data`, as far as they are
    known) with `weights` (there 'as stored'), the encoder's parameters, and a function
    (parameters, uint8 clips) -> features.

  Raises:
    UserError: there is no checkpoint, it is of another model, or has no such layer or weights.
  """
  params, info = read_model(path, weights=weights)
  config = model_config(params, info, path)
  _, encode = build_encoder(config, pool=pool, layer=layer, positions=positions)
  return config, jax.tree.map(jnp.asarray, params['encoder']), encode


def read_model(path: str, *, weights: str = '') -> tuple[dict[str, Any], dict[str, Any]]:
  """Parameters and info of any checkpoint, as `load_run` and `load_pretrained` return them.

  Arguments and errors are those of `load_encoder`.
  """
  if not os.path.exists(path) or is_run(resolve(path)):
    return load_run(path, weights=weights)
  # Our own checkpoints do not need this import.
  from vmae_jax.interchange.pretrained import load_pretrained

  params, info = load_pretrained(path, weights=weights)
  for note in info['notes']:
    logging.warning('%s: %s', path, note)
  return params, info | {'weights': weights or 'as stored'}


def weights_hash(params: Mapping[str, Any]) -> str:
  """The first sixteen digits of a checksum of names and values."""
  from vmae_jax.interchange.pretrained import digest

  flat = flatten_dict(params, sep='/')
  return digest({name: np.asarray(value) for name, value in flat.items()})[:16]


def resolve(path: str) -> str:
  """The path of a run's newest checkpoint, or of any other checkpoint, file or folder itself.

  Raises:
    UserError: there is no such path.
  """
  try:
    return str(find_checkpoint(path))
  except UserError:
    if not os.path.exists(path):
      raise
    return os.path.abspath(path)


def model_config(
  params: Mapping[str, Any], info: Mapping[str, Any], path: str
) -> ml_collections.ConfigDict:
  """The config that `load_encoder` returns, for the results of `read_model`."""
  # The encoder of a classifier that averages tokens has no last LayerNorm.
  final_norm = 'norm' in params['encoder']
  if info['format'] == 'vmae_jax':
    config = ml_collections.ConfigDict(info['config'])
    config.weights, config.model.final_norm = info['weights'], final_norm
    return config
  if info['channels'] != 3:
    raise UserError(f'{path} takes {info["channels"]} channels: only RGB models can be used here.')
  encoder = dict(info['encoder'], patch=tuple(info['patch']), eps=info['eps'])
  model = {'encoder': encoder | {'final_norm': final_norm}}
  data = {name: info[name] for name in ('frames', 'size', 'mean', 'std')}
  data |= _pace(info, path) | {'root': '', 'max_bad_share': 0.05}
  config = {'model': model, 'data': data, 'seed': 0, 'weights': info['weights']}
  config = ml_collections.ConfigDict(config)
  config.model.patch, config.model.eps = tuple(info['patch']), info['eps']
  return config


def _pace(info: Mapping[str, Any], path: str) -> dict[str, Any]:
  """Stride and sampling of the clips that a model was trained on, or usual ones with a warning."""
  run = (info['config'] or {}).get('data', {})  # The run that it was exported from.
  stride, sampling = (run.get(key) or info.get(key) for key in ('stride', 'sampling'))
  if not stride:
    stride = 4
    logging.warning('%s does not say the stride of its clips: 4 is used, as in most models.', path)
  return {'stride': stride, 'sampling': sampling or 'dense'}


def recut(config, clip: Mapping[str, Any]) -> None:
  """Changes how clips are cut, in the block `data` of the config from `load_encoder`.

  `clip` has `frames`, `stride` or `sampling`; None changes nothing.

  Raises:
    UserError: there is no such sampling, it has no stride, or the frames are not whole patches.
  """
  data = config.data
  data.update({name: value for name, value in clip.items() if value is not None})
  check_name(data.sampling, SAMPLINGS, '--sampling')
  if clip.get('stride') and data.sampling == 'segment':
    raise UserError(
      f'--stride={data.stride} changes nothing, as clips of this model have one frame of each '
      'segment: also give --sampling=dense.'
    )
  token_grid((data.frames, data.size, data.size), tuple(config.model.patch))


def build_encoder(
  config, *, pool: str, layer: int = -1, positions: str = 'rebuild'
) -> tuple[Encoder, Encode]:
  """The encoder of a config, and a jitted function (parameters, clips) -> pooled features.

  Args:
    config: The run's config, or the one from `load_encoder`.
    pool: A key of POOLS: all `tokens`, their means over time `slots`, or the `mean` of all.
    layer: The block whose output is used: 1 for the first, -1 for the last. The last LayerNorm
      (which some fine-tuned encoders lack) is applied to it, as in DINO's evaluations.
    positions: For clips of another size than in training: 'rebuild' computes sines and cosines for
      the new number of tokens, 'interpolate' resizes those of the training grid in space. There, a
      clip with fewer time slots takes the first ones of the grid; for more slots, time is
      interpolated, too. A model that was trained on interpolated positions always interpolates.
  """
  patch, model, data = tuple(config.model.patch), config.model, config.data
  if 'encoder' in model:  # The config of another implementation's model.
    dtype = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
    encoder = Encoder(**model.encoder, dtype=dtype)
  else:
    arguments, common = encoder_arguments(model)
    encoder = Encoder(**arguments, **common, final_norm=model.get('final_norm', True))
  if not 1 <= abs(layer) <= encoder.depth:
    raise UserError(
      f'layer is {layer}: the encoder has the layers 1 to {encoder.depth}, from the end -1 to '
      f'-{encoder.depth}.'
    )
  blocks = layer % (encoder.depth + 1)  # The number of blocks that run: -1 is all of them.
  check_name(positions, POSITIONS, 'positions')
  trained = tuple(n // p for n, p in zip((data.frames, data.size, data.size), patch, strict=True))
  if model.get('positions') == 'interpolate':
    trained, positions = tuple(model.position_grid), 'interpolate'
  reduce = lookup(POOLS, pool, '--pool')
  scale = functools.partial(normalise, mean=tuple(data.mean), std=tuple(data.std))

  @jax.jit
  def apply(params: Any, video: Num[Array, 'b T H W 3']) -> Float[Array, 'b ...']:
    t, h, w = token_grid(video.shape[1:4], patch)
    params = dict(params, blocks=jax.tree.map(lambda x: x[:blocks], params['blocks']))
    grid = (min(t, trained[0]), *trained[1:]) if positions == 'interpolate' else None
    cut = encoder.clone(depth=blocks, position_grid=grid)
    latents = cut.apply({'params': params}, scale(unit_range(video))).astype(jnp.float32)
    return reduce(einops.rearrange(latents, 'b (t h w) d -> b t h w d', t=t, h=h, w=w))

  return encoder, apply


def init_encoder(config, encoder: Encoder) -> Any:
  """Fresh parameters, for comparison with trained ones."""
  data = config.data
  clip = jnp.zeros((1, data.frames, data.size, data.size, len(data.mean)))
  return encoder.init(jax.random.key(config.seed), clip)['params']


def build_classifier(config, info: Mapping[str, Any], path: str) -> Classify:
  """A jitted function (parameters, uint8 clips) -> logits, for the results of `read_model`."""
  if info['kind'] != 'classification':
    raise UserError(f'{path} is no classifier but {info["kind"]}: give a run of finetune.')
  if info['format'] == 'vmae_jax':
    model = build_supervised(config, classes=info['classes']).model
  else:
    model = build_model(info)
  scale = functools.partial(normalise, mean=tuple(info['mean']), std=tuple(info['std']))

  @jax.jit
  def classify(params: Any, video: Num[Array, 'b T H W 3']) -> Float[Array, 'b c']:
    return model.apply({'params': params}, scale(unit_range(video))).astype(jnp.float32)

  return classify


def check_video(video: Num[Array, '...'] | Num[np.ndarray, '...']) -> None:
  """Raises a UserError for arrays that are not clips in uint8 or in [0, 1]."""
  if video.ndim not in (4, 5) or video.shape[-1] != 3 or not video.size:
    raise UserError(f'an array of shape {video.shape} is no video: it takes T x H x W x 3.')
  if video.dtype == np.uint8 or isinstance(video, jax.core.Tracer):
    return
  low, high = float(video.min()), float(video.max())  # Resizing may leave [0, 1] a little.
  if not (jnp.issubdtype(video.dtype, jnp.floating) and -0.5 < low <= high < 1.5):
    span = f'{video.dtype} from {low:g} to {high:g}'
    raise UserError(f'an array of {span}: give uint8, or floats in [0, 1], not normalised.')
