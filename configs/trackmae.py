"""TrackMAE: pixels, and the steps of points that are tracked through the clip.

Paper: Vandeghen et al., TrackMAE: Video Representation Learning via Track Mask and Predict, CVPR
2026, arXiv 2603.27268, and its released code.

  python -m vmae_jax.pretrain --config=configs/trackmae.py:b,k400 --workdir=runs/trackmae_b_k400 \
    --config.data.train=lists/k400_train.txt

Arguments as in videomae.py, which also has all values that are not named here, and NAME_released.

From the paper: 80 % hidden; half of the visible places are drawn from those with much motion, half
from the others. Two decoders: 4 blocks for pixels, 2 for the steps of a token's 4 points. These
points start at the token's place in the *first* frame, so a token late in the clip predicts where
the content of that place has moved. Losses 1:1; a step for each time slot, the last one repeated;
800 epochs, 512 clips in a step.
Our choice: points follow the built-in optical flow from slot to slot (there CoTracker3), on a grid
of 28 x 28 (there 14 x 14, interpolated with `--upsample`). Steps are normalised by their deviation
over a token's points plus a fifth of a pixel, and their mean is predicted, too, as in mme.py;
NAME_released has neither. Points that have left the frame do not count (there they do).

The paper's best model predicts CLIP's features in place of pixels, with a weight of 0.25 for
tracks. CLIP cannot be loaded here; your own teacher can: as in mvd.py, with normalise='clip'.

Cost of a step, ViT-B, in GFLOP a clip (counted): 350, without flow and tracks, which are not matrix
products (VideoMAE: 203 with 90 % hidden, 294 with 80 %).
Expected after fine-tuning (the authors' table, ViT-B, 800 epochs of K400, pixels): SSv2 70.1, K400
80.8. Here: not trained at this size yet.
"""

from configs import videomae

RELEASED = '_released'


def get_config(arg=None):
  released = (arg or '').endswith(RELEASED)
  arg = arg and arg.removesuffix(RELEASED)
  c = videomae.get_config(arg, file='configs/trackmae.py')
  c.method = 'trackmae'
  c.masking.name = 'motion_bins'
  c.tracking.rate = 'slot'
  if arg not in ('demo', 'videos', 'smoke'):
    c.epochs = c.epochs and 800.0
    c.masking.ratio = 0.8
  if arg and ',k400' in arg:
    c.batch_size = 512
  with c.heads.unlocked():
    c.heads.tracks = dict(
      target='trajectory',
      # `scale` does not change the deviations; with it values of the mean step are about 1.
      options=dict(normalise='patch_std', eps=5e-8)  # 1e-6 pixels.
      if released
      else dict(normalise='patch_std', mean=True, scale=2.0, eps=0.1),
      loss='mse',
      weight=1.0,
      decoder='track_decoder',
    )
  c.decoders.track_decoder = dict(depth=1 if c.model.size == 'demo' else 2)
  return c
