"""From a batch to the loss, in the same steps for every method: read `Method.forward` first."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vmae_jax import sharding
from vmae_jax.frozen.teacher import Teacher, averaged
from vmae_jax.frozen.tokenizer import Tokenizer
from vmae_jax.masking import Mask
from vmae_jax.method.keys import clip_keys
from vmae_jax.method.losses import code_accuracy, cross_entropy, effective_rank
from vmae_jax.models import flops as flops_lib
from vmae_jax.models.autoencoder import MaskedAutoencoder, RegressedAutoencoder
from vmae_jax.models.encoder import gather
from vmae_jax.models.patches import unit_range
from vmae_jax.motion.codec import known
from vmae_jax.motion.flow import Flow
from vmae_jax.motion.follow import Followed
from vmae_jax.targets.target import Target
from vmae_jax.types import Array, Float, Key


class Head(NamedTuple):
  """One thing to predict."""

  target: Callable[..., Target]  # (clip, flow, followed, frozen) -> Target of all tokens.
  loss: Callable[..., Array]  # An entry of LOSSES.
  weight: float
  averaged: bool = False  # Whether its teacher is the moving average of the model itself.


class Forward(NamedTuple):
  """The results of `Method.forward`.

  Attributes:
    clip: The clips in [0, 1], augmented.
    flow: Optical flow between the clip's frames, or None.
    followed: The points that targets use, or None.
    mask: The visible and the predicted tokens.
    targets: Head -> its target for all tokens, without a gradient.
    predictions: Head -> the prediction for the masked tokens.
    own_losses: A loss that the model itself defines -> its value for each masked token.
  """

  clip: Float[Array, 'b T H W 3']
  flow: Flow | None
  followed: Followed | None
  mask: Mask
  targets: dict[str, Target]
  predictions: dict[str, Float[Array, 'b m _']]
  own_losses: dict[str, Float[Array, 'b m']]


class Method(NamedTuple):
  """A method ready to train, masking x targets x wiring; `build_method` makes it from a config.

  Attributes:
    model: The wiring: an autoencoder with one output for each head.
    augment: (keys 'b', images) -> the images with changed colours and blur.
    flow: (images, frozen) -> the optical flow that masks or targets need, or None.
    follow: (images, flow, frozen) -> the points that targets need, or None.
    masking: (keys 'b', clip, flow) -> Mask with a batch axis, in which all hidden tokens are
      predicted.
    decoder_masking: (keys 'b', Mask) -> Mask in which part of them are predicted; None: all are.
    heads: What the model predicts.
    own_losses: A loss that the model itself defines -> its weight.
    tokenizer: The frozen tokenizer that a target needs, or None.
    teachers: The teachers that targets need.
    frozen: Parameters of the frozen networks that a step needs; they are in no state and no
      checkpoint. A step adds the model's moving average, if the state has one (`teacher.AVERAGE`).
    window: Frames that the loader adds to each time slot for `follow`, or 0.
    vectors: Cells of the codec's motion along each side of a clip that the loader adds for `flow`
      and `follow`, or 0.
    shuffled: Whether the model sees the frames of a clip in random order; targets do not.
    grid: Tokens (t, h, w).
    patch: Size of a patch in frames, rows and columns.
    seed: Seed of all random numbers on the devices.
  """

  model: MaskedAutoencoder | RegressedAutoencoder
  augment: Callable[..., dict[str, Array]]
  flow: Callable[..., Flow | None]
  follow: Callable[..., Followed | None]
  masking: Callable[..., Mask]
  decoder_masking: Callable[..., Mask] | None
  heads: dict[str, Head]
  own_losses: dict[str, float]
  tokenizer: Tokenizer | None
  teachers: dict[str, Teacher]
  frozen: dict[str, Any]
  window: int
  vectors: int
  shuffled: bool
  grid: tuple[int, int, int]
  patch: tuple[int, int, int]
  seed: int

  def forward(
    self, params: Any, batch: dict[str, Array], frozen: Any, *, decode_all: bool = False
  ) -> Forward:
    """From a batch to targets and predictions, step by step.

    Args:
      params: Parameters of the model.
      batch: From the loader: `inputs`, with a batch axis, and `epoch`, `sample` and `repeat`.
      frozen: `self.frozen`, on the devices.
      decode_all: Whether to predict all hidden tokens, as pictures need.
    """
    images = self.augment(clip_keys(self.seed, batch, 'look'), _images(batch))
    # Without augmentation this is still uint8: a quarter of the bytes of floats, and model and
    # targets share its patches.
    video = images['video']
    images = self._in_unit_range(images, batch)
    clip = images['video']
    flow = self.flow(images, frozen)
    followed = self.follow(images, flow, frozen)
    mask = self.masking(clip_keys(self.seed, batch, 'mask'), clip, flow)
    if self.decoder_masking and not decode_all:
      mask = self.decoder_masking(clip_keys(self.seed, batch, 'decoded share'), mask)
    targets = {
      name: head.target(video, flow, followed, frozen) for name, head in self.heads.items()
    }
    if self.shuffled:
      orders = clip_keys(self.seed, batch, 'order of frames')
      video = jax.vmap(jax.random.permutation)(orders, video)
    predictions, sown = self.model.apply(
      {'params': params}, video, mask.visible, mask.masked, mutable='losses'
    )
    own_losses = {name: values[0] for name, values in sown.get('losses', {}).items()}
    targets = jax.lax.stop_gradient(targets)
    return Forward(clip, flow, followed, mask, targets, predictions, own_losses)

  def loss(
    self, params: Any, batch: dict[str, Array], frozen: Any
  ) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """The weighted sum of the heads' mean losses at masked tokens, and metrics."""
    out = self.forward(params, batch, frozen)
    targets = jax.tree.map(lambda x: gather(x, out.mask.masked), out.targets)

    def mean(tokens):
      return (tokens * out.mask.weight).sum() / out.mask.weight.sum()

    total, parts = jnp.zeros(()), {}
    if self.vectors:
      there = known(batch['vectors'])
      parts |= {'codec_cells': there.mean(), 'codec_clips': there.any(axis=(1, 2, 3)).mean()}
    for name, head in self.heads.items():
      prediction, (values, weights) = out.predictions[name], targets[name]
      given = () if weights is None else (weights,)
      parts[f'loss_{name}'] = mean(head.loss(prediction, values, *given))
      total += head.weight * parts[f'loss_{name}']
      if head.loss is cross_entropy:
        parts[f'accuracy_{name}'] = mean(code_accuracy(prediction, values))
      if head.averaged:
        parts[f'rank_{name}'] = effective_rank(values)
    for name, weight in self.own_losses.items():
      parts[f'loss_{name}'] = mean(out.own_losses[name])
      total += weight * parts[f'loss_{name}']
    return total, parts

  def init(self, key: Key[Array, '']) -> Any:
    """Fresh float32 parameters."""
    (t, h, w), (pt, ph, pw) = self.grid, self.patch
    clip = jnp.zeros((1, t * pt, h * ph, w * pw, 3))
    # Parameters do not depend on which tokens are masked.
    index = jnp.arange(2)[None]
    return self.model.init(key, clip, index[:, :1], index[:, 1:])['params']

  def mask_shape(self) -> Mask:
    """The shapes of one clip's mask, with a batch axis of 1."""
    params = jax.eval_shape(self.init, jax.random.key(0))
    return jax.eval_shape(
      lambda *given: self.forward(*given).mask,
      params,
      self.example(),
      self.frozen | averaged(self.teachers),
    )

  def flops(self) -> int:
    """Floating-point operations of a training step for one clip, including flow and targets."""
    mask = self.mask_shape()
    sizes = dict(
      encoder=self.model.encoder,
      decoder=self.model.decoder,
      own=self.model.own,
      heads=self.model.heads,
      visible=mask.visible.shape[1],
      masked=mask.masked.shape[1],
      patch_values=math.prod(self.patch) * 3,
    )
    if isinstance(self.model, RegressedAutoencoder):
      sizes |= {'regressor': self.model.regressor, 'align': self.model.align}
      trained, rest = flops_lib.regressed_autoencoder_flops(**sizes)
    else:
      trained, rest = flops_lib.autoencoder_flops(**sizes), 0
    return flops_lib.training_flops(trained) + rest + self.target_flops()

  def target_flops(self) -> int:
    """Floating-point operations of flow, followed points and targets for one clip."""

    def ask(batch, frozen):
      images = self._in_unit_range(_images(batch), batch)
      clip = images['video']
      flow = self.flow(images, frozen)
      followed = self.follow(images, flow, frozen)
      return flow, [head.target(clip, flow, followed, frozen) for head in self.heads.values()]

    frozen = self.frozen | averaged(self.teachers)
    # On TPUs look-ups are products, most of whose factors are 0; these should not count.
    with jax.sharding.use_abstract_mesh(sharding.as_on_cpu()):
      return flops_lib.traced_flops(ask, self.example(), frozen)

  @property
  def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
    """What the loader gives for a clip, beside `epoch`, `sample` and `repeat`."""
    t, T, H, W = self.grid[0], *(n * p for n, p in zip(self.grid, self.patch, strict=True))
    shapes = {'video': ((T, H, W, 3), jnp.uint8)}
    if self.window:
      shapes['window'] = (t, self.window, H, W, 3), jnp.uint8
    if self.vectors:
      m = T + t * self.window
      shapes['vectors'] = (m, self.vectors, self.vectors, 2), jnp.float16
      shapes['times'] = (m,), jnp.int32
    return {name: jax.ShapeDtypeStruct(*how) for name, how in shapes.items()}

  def _in_unit_range(self, images: dict[str, Array], batch: dict[str, Array]) -> dict[str, Array]:
    """`inputs`, with images in [0, 1]."""
    return {name: batch[name] for name in self.inputs} | jax.tree.map(unit_range, images)

  def example(self) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of one clip."""
    number = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = self.inputs | dict.fromkeys(('epoch', 'sample', 'repeat'), number)
    return {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in shapes.items()}


def _images(batch: dict[str, Array]) -> dict[str, Array]:
  return {name: batch[name] for name in ('video', 'window') if name in batch}
