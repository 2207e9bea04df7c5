"""Fine-tuning as a loss function: a classifier with erased and mixed clips and smoothed labels."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.method import mixing
from vmae_jax.method.augmentation import build_augmentation
from vmae_jax.method.keys import clip_keys
from vmae_jax.method.wiring import encoder_arguments
from vmae_jax.models import flops
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.patches import normalise, token_grid, unit_range
from vmae_jax.types import Array, Float, Key, UInt8


class Supervised(NamedTuple):
  """A classifier ready to train.

  Attributes:
    model: The classifier.
    augment: (keys 'b', {'video': clip in [0, 1]}) -> the same with changed colours and blur.
    normalise: clip in [0, 1] -> the model's input.
    clip: The numbers of frames, rows, columns and channels of a clip.
    seed: Seed of all random numbers on the devices.
    erase: Chance that a clip has an erased box.
    mix: (keys 'b', (H, W)) -> the clip's own share in each pixel, or None: no mixing.
    smoothing: Label smoothing.
  """

  model: Classifier
  augment: Callable[..., dict[str, Array]]
  normalise: Callable[[Array], Array]
  clip: tuple[int, int, int, int]
  seed: int
  erase: float
  mix: Callable[..., Array] | None
  smoothing: float

  @property
  def frozen(self) -> dict[str, Any]:
    """Parameters of frozen networks, as in `Method`: none."""
    return {}

  def target_flops(self) -> int:
    """Floating-point operations of flow, points and targets, as in `Method`: 0."""
    return 0

  def init(self, key: Key[Array, '']) -> Any:
    """Fresh float32 parameters; kernels of blocks are from N(0, 0.02), as in VideoMAE's classifier.

    VideoMAE's truncation at +-2 has no effect: it is a hundred standard deviations away.
    """
    params = self.model.init(key, jnp.zeros((1, *self.clip)))['params']
    blocks = flatten_dict(params['encoder']['blocks'])
    for i, (path, x) in enumerate(blocks.items()):
      if path[-1] == 'kernel':
        blocks[path] = 0.02 * jax.random.normal(jax.random.fold_in(key, i), x.shape)
    params['encoder']['blocks'] = unflatten_dict(blocks)
    return params

  def flops(self) -> int:
    """Floating-point operations of a training step for one clip."""
    encoder = self.model.encoder
    n = math.prod(token_grid(self.clip[:3], encoder['patch']))
    forward = 2 * n * math.prod(encoder['patch']) * self.clip[3] * encoder['width']
    forward += encoder['depth'] * flops.block_flops(n=n, width=encoder['width'], mlp=encoder['mlp'])
    return flops.training_flops(forward + 2 * encoder['width'] * self.model.classes)

  def loss(
    self, params: Any, batch: dict[str, Any], frozen: Any
  ) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """Cross-entropy with the mixed targets, and the accuracy.

    Args:
      params: Parameters of the model.
      batch: From the loader, after `mixing.pair` if clips are mixed.
      frozen: Not used.
    """

    def target(part):
      return mixing.smoothed(part['label'], classes=self.model.classes, smoothing=self.smoothing)

    clip, targets, labels = self._input(batch), target(batch), batch['label']
    if self.mix is not None:
      other = batch['other']
      own = self.mix(clip_keys(self.seed, batch, 'mixing'), clip.shape[2:4])
      second = self._input(other)
      clip = second + own[:, None, ..., None] * (clip - second)
      share = own.mean(axis=(1, 2))
      targets = share[:, None] * targets + (1 - share[:, None]) * target(other)
      labels = jnp.where(share >= 0.5, labels, other['label'])
    keys = clip_keys(self.seed, batch, 'dropped branches')
    logits = self.model.apply({'params': params}, clip, keys)
    loss = -(targets * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
    return loss, {'accuracy': (logits.argmax(axis=-1) == labels).mean()}

  def _input(self, part: dict[str, Array]) -> Float[Array, 'b T H W C']:
    images = {'video': unit_range(part['video'])}
    clip = self.augment(clip_keys(self.seed, part, 'look'), images)['video']
    keys = clip_keys(self.seed, part, 'erased box')
    return mixing.erase(keys, self.normalise(clip), chance=self.erase)

  def probabilities(self, params: Any, video: UInt8[Array, 'b T H W C']) -> Float[Array, 'b c']:
    """The probability of each class, for clips without augmentation."""
    return jax.nn.softmax(self.model.apply({'params': params}, self.normalise(unit_range(video))))


def build_supervised(config: ml_collections.ConfigDict, *, classes: int) -> Supervised:
  """The classifier and its loss that a config describes.

  Raises:
    UserError: a name that does not exist, or sizes that do not divide.
  """
  model, data, mix = config.model, config.data, config.mixing
  encoder, common = encoder_arguments(model)
  clip = (data.frames, data.size, data.size, len(data.mean))
  token_grid(clip[:3], encoder['patch'])  # Raises if patches do not divide the clip.
  grid = tuple(model.position_grid) if model.positions == 'interpolate' else None
  classifier = Classifier(
    encoder | common | {'position_grid': grid},
    classes,
    head_scale=model.head_scale,
    drop_path=model.drop_path,
    dropout=model.dropout,
    pool=model.get('pool', 'mean'),  # Older runs have none.
  )
  mixes = mix.chance > 0 and (mix.mixup > 0 or mix.cutmix > 0)
  own_share = functools.partial(
    mixing.own_share, chance=mix.chance, mixup=mix.mixup, cutmix=mix.cutmix, switch=mix.switch
  )
  return Supervised(
    model=classifier,
    augment=build_augmentation(config.get('augment')),  # Older runs have no such block.
    normalise=functools.partial(normalise, mean=tuple(data.mean), std=tuple(data.std)),
    clip=clip,
    seed=config.seed,
    erase=data.erase,
    mix=own_share if mixes else None,
    smoothing=mix.smoothing,
  )
