"""Which tokens are hidden: rules from a clip's key (and motion) to a `Mask`."""

from vmae_jax.masking.decoder import random_share, running_cell
from vmae_jax.masking.mask import Mask, split
from vmae_jax.masking.motion_guided import flow_pairs, motion_guided
from vmae_jax.masking.random import frame, per_slot, random, tube

# (key, clip, flow, *, grid, ratio, **options) -> Mask, for one clip.
MASKINGS = {
  'tube': tube,
  'per_slot': per_slot,
  'random': random,
  'frame': frame,
  'motion_guided': motion_guided,
}

# Rules that ask for optical flow: (frames, **options) -> the pairs of frames.
FLOW_PAIRS = {'motion_guided': flow_pairs}

# (key, mask, *, grid, ratio) -> Mask: which tokens are decoded, for one clip.
DECODER_MASKINGS = {'running_cell': running_cell, 'random': random_share}

__all__ = ['DECODER_MASKINGS', 'FLOW_PAIRS', 'MASKINGS', 'Mask', 'split']
