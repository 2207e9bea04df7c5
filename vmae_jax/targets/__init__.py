"""What is predicted: functions from a clip to a value for every token."""

from vmae_jax.targets.codes import codes
from vmae_jax.targets.frame_difference import frame_difference
from vmae_jax.targets.hog import aligned_hog_target, hog_target
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.trajectory import trajectory_target

# (clip Float 'b T H W C' in [0, 1], followed, *, patch, **options) -> Float 'b n p', Int 'b n f' of
# codes, or a `Target`; `codes` also takes the frozen tokenizer.
TARGETS = {
  'pixels': pixels,
  'frame_difference': frame_difference,
  'codes': codes,
  'hog': hog_target,
  'aligned_hog': aligned_hog_target,
  'trajectory': trajectory_target,
}

# Targets that need points to be followed.
TRACKED = ('trajectory', 'aligned_hog')
