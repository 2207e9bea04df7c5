"""The defaults of every pre-training config, and the checks that catch a wrong one.

A file in configs/ starts from `default()` and sets only what differs. Durations are in
epochs of clips: with `data.repeats` = 4 an epoch is a quarter of a pass over the videos, as
the papers count. The batch size, too, counts clips.
"""

import operator
from collections.abc import Mapping, Sequence

import ml_collections
from ml_collections.config_dict import placeholder

from vmae_jax.data.clips import CROPS
from vmae_jax.data.sampling import ORDERS, SAMPLINGS
from vmae_jax.errors import UserError, check_name
from vmae_jax.models.sizes import SIZES


def default() -> ml_collections.ConfigDict:
  """VideoMAE's recipe on 16 frames of 224 x 224, ViT-B."""
  config = ml_collections.ConfigDict(
    dict(
      method='videomae',  # A name for logs and model cards.
      seed=0,
      epochs=800.0,
      steps=0,  # Above 0 it sets the length instead of epochs.
      batch_size=1024,  # Clips in a step, over all devices, repeats included.
      init_from='',  # A run or checkpoint whose parameters to start from.
      init_weights='',  # Of a run: params, ema, or '' for its moving average if it has one.
      model=dict(
        size='b',  # A name in models/sizes.py.
        patch=(2, 16, 16),  # Frames, rows, columns.
        decoder_width=placeholder(int),  # None: as the size says.
        decoder_depth=placeholder(int),
        decoder_heads=placeholder(int),
        decoder_mlp=placeholder(int),  # With another width: four times that.
        eps=1e-6,  # Of every LayerNorm.
        dtype='auto',  # Of matrix work; auto: bfloat16, on CPU float32.
        attention='auto',  # auto, xla, cudnn, mapped.
        scan=False,  # Loop over layers instead of writing them out.
        remat='none',  # none, dots, full: what the backward pass computes again.
      ),
      regressor=dict(
        name='none',  # none, or latent: MAM2's; its width and heads are the decoder's.
        depth=4,
        layer_scale=0.1,  # Where the scales of its branches and the decoders' start; 0: none.
        alignment_weight=2.0,
      ),
      tokenizer=dict(path=''),  # Of the target codes: a file made by tokenizers.train or convert.
      masking=dict(name='tube', ratio=0.9, options=dict()),
      decoder_masking=dict(name='none', ratio=0.5),
      motion=dict(  # Optical flow, where masks or targets ask for it.
        name='inverse_search',  # inverse_search, which needs no weights, or raft.
        path='',  # Of RAFT's weights: a file made by convert.
        options=dict(),
      ),
      tracking=dict(  # Points followed along the flow, where targets ask for them.
        steps=6,  # Of a trajectory.
        rate='video',  # Steps between frames of the video, which the loader adds, or the clip.
        median=False,  # Median filter of 3 x 3 on the flow.
        camera=False,  # Records motion without the camera's.
        integer=False,  # As MME's release: truncates flow to whole pixels.
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
        train='',  # A list file, a folder of videos or shards, tfds:NAME:SPLIT or synthetic:train.
        root='',  # Paths in the list are relative to it; '' is the list's folder.
        frames=16,
        size=224,
        stride=4,  # Between sampled frames.
        sampling='dense',  # dense, linspace (as VideoMAE's fine-tuning), or segment.
        released_end=False,  # Never take a video's last frame, as VideoMAE's code (dense).
        order='hashed',  # Of videos; added: seeds 0 and 1 share epochs, as in older runs.
        crop='multi_scale',  # multi_scale, resized, centre.
        flip=False,
        repeats=1,  # Clips cut from one decoded video.
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        threads=0,  # Decoding threads in a process; 0: one for each core.
        workers=0,  # Decoding processes beside the training one.
        max_bad_share=0.05,  # More broken videos than this stop the run.
        changed=False,  # A run may go on with other videos than those that it began with.
        seconds=60.0,  # A video that does not answer for so long counts as broken.
      ),
      augment=dict(  # The look of clips, the same for all frames; drawn on the devices.
        jitter=0.0,  # Chance that colours change, each at most by so much:
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        grey=0.0,  # Chance.
        blur=0.0,  # Chance of a Gaussian blur.
        sigma=(0.1, 2.0),  # Bounds of its width, in pixels.
        solarise=0.0,  # Chance that bright values are inverted.
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
        ema=0.0,  # 0: none.
        accumulate=1,  # Parts of a batch computed one after another.
        max_skipped=20,  # Steps in a row without a finite loss that stop the run.
      ),
      mesh=dict(data=-1, fsdp=1, tensor=1),  # -1: all devices that are left.
      checkpoint=dict(
        every_steps=1000,
        keep=2,  # Newest ones.
        keep_every_steps=0,  # Those at multiples of it are kept for good; 0: none.
      ),
      log=dict(
        every_steps=50,
        profile=0,  # First of three steps that are traced for TensorBoard or Perfetto; 0: none.
        pictures_every_steps=1000,
        pictures=4,  # Clips in a picture.
        ground_truth_statistics=False,  # Also draw the flattering variant, and say so.
      ),
      probe=dict(  # k-NN and linear accuracy of the frozen encoder on the way, for the log.
        every_epochs=0.0,  # 0: never; else after the last step, too.
        train='',  # Labelled videos to learn from, as data.train.
        val='',  # Held-out ones.
        pool='slots',  # As --pool of vmae_jax.probe.
        batch_size=64,
      ),
    )
  ).lock()  # A config file that sets a key which does not exist is told so.
  for block in (config.heads, config.masking.options, config.motion.options):
    block.unlock()
  return config


