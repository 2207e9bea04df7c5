"""A method ready to train: masking x targets x wiring as one loss function."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax.frozen.tokenizer import Tokenizer
from vmae_jax.masking import Mask
from vmae_jax.method.losses import code_accuracy, cross_entropy
from vmae_jax.models import flops as flops_lib
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.encoder import gather
from vmae_jax.models.regressed_autoencoder import RegressedAutoencoder
from vmae_jax.motion.flow import Flow
from vmae_jax.motion.follow import Followed
from vmae_jax.targets.target import Target
from vmae_jax.types import Array, Float, Int32, Key, UInt8


class Head(NamedTuple):
  """One thing to predict: (clip, followed, frozen) -> Target, its loss and weight."""

  target: Callable[..., Target]
  loss: Callable[..., Array]
  weight: float


class Objective(NamedTuple):
  """A method ready to train.

  Attributes:
    model: The autoencoder.
    flow: (clip, frozen) -> the optical flow between the clip's frames that masks or targets ask
      for, or None.
    follow: (clip, window, flow, frozen) -> the points that targets follow, or None.
    window: Frames that the loader adds to each time slot for it, or 0.
    hide: (keys 'b', clip, flow) -> Mask with a batch axis: all hidden tokens are predicted.
    mask: The same after the decoder's masking: what a training step predicts.
    heads: What the model predicts.
    auxiliary: Loss that the model itself sows -> its weight.
    tokenizer: The frozen tokenizer that a head's target asks for, or None.
    raft: Parameters of the frozen RAFT that estimates the flow, or None.
    prepare: uint8 video -> clip in [0, 1].
    augment: (keys 'b', clip and window in [0, 1]) -> the same with another look, or None.
    normalise: clip in [0, 1] -> the model's input.
    grid: Tokens (t, h, w).
    patch: Size of a patch.
    seed: Of all randomness on the device.
  """

  model: MaskedAutoencoder | RegressedAutoencoder
  flow: Callable[..., Flow | None]
  follow: Callable[..., Followed | None]
  window: int
  hide: Callable[..., Mask]
  mask: Callable[..., Mask]
  heads: dict[str, Head]
  auxiliary: dict[str, float]
  tokenizer: Tokenizer | None
  raft: Any
  prepare: Callable[[Array], Array]
  augment: Callable[..., dict[str, Array]] | None
  normalise: Callable[[Array], Array]
  grid: tuple[int, int, int]
  patch: tuple[int, int, int]
  seed: int

  def init(self, key: Key[Array, '']) -> Any:
    """Fresh float32 parameters."""
    (t, h, w), (pt, ph, pw) = self.grid, self.patch
    clip = jnp.zeros((1, t * pt, h * ph, w * pw, 3))
    # Which tokens are masked makes no difference to the parameters.
    index = jnp.arange(2)[None]
    return self.model.init(key, clip, index[:, :1], index[:, 1:])['params']

  @property
  def frozen(self) -> dict[str, Any]:
    """Parameters that a step needs and never changes; in no state and no checkpoint."""
    frozen = {} if self.tokenizer is None else {'tokenizer': self.tokenizer.params}
    return frozen if self.raft is None else frozen | {'raft': self.raft}

  def flops(self) -> int:
    """Floating-point operations of a training step for one clip."""
    mask = self.mask_shape()
    sizes = dict(
      encoder=self.model.encoder,
      decoder=self.model.decoder,
      heads=self.model.heads,
      visible=mask.visible.shape[1],
      masked=mask.masked.shape[1],
      patch_values=math.prod(self.patch) * 3,
    )
    if isinstance(self.model, RegressedAutoencoder):
      trained, rest = flops_lib.regressed_autoencoder_flops(regressor=self.model.regressor, **sizes)
    else:
      trained, rest = flops_lib.autoencoder_flops(**sizes), 0
    return flops_lib.training_flops(trained) + rest + self._target_flops()

  def mask_shape(self) -> Mask:
    """The shapes of one clip's mask, with a batch axis of 1."""
    keys = jax.random.split(jax.random.key(0), 1)
    return jax.eval_shape(
      lambda batch, frozen: self.mask(keys, *self._clip_and_flow(batch, frozen)),
      self._batch_shape(),
      self.frozen,
    )

  def _batch_shape(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Of the images in a batch of one clip, and of what its key is made of."""
    t, *_ = self.grid
    T, H, W = (n * p for n, p in zip(self.grid, self.patch, strict=True))
    shapes = {'video': (1, T, H, W, 3)}
    if self.window:
      shapes['window'] = (1, t, self.window, H, W, 3)
    images = {name: jax.ShapeDtypeStruct(shape, jnp.uint8) for name, shape in shapes.items()}
    number = jax.ShapeDtypeStruct((1,), jnp.int32)
    return images | dict.fromkeys(('epoch', 'sample', 'repeat'), number)

  def _images(self, batch) -> dict[str, Float[Array, 'b ...']]:
    """The clip and, if there is one, its window, in [0, 1] and with the look of this visit."""
    names = ('video', 'window') if self.window else ('video',)
    images = {name: self.prepare(batch[name]) for name in names}
    if self.augment is None:
      return images
    return self.augment(batch_keys(self.seed, batch), images)

  def _clip_and_flow(self, batch, frozen) -> tuple[Float[Array, 'b T H W 3'], Flow | None]:
    clip = self._images(batch)['video']
    return clip, self.flow(clip, frozen)

  def followed(self, batch, clip, flow, frozen) -> Followed | None:
    """The points that targets follow, if any do."""
    # The same look as the clip's; the compiler finds that both are computed once.
    window = self._images(batch)['window'] if self.window else None
    return self.follow(clip, window, flow, frozen)

  def targets(self, batch, clip, flow, frozen) -> dict[str, Target]:
    """What each head is to predict, for all tokens, without a gradient."""
    followed = self.followed(batch, clip, flow, frozen)
    targets = {name: head.target(clip, followed, frozen) for name, head in self.heads.items()}
    return jax.lax.stop_gradient(targets)

  def target_shapes(self) -> dict[str, Target]:
    """The shapes of one clip's targets, with a batch axis of 1."""

    def targets(batch, frozen):
      return self.targets(batch, *self._clip_and_flow(batch, frozen), frozen)

    return jax.eval_shape(targets, self._batch_shape(), self.frozen)

  def _target_flops(self) -> int:
    """Those of flow and targets."""

    def targets(batch, frozen):
      clip, flow = self._clip_and_flow(batch, frozen)
      return flow, self.targets(batch, clip, flow, frozen)

    return flops_lib.traced_flops(targets, self._batch_shape(), self.frozen)

  def outputs(self, params: Any, batch: dict[str, Array], frozen: Any, *, mask=None):
    """Clip, mask, predictions, targets and the model's own losses, for loss and pictures.

    Args:
      params: Of the model.
      batch: From the loader.
      frozen: `self.frozen`.
      mask: Which of the rules to use, `self.mask` by default.
    """
    clip, flow = self._clip_and_flow(batch, frozen)
    mask = (mask or self.mask)(batch_keys(self.seed, batch), clip, flow)
    predictions, sown = self.model.apply(
      {'params': params}, self.normalise(clip), mask.visible, mask.masked, mutable='losses'
    )
    targets = jax.tree.map(
      lambda x: gather(x, mask.masked), self.targets(batch, clip, flow, frozen)
    )
    own = {name: values[0] for name, values in sown.get('losses', {}).items()}
    return clip, mask, predictions, targets, own

  def loss(
    self, params: Any, batch: dict[str, Array], frozen: Any
  ) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """The weighted sum of mean losses at masked tokens, and its parts."""
    _, mask, predictions, targets, own = self.outputs(params, batch, frozen)

    def mean(tokens):
      return (tokens * mask.weight).sum() / mask.weight.sum()

    total, parts = jnp.zeros(()), {}
    for name, head in self.heads.items():
      target = targets[name]
      weights = () if target.weights is None else (target.weights,)
      parts[f'loss_{name}'] = mean(head.loss(predictions[name], target.values, *weights))
      total += head.weight * parts[f'loss_{name}']
      if head.loss is cross_entropy:
        parts[f'accuracy_{name}'] = mean(code_accuracy(predictions[name], target.values))
    for name, weight in self.auxiliary.items():
      parts[f'loss_{name}'] = mean(own[name])
      total += weight * parts[f'loss_{name}']
    return total, parts


def batch_keys(seed: int, batch: dict[str, Array]) -> Key[Array, ' b']:
  """One key a clip: a function of (seed, epoch, sample, repeat) alone."""

  def fold(epoch: Int32[Array, ''], sample: Int32[Array, ''], repeat: Int32[Array, '']):
    key = jax.random.key(seed)
    for number in (epoch, sample, repeat):
      key = jax.random.fold_in(key, number)
    return key

  return jax.vmap(fold)(batch['epoch'], batch['sample'], batch['repeat'])


def prepare(video: UInt8[Array, '*b H W C']) -> Float[Array, '*b H W C']:
  """RGB in [0, 255] to [0, 1]."""
  return video.astype(jnp.float32) / 255


def normalise(
  clip: Float[Array, 'b T H W C'], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, 'b T H W C']:
  """A clip in [0, 1] with the given mean and deviation of each channel taken out."""
  return (clip - jnp.asarray(mean)) / jnp.asarray(std)
