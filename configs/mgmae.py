"""MGMAE: masks that follow the motion.

Paper: Huang et al., MGMAE: Motion Guided Masking for Video Masked Autoencoding, ICCV 2023,
arXiv 2308.10794.

  python -m vmae_jax.pretrain --config=configs/mgmae.py:b,ssv2 --workdir=runs/mgmae_b_ssv2 \
    --config.data.train=lists/ssv2_train.txt

Arguments: SIZE,DATASET with SIZE in tiny s b l h giant, DATASET in k400 ssv2 ucf101 few (VideoMAE's
recipe, for a fair comparison) or k400_own ssv2_own (MGMAE's); `demo`, `videos`, `smoke` as in
videomae.py, which also has all values that are not named here.

The paper's gain over VideoMAE comes with another recipe: four clips from each decoded video, a
batch of 1,536 clips and a peak learning rate of 1.5e-3 after 80 epochs. Its own baseline is tube
masking under that recipe: mgmae.py:b,ssv2_own with --config.masking.name=tube.

Our choice: flow by the built-in estimator, which needs no weights (`motion.name`). Where the
released code differs from the paper, its behaviour is an option of the masking, off by default
(vmae_jax/masking/motion_guided.py names them).
Expected after fine-tuning (the authors' model zoo, ViT-B, top-1): SSv2 71.0 (800 epochs) and
72.3 (2400), K400 81.2 (800) and 81.8 (1600), with MGMAE's recipe and RAFT-small's flow.
Measured here: the demo's frozen encoder, attentive probe, made-up clips, mean of five seeds:
49.7 of 100 on motions and 27.2 on looks; untrained 58.0 and 15.1 (vmae_jax/compare).
"""

from configs import videomae

OWN = '_own'


def get_config(arg=None):
  own = (arg or '').endswith((f',k400{OWN}', f',ssv2{OWN}'))
  c = videomae.get_config(arg.removesuffix(OWN) if own else arg, file='configs/mgmae.py')
  c.method = 'mgmae'
  c.masking.name = 'motion_guided'
  if own:
    c.epochs, c.batch_size, c.data.repeats = 800.0, 1536, 4
    c.optimizer.base_lr, c.optimizer.base_min_lr = 2.5e-4, 2.5e-6  # Times 6: 1.5e-3, 1.5e-5.
    c.optimizer.warmup_epochs = 80.0
  return c
