"""A clip's random keys on the devices, one for each purpose."""

import jax

from vmae_jax.types import Array, Int32, Key

# Purpose -> the number that is folded into the clip's key. Maskings get the key itself and may
# split it or fold in small numbers, so that the other purposes of pre-training have large numbers;
# fine-tuning has no masks. Runs continue bit for bit only as long as these numbers do not change.
PURPOSES = {
  'mask': None,
  'look': 10**6,
  'decoded share': 10**6 + 1,
  'order of frames': 10**6 + 2,
  'erased box': 0,
  'mixing': 1,
  'dropped branches': 2,
}


def clip_keys(seed: int, batch: dict[str, Array], purpose: str) -> Key[Array, ' b']:
  """One key for each clip, for one purpose: a function of (seed, epoch, sample, repeat) alone.

  Args:
    seed: The seed of the run.
    batch: From the loader, with `epoch`, `sample` and `repeat` of each clip.
    purpose: A key of PURPOSES.
  """
  number = PURPOSES[purpose]

  def key_of(epoch: Int32[Array, ''], sample: Int32[Array, ''], repeat: Int32[Array, '']):
    key = jax.random.key(seed)
    for part in (epoch, sample, repeat) if number is None else (epoch, sample, repeat, number):
      key = jax.random.fold_in(key, part)
    return key

  return jax.vmap(key_of)(batch['epoch'], batch['sample'], batch['repeat'])