def implied() -> ml_collections.ConfigDict:
  """What a stored config stands for where it lacks a key, since it is older than the key.

  These are the defaults: a new key must get one that changes nothing for earlier runs, or stand
  in EARLIER. Heads are not among them, as every config names its own.
  """
  config = default().unlock()
  config.heads = ml_collections.ConfigDict()
  config.update_from_flattened_dict(EARLIER)
  return config


# What runs did before there were these keys, where that is not the default.
EARLIER = {'data.released_end': True, 'data.order': 'added'}


# Keys that say how a run is carried out and watched, not what it computes: a run may go on
# with others.
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
  'data.val',  # Of fine-tuning, as is `test`: a finished run can be tested anew.
  'data.test',
  'test',
  'optimizer.accumulate',
  'optimizer.max_skipped',
  'model.scan',
  'model.remat',
  'model.attention',
)


def parse_arg(
  arg: str | None,
  *,
  datasets: Sequence[str],
  words: Sequence[str],
  file: str,
  sizes: Sequence[str] = tuple(SIZES),
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
  if size in sizes and dataset in datasets:
    return size, dataset
  raise UserError(
    f'--config={file}:{arg or ""} is not known: write {file}:SIZE,DATASET with SIZE one of '
    f'{", ".join(sizes)} and DATASET one of {", ".join(datasets)}, or one word of '
    f'{", ".join(words)}.'
  )


# The least value of a number, where it matters and the number is not left open (None).
_LEAST = {
  'seed': 0,
  'steps': 0,
  'batch_size': 1,
  'data.frames': 1,
  'data.size': 1,
  'data.repeats': 1,
  'data.threads': 0,
  'data.workers': 0,
  'data.seconds': 0.1,
  'optimizer.accumulate': 1,
  'optimizer.max_skipped': 1,
  'checkpoint.every_steps': 1,
  'checkpoint.keep': 1,
  'checkpoint.keep_every_steps': 0,
  'log.every_steps': 1,
  'log.profile': 0,
}
# Chances and strengths of `augment`: from 0 on.
_MOST_AUGMENT = {
  'augment.jitter': 1,
  'augment.brightness': 1,
  'augment.contrast': 1,
  'augment.saturation': 1,
  'augment.hue': 0.5,
  'augment.grey': 1,
  'augment.blur': 1,
  'augment.solarise': 1,
}
_LEAST_PRETRAINING = {
  'probe.every_epochs': 0,
  'probe.batch_size': 1,
  'model.decoder_width': 1,
  'model.decoder_depth': 1,
  'model.decoder_heads': 1,
  'model.decoder_mlp': 1,
  'regressor.depth': 1,
  'tracking.steps': 1,
  'log.pictures_every_steps': 1,
  'log.pictures': 1,
}
_HEAD_KEYS = ('target', 'options', 'loss', 'weight', 'decoder')
_HEAD_EXTRAS = ('hidden', 'activation')  # Of a layer before the last one, and after it.


def check_range(
  config: ml_collections.ConfigDict,
  *,
  least: Mapping[str, int | float],
  most: Mapping[str, int | float] | None = None,
) -> None:
  """Raises a UserError for a number that is smaller or larger than it may be."""
  for bounds, wrong, word in ((least, operator.lt, 'least'), (most or {}, operator.gt, 'most')):
    for key, bound in bounds.items():
      value = operator.attrgetter(key)(config)
      if value is not None and wrong(value, bound):
        raise UserError(f'{key} is {value}: it must be at {word} {bound}.')


def check(config: ml_collections.ConfigDict, *, devices: int) -> None:
  """Raises a UserError for values that cannot work, alone or together, in pre-training."""
  if 'heads' not in config:
    raise UserError(
      f'this config (method {config.get("method", "unknown")!r}) is none for pre-training: take '
      'one such as --config=configs/videomae.py:SIZE,DATASET.'
    )
  check_shared(config, devices=devices)
  check_range(config, least=_LEAST_PRETRAINING)
  if config.probe.every_epochs and not (config.probe.train and config.probe.val):
    raise UserError('probe.every_epochs is set: give labelled videos as probe.train and probe.val.')
  if not config.heads:
    raise UserError('heads is empty: name at least one thing to predict.')
  for name, head in config.heads.items():
    for key in head:
      check_name(key, _HEAD_KEYS + _HEAD_EXTRAS, f'heads.{name}')
    if missing := [key for key in _HEAD_KEYS if key not in head]:
      raise UserError(f'heads.{name} lacks {", ".join(missing)}: set it in the config file.')
  for name in ('masking', 'decoder_masking'):
    ratio = config[name].ratio
    if not 0 < ratio < 1:
      raise UserError(f'{name}.ratio is {ratio}: it must lie between 0 and 1.')


def check_shared(config: ml_collections.ConfigDict, *, devices: int) -> None:
  """The same for what pre-training and fine-tuning have in common."""
  check_range(config, least=_LEAST | dict.fromkeys(_MOST_AUGMENT, 0), most=_MOST_AUGMENT)
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
  check_name(config.model.size, SIZES, 'model.size')
  check_name(config.init_weights or 'params', ('params', 'ema'), 'init_weights')
  check_name(config.data.sampling, SAMPLINGS, 'data.sampling')
  check_name(config.data.order, ORDERS, 'data.order')
  check_name(config.data.crop, CROPS, 'data.crop')
  batch, repeats = config.batch_size, config.data.repeats
  accumulate = config.optimizer.accumulate
  for each, what in (
    (devices * accumulate, f'{devices} devices that hold data x optimizer.accumulate {accumulate}'),
    (repeats, 'data.repeats'),
  ):
    if batch % each:
      near = max(each, batch // each * each)
      raise UserError(
        f'batch_size {batch} is no multiple of {each} ({what}): choose {near} or {near + each}.'
      )
