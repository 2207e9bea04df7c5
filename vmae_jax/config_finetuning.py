"""The defaults of every fine-tuning config, and the checks that catch a wrong one.

What pre-training has, too, means the same here (vmae_jax/config.py): the batch size and epochs
count clips, repeats included. The papers' scripts count videos, and `recipe` translates.
"""

import ml_collections

from vmae_jax import config as config_lib
from vmae_jax.data.crop import RESAMPLINGS
from vmae_jax.errors import UserError, check_name

POSITIONS = ('rebuild', 'interpolate')
POOLS = ('mean', 'first')


def default() -> ml_collections.ConfigDict:
  """VideoMAE's fine-tuning of ViT-B on 16 frames of 224 x 224."""
  base = config_lib.default()

  def take(block: str, names: str) -> dict:
    return {name: base[block][name] for name in names.split()}

  model = take('model', 'size patch eps dtype attention scan remat')
  data = take(
    'data',
    'train root frames size stride sampling released_end order mean std threads workers seconds '
    'changed',
  )
  return ml_collections.ConfigDict(
    dict(
      method='finetuning',  # A name for logs.
      seed=0,
      epochs=150.0,
      steps=0,  # Above 0 it sets the length; with epochs=0 nothing is trained, only tested.
      batch_size=768,
      init_from='',  # A run, a checkpoint, or a file or folder of another implementation.
      init_weights='',  # Of a run: params, ema, or '' for its moving average if it has one.
      init_share=1.0,  # Of the encoder's parameters that must be found there.
      init_head=True,  # Take its classifier along, if it has one.
      model=model
      | dict(
        drop_path=0.1,  # Of the last block; rises from 0 in the first.
        dropout=0.0,  # Before the last layer.
        head_scale=0.001,  # On its initial range.
        pool='mean',  # Of all tokens, or the `first` one, as use_mean_pooling=False elsewhere.
        positions='rebuild',  # For the clips' tokens, or interpolate those of pre-training:
        position_grid=(8, 14, 14),  # Tokens (t, h, w) of a clip there.
      ),
      data=data
      | dict(
        val='',  # Validation on the way, as data.train.
        test='',  # The last test; '': data.val.
        classes=0,  # 0: as many as data.train has.
        crop='resized',
        crop_area=(0.08, 1.0),  # Bounds of the share of the picture that it takes.
        resampling='antialiased',  # Of training clips and in the test; or bilinear: the papers'.
        flip=True,  # Wrong where direction is the label.
        repeats=2,
        max_bad_share=0.05,
        randaugment=dict(operations=4, magnitude=7.0, deviation=0.5, chance=0.5),
        erase=0.25,  # Chance that a box is filled with noise.
      ),
      augment=base.augment.to_dict(),
      mixing=dict(
        chance=1.0,  # That a clip is mixed at all.
        mixup=0.8,  # alpha of the Beta distribution; 0: never.
        cutmix=1.0,
        switch=0.5,  # Chance of cutmix where both are on.
        smoothing=0.1,  # Of labels.
      ),
      test=dict(
        every_epochs=10.0,  # One view of each video of data.val; 0: not on the way.
        segments=5,  # Clips over the time of a video, in the last test.
        crops=3,  # Of each of them.
        batch_size=60,  # Clips; raised to whole videos over the devices.
      ),
      optimizer=base.optimizer.to_dict()
      | dict(
        base_lr=2.5e-4,  # For 256 clips; the peak is base_lr * batch_size / 256.
        base_min_lr=5e-7,
        warmup_epochs=10.0,
        b2=0.999,
        layer_decay=0.75,  # Factor on the learning rate from one layer to the one below.
      ),
      mesh=base.mesh.to_dict(),
      checkpoint=base.checkpoint.to_dict(),
      log=take('log', 'every_steps profile'),
    )
  ).lock()


def implied() -> ml_collections.ConfigDict:
  """What a stored config stands for where it lacks a key, since it is older than the key."""
  config = default()
  config.update_from_flattened_dict(config_lib.EARLIER)
  return config


def recipe(c, *, videos: int, repeats: int, lr: float, min_lr: float = 1e-6, epochs: int) -> None:
  """Sets batch, learning rate and length as the papers' scripts write them.

  Args:
    c: A config.
    videos: In a step, over all devices; the learning rate is for 256 of them.
    repeats: Clips cut from each video (`num_sample`), which these numbers do not count.
    lr: Peak learning rate for 256 videos.
    min_lr: Last one.
    epochs: Passes over the videos, of which 5 warm up.
  """
  c.batch_size, c.data.repeats = videos * repeats, repeats
  c.epochs, c.optimizer.warmup_epochs = float(epochs * repeats), 5.0 * repeats
  c.optimizer.base_lr, c.optimizer.base_min_lr = lr / repeats, min_lr / repeats


_LEAST = {
  'model.drop_path': 0,
  'model.dropout': 0,
  'data.classes': 0,
  'data.randaugment.operations': 0,
  'data.erase': 0,
  'mixing.mixup': 0,
  'mixing.cutmix': 0,
  'mixing.chance': 0,
  'mixing.switch': 0,
  'mixing.smoothing': 0,
  'test.every_epochs': 0,
  'test.segments': 1,
  'test.crops': 1,
  'test.batch_size': 1,
  'optimizer.layer_decay': 1e-9,
}
_MOST = {
  'model.drop_path': 0.99,
  'model.dropout': 0.99,
  'data.erase': 1,
  'data.randaugment.chance': 1,
  'mixing.chance': 1,
  'mixing.switch': 1,
  'mixing.smoothing': 0.99,
  'optimizer.layer_decay': 1,
  'init_share': 1,
}


def check(config: ml_collections.ConfigDict, *, devices: int) -> None:
  """Raises a UserError for values that cannot work, alone or together."""
  if 'mixing' not in config:
    raise UserError(
      f'this config (method {config.get("method", "unknown")!r}) is none for fine-tuning: take '
      '--config=configs/finetune.py:SIZE,DATASET.'
    )
  config_lib.check_shared(config, devices=devices)
  config_lib.check_range(config, least=_LEAST, most=_MOST)
  check_name(config.model.positions, POSITIONS, 'model.positions')
  check_name(config.model.pool, POOLS, 'model.pool')
  check_name(config.data.resampling, RESAMPLINGS, 'data.resampling')
  grid = tuple(config.model.position_grid)
  if len(grid) != 3 or not all(isinstance(n, int) and n > 0 for n in grid):
    raise UserError(f'model.position_grid is {grid}: it takes three whole numbers above 0.')
  area = tuple(config.data.crop_area)
  if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    raise UserError(f'data.crop_area is {area}: it takes two shares, such as 0.08,1.')
