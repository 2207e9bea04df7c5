"""MotionMAE: masked pixels and frame differences, masks drawn anew in every time slot.

Paper: Yang et al., Self-supervised Video Representation Learning with Motion-Aware Masked
Autoencoders, BMVC 2024, arXiv 2210.04154. Its authors have published no code.

  python -m vmae_jax.pretrain --config=configs/motionmae.py:b,ssv2 --workdir=runs/motion_b_ssv2 \
    --config.data.train=lists/ssv2_train.txt

Arguments: SIZE,DATASET with SIZE in tiny s b l h giant, DATASET in k400 ssv2 ucf101 few; `demo`,
`videos`, `smoke` as in videomae.py, which also has all values that are not named here.

From the paper: two heads on the same masked tokens, losses 1:1, each a mean squared error; masks
per time slot, 90 %; the difference of adjacent sampled frames. The default is its variant "Sha",
one decoder with two output layers; for "Ind", two decoders (about 1.6 times the FLOPs of a step),
add --config.heads.motion.decoder=motion_decoder. Another loss:
--config.heads.motion.loss=smooth_l1.
Our choice, where the text does not say: signed RGB differences, the first one repeated, each
patch normalised by its deviation plus 0.03; VideoMAE's recipe, also its masking ratio for UCF101.
Positions are fixed; in the paper they are learnt.
Expected after fine-tuning, according to the abstract: 1.2 points above prior work on SSv2 and
3.2 on UCF101 (ViT-B, pre-trained on the same set).
Measured here: the demo's frozen encoder, attentive probe, made-up clips, mean of five seeds:
75.8 of 100 on motions and 22.4 on looks; untrained 58.0 and 15.1 (vmae_jax/compare).
"""

from configs import videomae


def get_config(arg=None):
  c = videomae.get_config(arg, file='configs/motionmae.py')
  c.method = 'motionmae'
  c.masking.name = 'per_slot'
  motion = c.heads.pixels.copy_and_resolve_references()
  motion.target = 'frame_difference'
  motion.options = dict(normalise='patch', eps=0.03)
  with c.heads.unlocked():
    c.heads.motion = motion
  if arg in ('demo', 'smoke'):  # Ours: a small model learns raw motion sooner than its shape.
    motion.options = dict(normalise='global', scale=0.12)
  return c
