"""The defaults of every pre-training config with their limits, and the checks of a config.

A file in configs/ starts from `default()` and sets only what differs. Durations are in
epochs of clips: with `data.repeats` = 4 an epoch is a quarter of a pass over the videos, as
the papers count. The batch size, too, counts clips.
"""

import math
import operator
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
from ml_collections.config_dict import placeholder

from vmae_jax.data.clips import CROPS
from vmae_jax.data.sampling import ORDERS, SAMPLINGS
from vmae_jax.errors import UserError, check_name
from vmae_jax.models.sizes import SIZES


class Number(NamedTuple):
  """A default, which may be None, with the least and the greatest value that a config may set."""

  value: int | float | None
  least: float
  most: float = math.inf


class Name(NamedTuple):
  """A default that is one of some names."""

  value: str
  names: Collection[str]


def share(value: float) -> Number:
  """A probability or a part of a whole."""
  return Number(value, 0, 1)


# VideoMAE's recipe on 16 frames of 224 x 224, ViT-B.
DEFAULTS = dict(
  method='videomae',  # A name for logs and model cards.
  seed=Number(0, 0),
  epochs=800.0,
  steps=Number(0, 0),  # Above 0 it sets the length instead of epochs.
  batch_size=Number(1024, 1),  # Clips in a step, over all devices, repeats included.
  init_from='',  # A run, a checkpoint, or a file or folder of another implementation.
  init_weights='',  # Those of a run: params, ema, or '' for ema if there is one.
  init_share=share(1.0),  # Share of the encoder's parameters that must be found there.
  model=dict(
    size=Name('b', SIZES),  # See models/sizes.py.
    patch=(2, 16, 16),  # Frames, rows, columns.
    decoder_width=Number(None, 1),  # None: as the size says.
    decoder_depth=Number(None, 1),
    decoder_heads=Number(None, 1),
    decoder_mlp=Number(None, 1),  # With another width: four times that.
    eps=1e-6,  # In every LayerNorm.
    dtype='auto',  # For matrix products; auto: bfloat16, on CPU float32.
    attention='auto',  # auto, xla, cudnn, mapped, pallas (TPU).
    scan=False,  # Loop over layers instead of writing them out.
    remat='none',  # The backward pass recomputes: none, dots (all but large products), full (all).
  ),
  decoders=dict(),  # DECODER=dict(width, depth, heads, mlp): what differs in one decoder.
  regressor=dict(
    name='none',  # none, or latent: MAM2's.
    depth=Number(4, 1),
    width=Number(None, 1),  # None: as the decoder's.
    heads=Number(None, 1),
    mlp=Number(None, 1),  # With another width: four times that.
    layer_scale=0.1,  # Initial LayerScale of its branches and of the decoders'; 0: none.
    alignment_weight=Number(2.0, 0),  # 0: no alignment loss is computed.
  ),
  tokenizer=dict(path=''),  # For the target codes: a file made by train_tokenizer or convert.
  teachers=dict(),  # NAME=TEACHER: encoders whose tokens a head predicts (features, teacher=NAME).
  masking=dict(name='tube', ratio=0.9, options=dict()),
  decoder_masking=dict(name='none', ratio=0.5),
  motion=dict(  # Optical flow, where masks or targets need it.
    name='inverse_search',  # inverse_search, which needs no weights; raft; codec: its vectors.
    path='',  # RAFT's weights: a file made by convert.
    options=dict(),
  ),
  tracking=dict(  # Points followed along the flow, where targets need them.
    steps=Number(6, 1),  # Length of a trajectory; with the rate slot 1.
    # video: a step from frame to frame of the video, which the loader adds; clip: of the clip;
    # slot: one step for each time slot, from points of the clip's first frame.
    rate='video',
    points=Number(2, 1),  # In each row and column of a token.
    median=False,  # Median filter of 3 x 3 on the flow.
    camera=False,  # Records motion without the camera's.
    integer=False,  # Truncates flow to whole pixels, as MME's release.
  ),
  heads=dict(
    pixels=dict(
      target='pixels',
      options=dict(normalise='patch', eps=1e-6),
      loss='mse',
      weight=1.0,
      decoder='decoder',  # Heads that name the same decoder share it.
    ),
  ),
  data=dict(
    train='',  # A list, a folder of videos or shards, ... or 0.7*A + 0.3*B: see data/sources.py.
    root='',  # Paths in the list are relative to it; '' is the list's folder.
    frames=Number(16, 1),
    size=Number(224, 1),
    stride=4,  # Between sampled frames.
    sampling=Name('dense', SAMPLINGS),  # linspace: as VideoMAE's fine-tuning.
    released_end=False,  # With dense: never takes a video's last frame, as VideoMAE's code.
    order=Name('hashed', ORDERS),  # Order of videos; added: seeds 0 and 1 share epochs.
    crop=Name('multi_scale', CROPS),
    flip=False,
    shuffled=False,  # The model sees frames in random order, targets do not (MME's ablation).
    repeats=Number(1, 1),  # Clips cut from one decoded video.
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    threads=Number(0, 0),  # Decoding threads in a process; 0: one for each core.
    # Decoding processes beside the training one; -1: one for each 12 cores, if there are more.
    workers=Number(-1, -1),
    max_bad_share=0.05,  # More broken videos than this stop the run.
    changed=False,  # Allows a run to go on with other videos than it began with.
    seconds=Number(60.0, 0.1),  # A video that gives no answer for this long counts as broken.
  ),
  augment=dict(  # The look of clips, the same for all frames; drawn on the devices.
    jitter=share(0.0),  # Chance that colours change, each by at most:
    brightness=share(0.4),
    contrast=share(0.4),
    saturation=share(0.2),
    hue=Number(0.1, 0, 0.5),
    grey=share(0.0),  # Chance.
    blur=share(0.0),  # Chance of a Gaussian blur.
    sigma=(0.1, 2.0),  # Bounds of its width, in pixels.
    solarise=share(0.0),  # Chance that bright values are inverted.
  ),
  optimizer=dict(
    base_lr=1.5e-4,  # For 256 clips; the peak is base_lr * batch_size / 256.
    base_min_lr=1e-5,
    warmup_epochs=40.0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.05,
    clip_norm=0.0,  # 0: no clipping.
    ema=share(0.0),  # Decay of a moving average of the parameters; 0: none.
    ema_end=share(0.0),  # The decay at the last step, reached linearly; 0: it is constant.
    accumulate=Number(1, 1),  # Parts of a batch computed one after another.
    max_skipped=Number(20, 1),  # This many steps in a row without a finite loss stop the run.
  ),
  mesh=dict(data=-1, fsdp=1, tensor=1),  # -1: all devices that are left.
  checkpoint=dict(
    every_steps=Number(1000, 1),
    keep=Number(2, 1),  # Newest ones.
    keep_every_steps=Number(0, 0),  # Those at multiples of this are never deleted; 0: none.
  ),
  log=dict(
    every_steps=Number(0, 0),  # 0: 50, in short runs a twentieth of the steps.
    profile=Number(0, 0),  # First of three steps traced for TensorBoard or Perfetto; 0: none.
    pictures_every_steps=Number(1000, 1),
    pictures=Number(4, 1),  # How many clips are drawn.
    held_out='',  # Videos that are drawn, as data.train; '': those of training.
    ground_truth_statistics=False,  # Also draws patches with their true statistics, labelled so.
  ),
  probe=dict(  # k-NN and linear accuracy of the frozen encoder during training, for the log.
    every_epochs=Number(0.0, 0),  # 0: never; otherwise also after the last step.
    train='',  # Labelled videos to learn from, as data.train.
    val='',  # Held-out ones.
    pool='slots',  # See --pool of vmae_jax.probe.
    batch_size=Number(64, 1),
  ),
)


