"""MME: Masked Motion Encoding (Sun et al., CVPR 2023), trajectories and HOG along them.

  python -m vmae_jax.pretrain --config=configs/mme.py:b,k400 --workdir=runs/mme_b_k400 \
    --config.data.train=lists/k400_train.txt

For each hidden token it predicts how 4 points in it move over the next frames of the video (also
those that the encoder does not see), and histograms of oriented gradients (HOG, `shape` here). Tube
masking of 70 %. All targets are computed on the device from the clip, by default with a flow
estimator that needs no weights; the release extracts flow and trajectories beforehand.

SIZE,DATASET, `demo`, `videos` and `smoke` as in videomae.py. k400, ssv2 and ucf101 are our default
(`clean`). NAME_paper (such as k400_paper) is what the paper describes, as far as its text and code
say. NAME_released is what the released script for K400 does:

                        clean              paper             released
  steps                 6                  6                 4
  flow look-up          bilinear           bilinear, median  truncated to whole pixels
  of the points' steps  deviations, mean   deviations        deviations
  shapes                1 frame, L2        along, L2         1 frame, not normalised
  decoder               1 block of 192     2 of 2 x 384      1 block of 192
  last activations      sigmoid, none      sigmoid, none     sigmoid, tanh

`clean` also predicts the mean step of a token, because deviations alone do not show the motion of a
token that moves as a whole. Our choice: tanh only in `released`, since it cannot reach a third of
its targets; in `paper`, the decoder (from the code's own FLOP count) and the normalisation (the
text only says that there is one). We do not copy the release's random bias and lost gradients in
HOG, or its lossy flow. The release removes the camera's motion from the flow: here
--config.tracking.camera. The paper compares trajectories with flow, HOF and MBH: heads.motion with
the target optical_flow, hof or mbh, no options, and the activation none.
--config.heads.shape.target=none turns the head for shape off.
The recipe for K400 is the release's; SSv2's was not released (400 epochs, as the table of results
says). UCF101's is VideoMAE's.
Expected after fine-tuning (ViT-B, top-1, the release's table): K400 81.8, SSv2 69.2.
Measured here: the demo's frozen encoder, attentive probe, made-up clips, mean of five seeds:
47.2 of 100 on motions and 9.2 on looks; untrained 58.0 and 15.1 (vmae_jax/compare).
"""

from configs import videomae

PAPER, RELEASED = '_paper', '_released'


def get_config(arg=None):
  mode = next((m for m in (PAPER, RELEASED) if ',' in (arg or '') and arg.endswith(m)), '')
  c = videomae.get_config(arg.removesuffix(mode) if mode else arg, file='configs/mme.py')
  c.method = 'mme'
  if arg and ',ssv2' in arg:
    c.epochs = 400.0
  c.masking.ratio = {'demo': 0.75, 'smoke': 0.5}.get(arg, 0.7)
  small = arg in ('demo', 'videos', 'smoke')
  if not small:
    c.model.decoder_width, c.model.decoder_depth = 192, 1
    c.model.decoder_heads = 3 if c.model.size == 's' else 6
  c.tracking.steps = 3 if small else 6
  # As released: half the sum over a token's values, mean over tokens: 54 = 108 / 2, 16 = 32 / 2.
  shape = dict(
    target='hog',
    options=dict(norm='l2'),
    loss='mse',
    weight=54.0,
    decoder='decoder',
    hidden=512,
    activation='sigmoid',
  )
  # `scale` does not change the deviations; with it values of the mean step are about 1.
  motion = dict(
    target='trajectory',
    options=dict(normalise='patch_std', mean=True, scale=2.0, eps=0.1),
    loss='mse',
    weight=16.0,
    decoder='decoder',
    hidden=512,
    activation='none',
  )
  if mode == PAPER:
    c.model.decoder_width, c.model.decoder_depth = 384, 2
    c.tracking.median = True
    shape |= dict(target='aligned_hog', decoder='shape_decoder')
    motion |= dict(options=dict(normalise='patch_std'), decoder='motion_decoder')
  elif mode == RELEASED:
    c.tracking.steps, c.tracking.integer = 4, True
    shape['options'] = dict(norm='none')
    motion |= dict(options=dict(normalise='patch_std', eps=1e-6), activation='tanh')
  with c.heads.unlocked():
    c.heads = dict(shape=shape, motion=motion)
  return c
