"""The defaults of every fine-tuning config with their limits, and the checks of a config.

Keys that pre-training has mean the same here (vmae_jax/config.py): the batch size and epochs
count clips, repeats included. The papers' scripts count videos, and `recipe` converts.
"""

from typing import Any

import ml_collections

from vmae_jax import config as config_lib
from vmae_jax.config import Name, Number, share
from vmae_jax.data.clips import CROPS
from vmae_jax.data.crop import RESAMPLINGS
from vmae_jax.errors import UserError

POSITIONS = ('rebuild', 'interpolate')
POOLS = ('mean', 'first')


def _take(block: str, names: str) -> dict[str, Any]:
  return {name: config_lib.DEFAULTS[block][name] for name in names.split()}


# VideoMAE's fine-tuning of ViT-B on 16 frames of 224 x 224.
DEFAULTS = dict(
  method='finetuning',  # A name for logs.
  seed=Number(0, 0),
  epochs=150.0,
  steps=Number(0, 0),  # Above 0 it sets the length; with epochs=0 nothing is trained, only tested.
  batch_size=Number(768, 1),
  init_from='',  # A run, a checkpoint, or a file or folder of another implementation.
  init_weights='',  # Those of a run: params, ema, or '' for ema if there is one.
  init_share=share(1.0),  # Share of the encoder's parameters that must be found there.
  init_head=True,  # Take its classifier along, if it has one.
  model=_take('model', 'size patch eps dtype attention scan remat')
  | dict(
    drop_path=Number(0.1, 0, 0.99),  # In the last block; rises from 0 in the first.
    dropout=Number(0.0, 0, 0.99),  # Before the last layer.
    head_scale=0.001,  # On its initial range.
    pool=Name('mean', POOLS),  # Of all tokens; first: the first alone (use_mean_pooling=False).
    # rebuild: positions for the clips' tokens; interpolate: those of pre-training, resized.
    positions=Name('rebuild', POSITIONS),
    position_grid=(8, 14, 14),  # Tokens (t, h, w) of a clip in pre-training.
  ),
  data=_take(
    'data',
    'train root frames size stride sampling released_end order mean std threads workers seconds '
    'changed max_bad_share',
  )
  | dict(
    val='',  # Videos of the validation during training, as data.train.
    test='',  # Videos of the test at the end; '': data.val.
    classes=Number(0, 0),  # 0: as many as data.train has.
    crop=Name('resized', CROPS),
    crop_area=(0.08, 1.0),  # Bounds of the share of the frame that it takes.
    # In training and in the test; the papers use bilinear.
    resampling=Name('antialiased', RESAMPLINGS),
    flip=True,  # Wrong where direction is the label.
    repeats=Number(2, 1),
    randaugment=dict(operations=Number(4, 0), magnitude=7.0, deviation=0.5, chance=share(0.5)),
    erase=share(0.25),  # Chance that a box is filled with noise.
  ),
  augment=config_lib.DEFAULTS['augment'],
  mixing=dict(
    chance=share(1.0),  # Chance that a clip is mixed.
    mixup=Number(0.8, 0),  # alpha of the Beta distribution; 0: never.
    cutmix=Number(1.0, 0),
    switch=share(0.5),  # Chance of cutmix where both are on.
    smoothing=Number(0.1, 0, 0.99),  # Label smoothing.
  ),
  test=dict(
    every_epochs=Number(10.0, 0),  # Validation by one view of each video of data.val; 0: none.
    segments=Number(5, 1),  # Clips over the time of a video, in the test at the end.
    crops=Number(3, 1),  # Crops of each of these clips.
    batch_size=Number(60, 1),  # Clips; raised to whole videos over the devices.
  ),
  optimizer=config_lib.DEFAULTS['optimizer']
  | dict(
    base_lr=2.5e-4,  # For 256 clips; the peak is base_lr * batch_size / 256.
    base_min_lr=5e-7,
    warmup_epochs=10.0,
    b2=0.999,
    # Factor on the learning rate from one layer to the one below.
    layer_decay=Number(0.75, 1e-9, 1),
  ),
  mesh=config_lib.DEFAULTS['mesh'],
  checkpoint=config_lib.DEFAULTS['checkpoint'],
  log=_take('log', 'every_steps profile'),
)


def default() -> ml_collections.ConfigDict:
  """The config of `DEFAULTS`; setting a key that does not exist is an error."""
  return config_lib.make_config(DEFAULTS)


def implied() -> ml_collections.ConfigDict:
  """The values of keys that a stored config lacks because it is older than they are."""
  config = default()
  config.update_from_flattened_dict(config_lib.EARLIER)
  return config


def recipe(c, *, videos: int, repeats: int, lr: float, min_lr: float = 1e-6, epochs: int) -> None:
  """Sets batch, learning rate and length as the papers' scripts write them.

  Args:
    videos: Videos in a step, over all devices.
    repeats: Clips cut from each video (`num_sample`), which the other numbers do not count.
    lr: Peak learning rate for 256 videos.
    epochs: Passes over the videos, of which 5 warm up.
  """
  c.batch_size, c.data.repeats = videos * repeats, repeats
  c.epochs, c.optimizer.warmup_epochs = float(epochs * repeats), 5.0 * repeats
  c.optimizer.base_lr, c.optimizer.base_min_lr = lr / repeats, min_lr / repeats


def check(config: ml_collections.ConfigDict, *, devices: int) -> None:
  """Raises a UserError for values that cannot work, alone or together."""
  if 'mixing' not in config:
    raise UserError(
      f'this config (method {config.get("method", "unknown")!r}) is not for fine-tuning: take '
      '--config=configs/finetune.py:SIZE,DATASET.'
    )
  config_lib.check_shared(config, DEFAULTS, devices=devices)
  grid = tuple(config.model.position_grid)
  if len(grid) != 3 or not all(isinstance(n, int) and n > 0 for n in grid):
    raise UserError(f'model.position_grid is {grid}: it takes three whole numbers above 0.')
  area = tuple(config.data.crop_area)
  if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    raise UserError(f'data.crop_area is {area}: it takes two shares, such as 0.08,1.')