def default() -> ml_collections.ConfigDict:
  """The config of `DEFAULTS`; setting a key that does not exist is an error."""
  config = make_config(DEFAULTS)
  for key in ('heads', 'decoders', 'teachers', 'masking.options', 'motion.options'):
    operator.attrgetter(key)(config).unlock()
  return config


# `path` is a run, a checkpoint, or a file or folder of another implementation; `untrained`, for
# tests; or `average`, the moving average of the model itself (optimizer.ema). `weights` is as
# init_weights. A run sets `digest`, of the weights that it found.
TEACHER = dict(path='', weights='', digest='')


def make_config(defaults: dict[str, Any]) -> ml_collections.ConfigDict:
  """A locked config of the values of `defaults`."""

  def value(entry: Any) -> Any:
    if isinstance(entry, dict):
      return {key: value(inner) for key, inner in entry.items()}
    entry = entry.value if isinstance(entry, Number | Name) else entry
    return placeholder(int) if entry is None else entry

  return ml_collections.ConfigDict(value(defaults)).lock()


def implied() -> ml_collections.ConfigDict:
  """The values of keys that a stored config lacks because it is older than the keys.

  They are the defaults: the default of a new key must be how earlier runs behaved, or EARLIER must
  say how. Heads are left out, as every config names its own.
  """
  config = default().unlock()
  config.heads = ml_collections.ConfigDict()
  config.update_from_flattened_dict(EARLIER)
  return config


# How runs behaved before these keys existed, where that differs from the default.
EARLIER = {'data.released_end': True, 'data.order': 'added'}

# Keys that say how a run is carried out and logged, not what it computes: a run may go on with
# other values of them.
RUN_KEYS = (
  'mesh',
  'checkpoint',
  'log',
  'probe',
  'data.threads',
  'data.workers',
  'data.seconds',
  'data.root',
  'data.changed',
  'data.max_bad_share',
  'data.val',  # This and `test` are keys of fine-tuning: a finished run may be tested again.
  'data.test',
  'test',
  'optimizer.accumulate',
  'optimizer.max_skipped',
  'model.scan',
  'model.remat',
  'model.attention',
)


