"""Which tokens are hidden: rules from a clip's key (and motion) to a `Mask`."""

from vmae_jax.masking.decoder import running_cell
from vmae_jax.masking.mask import Mask, split
from vmae_jax.masking.random import frame, per_slot, random, tube

# (key, clip, flow, *, grid, ratio, **options) -> Mask, for one clip.
MASKINGS = {'tube': tube, 'per_slot': per_slot, 'random': random, 'frame': frame}

# (key, mask, *, grid, ratio) -> Mask: which tokens are decoded, for one clip.
DECODER_MASKINGS = {'running_cell': running_cell}

__all__ = ['DECODER_MASKINGS', 'MASKINGS', 'Mask', 'split']
