"""Maskings: functions that choose which tokens are hidden."""

from vmae_jax.masking.blocks import blocks
from vmae_jax.masking.decoder import random_share, running_cell
from vmae_jax.masking.mask import Mask, split
from vmae_jax.masking.motion_bins import motion_bins
from vmae_jax.masking.motion_guided import motion_guided
from vmae_jax.masking.moving_block import moving_block
from vmae_jax.masking.random import frame, per_slot, random, tube

# (key, clip, flow, *, grid, ratio, **options) -> Mask, for one clip:
#   key    the clip's key
#   clip   'T H W C' in [0, 1]; the functions here use only its shape
#   flow   flow of the pairs that the decorator `motion.flow.needs_flow` declares, or None
#   grid   tokens (t, h, w)
#   ratio  share of hidden tokens
MASKINGS = {
  'tube': tube,
  'per_slot': per_slot,
  'random': random,
  'frame': frame,
  'blocks': blocks,
  'motion_guided': motion_guided,
  'motion_bins': motion_bins,
  'moving_block': moving_block,
}

# (key, mask, *, grid, ratio) -> Mask with the tokens that are decoded, for one clip.
DECODER_MASKINGS = {'running_cell': running_cell, 'random': random_share}

__all__ = ['DECODER_MASKINGS', 'MASKINGS', 'Mask', 'split']