def parse_arg(
  arg: str | None, *, datasets: Sequence[str], words: Sequence[str], file: str
) -> tuple[str | None, str]:
  """Splits a config's argument: `SIZE,DATASET`, or one of `words` such as `demo`.

  Returns:
    (size, dataset or word); the size is None for a word.

  Raises:
    UserError: anything else; lists what there is.
  """
  if arg in words:
    return None, arg
  size, _, dataset = (arg or '').partition(',')
  if size in SIZES and dataset in datasets:
    return size, dataset
  raise UserError(
    f'--config={file}:{arg or ""} is not known: write {file}:SIZE,DATASET with SIZE one of '
    f'{", ".join(SIZES)} and DATASET one of {", ".join(datasets)}, or one word of '
    f'{", ".join(words)}.'
  )


def set_size(config: ml_collections.ConfigDict, size: str) -> None:
  """Sets the model's size, and its patches and way of compiling, which go with the size."""
  config.model.size = size
  # As a loop, large models compile in a fraction of the time, but without remat need more memory.
  config.model.scan = size in ('l', 'h', 'giant')
  config.model.remat = 'dots' if config.model.scan else 'none'
  config.model.patch = (2, 14, 14) if size == 'giant' else (2, 16, 16)


_HEAD_KEYS = ('target', 'options', 'loss', 'weight', 'decoder')
# Width of a layer before the last; activation after the last; a control whose targets are those of
# another clip: the same loss, scale and cost, without information on this clip.
_HEAD_EXTRAS = ('hidden', 'activation', 'other_clip')


def check(config: ml_collections.ConfigDict, *, devices: int) -> None:
  """Raises a UserError for values that cannot work, alone or together, in pre-training."""
  if 'heads' not in config:
    raise UserError(
      f'this config (method {config.get("method", "unknown")!r}) is not for pre-training: take '
      'one such as --config=configs/videomae.py:SIZE,DATASET.'
    )
  check_shared(config, DEFAULTS, devices=devices)
  if config.probe.every_epochs and not (config.probe.train and config.probe.val):
    raise UserError('probe.every_epochs is set: give labelled videos as probe.train and probe.val.')
  if not config.heads:
    raise UserError('heads is empty: name at least one thing to predict.')
  for name, head in config.heads.items():
    for key in head:
      check_name(key, _HEAD_KEYS + _HEAD_EXTRAS, f'heads.{name}')
    if missing := [key for key in _HEAD_KEYS if key not in head]:
      raise UserError(f'heads.{name} lacks {", ".join(missing)}: set it in the config file.')
  for name, block in config.teachers.items():
    if set(block) != set(TEACHER):
      raise UserError(f'teachers.{name} has {", ".join(block)}: it takes {", ".join(TEACHER)}.')
  for name in ('masking', 'decoder_masking'):
    ratio = config[name].ratio
    if not 0 < ratio < 1:
      raise UserError(f'{name}.ratio is {ratio}: it must lie between 0 and 1.')


def _limits(defaults: dict[str, Any], block: str = '') -> Iterator[tuple[str, Number | Name]]:
  """The keys, such as `model.size`, of defaults that have limits."""
  for key, entry in defaults.items():
    if isinstance(entry, Number | Name):
      yield f'{block}{key}', entry
    elif isinstance(entry, dict):
      yield from _limits(entry, f'{block}{key}.')


def check_shared(
  config: ml_collections.ConfigDict, defaults: dict[str, Any], *, devices: int
) -> None:
  """Raises a UserError for values that can work neither in pre-training nor in fine-tuning.

  These are values outside the limits of `defaults`, and values that do not fit together.
  """
  for key, limit in _limits(defaults):
    value = operator.attrgetter(key)(config)
    if isinstance(limit, Name):
      check_name(value, limit.names, key)
    elif value is not None and not limit.least <= value <= limit.most:
      bound = f'least {limit.least}' if value < limit.least else f'most {limit.most}'
      raise UserError(f'{key} is {value}: it must be at {bound}.')
  sigma = tuple(config.augment.sigma)
  if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
    raise UserError(f'augment.sigma is {sigma}: it takes two widths in pixels, such as 0.1,2.')
  for key, kind, what in (
    ('model.patch', int, 'whole numbers above 0: frames, rows, columns'),
    ('data.mean', float, 'numbers from 0 on: red, green, blue'),
    ('data.std', float, 'numbers above 0: red, green, blue'),
  ):
    value = tuple(operator.attrgetter(key)(config))
    least = 0 if key == 'data.mean' else 1e-9
    if len(value) != 3 or not all(isinstance(x, (int, kind)) and x >= least for x in value):
      raise UserError(f'{key} is {value}: it takes three {what}.')
  check_name(config.init_weights or 'params', ('params', 'ema'), 'init_weights')
  batch, repeats, accumulate = config.batch_size, config.data.repeats, config.optimizer.accumulate
  for each, what in (
    (devices * accumulate, f'{devices} devices that hold data x optimizer.accumulate {accumulate}'),
    (repeats, 'data.repeats'),
  ):
    if batch % each:
      near = max(each, batch // each * each)
      raise UserError(
        f'batch_size {batch} is no multiple of {each} ({what}): choose {near} or {near + each}.'
      )
