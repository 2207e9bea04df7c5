"""What is predicted: functions from a clip to a value for every token."""

from vmae_jax.targets.codes import codes
from vmae_jax.targets.frame_difference import frame_difference
from vmae_jax.targets.pixels import pixels

# (clip Float 'b T H W C' in [0, 1], flow, *, patch, **options) -> Float 'b n p', or Int 'b n f'
# of codes; `codes` also takes the frozen tokenizer.
TARGETS = {'pixels': pixels, 'frame_difference': frame_difference, 'codes': codes}
