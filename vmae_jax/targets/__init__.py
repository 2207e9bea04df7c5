"""Targets: functions from a clip to the values to predict for every token."""

from vmae_jax.targets.codes import codes
from vmae_jax.targets.features import features
from vmae_jax.targets.flow_histograms import hof, mbh
from vmae_jax.targets.frame_difference import frame_difference
from vmae_jax.targets.hog import aligned_hog, hog_target
from vmae_jax.targets.optical_flow import optical_flow
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.trajectory import trajectory

# (clip, followed, *, patch, **options) -> Float 'b n p', Int 'b n f' of codes, or a `Target`:
#   clip      'b T H W C', uint8 or floats in [0, 1], not normalised
#   followed  points that follow the flow, or None, see `motion.follow.Followed`
#   patch     size of a patch in frames, rows and columns
# A decorator declares what else a function needs: `target.needs`, `motion.flow.needs_flow`.
TARGETS = {
  'pixels': pixels,
  'frame_difference': frame_difference,
  'optical_flow': optical_flow,
  'codes': codes,
  'features': features,
  'hof': hof,
  'mbh': mbh,
  'hog': hog_target,
  'aligned_hog': aligned_hog,
  'trajectory': trajectory,
}
